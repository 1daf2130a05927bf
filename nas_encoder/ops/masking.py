"""Frame masks: which frames of a padded batch belong to an utterance.

B batch, C channels, T frames, F frequency bins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

import torch
from torch import Tensor

_recomputing: ContextVar[bool] = ContextVar("nas_encoder_recomputing", default=False)


def frame_mask(lengths: Tensor, frames: int, dtype: torch.dtype) -> Tensor:
    """Return (B, 1, T, 1), 1 where a frame's index is below the utterance's length, else 0.

    Args:
        lengths: (B,) integer.
        frames: T.
        dtype: Data type of the result.
    """
    index = torch.arange(frames, device=lengths.device)
    return (index[None, :] < lengths[:, None]).to(dtype)[:, None, :, None]


def reduced_lengths(lengths: Tensor, factor: int) -> Tensor:
    """Return the frames that are left of each utterance: (B,) ceil(lengths / factor)."""
    return torch.div(lengths + factor - 1, factor, rounding_mode="floor")


def strided(mask: Tensor | None, stride: int) -> Tensor | None:
    """Return the mask after a reduction in time: (B, 1, ceil(T / stride), 1).

    Frame t of the output exists if and only if frame ``stride * t`` of the input does, so a
    length L becomes ceil(L / stride).
    """
    return mask if mask is None or stride == 1 else mask[:, :, ::stride]


def apply_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set the padding frames of (B, C, T, F) to zero."""
    return x if mask is None else x * mask.to(x.dtype)


def hold_last(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Replace each frame past an utterance's end by its last frame.

    Args:
        x: (B, T, F).
        lengths: (B,), or None where all frames are valid.
    """
    if lengths is None:
        return x
    index = torch.arange(x.size(1), device=x.device)[None, :].minimum(lengths[:, None] - 1)
    return x.gather(1, index[:, :, None].expand(-1, -1, x.size(2)))


def is_capturing() -> bool:
    """Whether a graph is being captured, in which nothing may depend on data."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return True
    # Not is_available(), which asks the driver at every call.
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started and torch.cuda.is_current_stream_capturing()


def is_tracing() -> bool:
    """Whether torch.jit records a graph, in which sizes are tensors too."""
    # Not torch.jit.is_tracing: NeMo's export pretends to be scripting, and it says no then.
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def is_recomputing() -> bool:
    """Whether a checkpointed segment is being run a second time, for its backward pass."""
    # A compiler cannot look at a context variable, and recomputes without running the module.
    return not torch.compiler.is_compiling() and _recomputing.get()


@contextlib.contextmanager
def recomputing() -> Iterator[None]:
    """Mark a second forward pass, in which running statistics must not move again."""
    token = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(token)
