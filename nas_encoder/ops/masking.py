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
    """Return (B, 1, T, 1), 1 for frames within their utterance's length (B,), else 0."""
    index = torch.arange(frames, device=lengths.device)
    return (index[None, :] < lengths[:, None]).to(dtype)[:, None, :, None]


def padding_frames(lengths: Tensor, frames: int) -> Tensor:
    """Return (B, T), true for frames past the end of their utterance, of length (B,)."""
    return torch.arange(frames, device=lengths.device) >= lengths.unsqueeze(1)


def reduced_lengths(lengths: Tensor, factor: int) -> Tensor:
    """Return the length of each utterance after subsampling: (B,) ceil(lengths / factor)."""
    return torch.div(lengths + factor - 1, factor, rounding_mode="floor")


def strided(mask: Tensor | None, stride: int) -> Tensor | None:
    """Return the mask after a reduction in time: (B, 1, ceil(T / stride), 1).

    Output frame t exists if and only if input frame ``stride * t`` does, so a length L becomes
    ceil(L / stride).
    """
    return mask if mask is None or stride == 1 else mask[:, :, ::stride]


def apply_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set the padding frames of (B, C, T, F) or (B, T, C), with a mask that fits, to zero."""
    return x if mask is None else x * mask.to(x.dtype)


def hold_last(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Replace each frame of (B, T, F) past an utterance's end by its last frame.

    ``lengths`` (B,) is None if all frames are valid.
    """
    if lengths is None:
        return x
    index = torch.arange(x.size(1), device=x.device)[None, :].minimum(lengths[:, None] - 1)
    return x.gather(1, index[:, :, None].expand(-1, -1, x.size(2)))


def is_capturing() -> bool:
    """Whether a graph is being captured, in which nothing may depend on data."""
    if torch.compiler.is_compiling() or torch._C._get_tracing_state():
        return True
    return is_recording()


def is_recording() -> bool:
    """Whether CUDA records a graph, which then runs without Python: what is drawn here stays."""
    if torch.compiler.is_compiling():
        return False
    # Not is_available(), which queries the driver on every call.
    started: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return started and torch.cuda.is_current_stream_capturing()


def is_tracing() -> bool:
    """Whether torch.jit is recording a graph, in which sizes are tensors too."""
    # Not torch.jit.is_tracing: it is False in NeMo's export, which pretends to be scripting.
    return not torch.compiler.is_compiling() and torch._C._get_tracing_state() is not None


def is_recomputing() -> bool:
    """Whether a checkpointed segment is being recomputed for its backward pass."""
    # Compilers cannot read a context variable, and recompute without running the module.
    return not torch.compiler.is_compiling() and _recomputing.get()


@contextlib.contextmanager
def recomputing() -> Iterator[None]:
    """Mark a second forward pass, which must not update running statistics again."""
    token = _recomputing.set(True)
    try:
        yield
    finally:
        _recomputing.reset(token)
