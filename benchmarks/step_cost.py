"""Cost of one training step: seconds, memory, launches, on CPU and GPU."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# Operators that run nothing: views and allocations.
NO_KERNEL = frozenset(
    "alias as_strided detach empty empty_like empty_strided expand narrow permute reshape "
    "resize_ result_type select slice split t to transpose unbind unflatten unfold unsqueeze "
    "squeeze view view_as _reshape_alias _unsafe_view lift_fresh resolve_conj resolve_neg "
    "is_nonzero".split()
)


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes."""
    with open("/proc/self/status", encoding="ascii") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise RuntimeError(f"{field} is not in /proc/self/status: memory is measured on Linux alone")


def begin_peak(device: torch.device) -> int:
    """Return the memory in use, and reset the peak."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    ctypes.CDLL(None).malloc_trim(0)
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")  # resets VmHWM
    return resident("VmRSS")


def end_peak(device: torch.device, before: int) -> int:
    """Return the peak since :func:`begin_peak`, above the memory in use then."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated()) - before
    return max(0, resident("VmHWM") - before)


def saved_bytes(step: Callable[[], Any], network: nn.Module) -> int:
    """Return the most bytes that autograd keeps for a backward pass, counting tensors once."""
    own = {p.untyped_storage().data_ptr() for p in network.parameters()}
    seen: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step()
    return sum(seen.values())


def launches(step: Callable[[], Any], device: torch.device) -> tuple[int, list[list[Any]]]:
    """Return how many kernels (CPU: operators that call no other) ran, and the costliest."""
    activities = [torch.profiler.ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(torch.profiler.ProfilerActivity.CUDA)
    with torch.profiler.profile(activities=activities) as profile:
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
    if device.type == "cuda":
        kind = torch.autograd.DeviceType.CUDA
        count = sum(1 for event in profile.events() if event.device_type == kind)
    else:
        count = sum(
            1
            for event in profile.events()
            if event.name.startswith("aten::")
            and not event.cpu_children
            and event.name.removeprefix("aten::") not in NO_KERNEL
        )
    field = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
    rows = sorted(profile.key_averages(), key=lambda row: -getattr(row, field))[:12]
    total = sum(getattr(row, field) for row in profile.key_averages()) or 1
    return count, [[row.key, row.count, round(getattr(row, field) / total, 3)] for row in rows]
