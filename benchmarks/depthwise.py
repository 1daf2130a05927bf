"""Our depthwise convolution against PyTorch's, side by side in one process, on the CPU.

For each shape: forward and backward (gradients of input and weight), the median of --repeats
alternating measurements, and how many times faster ours is. ``--json`` prints one object.

    python benchmarks/depthwise.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import sys

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import measure
from nas_encoder.ops.depthwise import depthwise_conv2d

# (B, C, T, F): cells of a small and of the paper's network, before and after the reductions.
SHAPES = ((16, 8, 270, 20), (16, 16, 135, 10), (16, 32, 68, 5), (4, 24, 500, 40))
GEOMETRIES = ((3, 1), (5, 1), (3, 2), (5, 2))  # kernel, dilation


def native(x: Tensor, weight: Tensor, dilation: int) -> Tensor:
    """Convolve with PyTorch's operator."""
    padding = dilation * (weight.size(2) // 2)
    return F.conv2d(x, weight, None, 1, padding, dilation, groups=x.size(1))


def compare(
    shape: tuple[int, int, int, int], kernel: int, dilation: int, channels_last: bool, repeats: int
) -> dict[str, object]:
    """Return both medians and their ratio."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(shape).contiguous(memory_format=layout).requires_grad_()
    weight = torch.randn(shape[1], 1, kernel, kernel, requires_grad=True)
    gradient = torch.randn(shape).contiguous(memory_format=layout)
    calls = {
        "native": lambda: native(x, weight, dilation).backward(gradient),
        "ours": lambda: depthwise_conv2d(x, weight, 1, dilation).backward(gradient),
    }
    medians = {name: 1e3 * found.median for name, found in measure(calls, repeats).items()}
    return {
        "shape": list(shape),
        "kernel": kernel,
        "dilation": dilation,
        "channels_last": channels_last,
        "native_ms": round(medians["native"], 3),
        "ours_ms": round(medians["ours"], 3),
        "speedup": round(medians["native"] / medians["ours"], 2),
    }


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    rows = [
        compare(shape, kernel, dilation, channels_last, args.repeats)
        for shape in SHAPES
        for kernel, dilation in GEOMETRIES
        for channels_last in (False, True)
    ]
    if args.json:
        print(json.dumps({**environment(), "threads": args.threads, "rows": rows}))
        return 0
    print("  ".join(f"{key}: {value}" for key, value in environment().items()))
    print(f"{'shape':<22}kernel dilation layout   native ms   ours ms  speed-up")
    for row in rows:
        layout = "NHWC" if row["channels_last"] else "NCHW"
        print(
            f"{row['shape']!s:<22}{row['kernel']:>6} {row['dilation']:>8} {layout:>6}"
            f"{row['native_ms']:>12} {row['ours_ms']:>9} {row['speedup']:>9}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
