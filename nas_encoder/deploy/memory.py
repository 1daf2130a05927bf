"""The peak of memory during an inference or a training step."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile


def peak_memory(
    module: nn.Module, x: Tensor, call: Callable[[], object], training: bool = False
) -> int:
    """Return the most bytes that are allocated at any time during an inference.

    These are the parameters and buffers of ``module``, the input ``x`` and the most that PyTorch's
    allocator holds for ``call``: all tensors and the scratch memory of PyTorch's own kernels, but
    not what libraries such as oneDNN allocate for themselves. On a CPU it is the same each time.

    Args:
        module: The network, on the device of ``x``.
        x: The input that ``call`` gives it.
        call: Runs the network.
        training: Whether ``call`` is a training step, whose gradients count.
    """
    held = [*module.parameters(), *module.buffers(), x]
    fixed = sum(tensor.numel() * tensor.element_size() for tensor in held)
    with torch.inference_mode(not training):
        call()  # allocates what is kept for later calls
        if training:  # gradients are of the step
            module.zero_grad(set_to_none=True)
        if x.device.type == "cuda":
            torch.cuda.synchronize(x.device)
            torch.cuda.reset_peak_memory_stats(x.device)
            before = torch.cuda.memory_allocated(x.device)
            call()
            torch.cuda.synchronize(x.device)
            return fixed + torch.cuda.max_memory_allocated(x.device) - before
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
            call()
    with TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(path))
        events = json.loads(path.read_text(encoding="utf-8"))["traceEvents"]
    changes = [event for event in events if event.get("name") == "[memory]"]
    live = peak = 0
    for event in sorted(changes, key=lambda event: float(event["ts"])):
        live += int(event["args"]["Bytes"])  # negative where memory is freed
        peak = max(peak, live)
    return fixed + peak
