"""Checks of an encoder's inputs, shared by searched networks and baselines."""

from __future__ import annotations

import torch
from torch import Tensor

from nas_encoder.errors import InputError, UtteranceTooShortError


def check_inputs(x: Tensor, lengths: Tensor, input_size: int, min_length: int) -> bool:
    """Check a padded batch; return whether any utterance is padded.

    Args:
        x: (B, T, F).
        lengths: (B,) integer.
        input_size: F, as the network was built.
        min_length: The fewest frames of an utterance.

    Raises:
        InputError: A shape, a length or a value in a valid frame is wrong.
        UtteranceTooShortError: An utterance has fewer than ``min_length`` frames.
    """
    if x.dim() != 3 or not x.is_floating_point():
        raise InputError(f"features must be float (B, T, F), got {x.dtype} {tuple(x.shape)}")
    batch, frames, bins = x.shape
    if bins != input_size:
        raise InputError(
            f"features must have {input_size} frequency bins (input_size), got {bins} in "
            f"{tuple(x.shape)}"
        )
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise InputError(
            f"lengths must be integers of shape ({batch},), got {lengths.dtype} "
            f"{tuple(lengths.shape)}"
        )
    if batch == 0:
        raise InputError("features must hold at least one utterance, got none")
    shortest, longest = (int(value) for value in torch.aminmax(lengths))
    if shortest < min_length:
        raise UtteranceTooShortError(
            f"utterance {int(lengths.argmin())} of the batch has {shortest} frames; at least "
            f"{min_length} are needed for one output frame",
            shortest,
            min_length,
        )
    if longest > frames:
        raise InputError(
            f"lengths must be at most the number of frames {frames}, got {longest} for utterance "
            f"{int(lengths.argmax())}"
        )
    _check_finite(x, lengths)
    return shortest < frames


def _check_finite(x: Tensor, lengths: Tensor) -> None:
    # A sum is finite only if every term is; it may overflow, so the exact check below decides.
    if bool(torch.isfinite(x.sum())):
        return
    valid = torch.arange(x.size(1), device=x.device)[None, :] < lengths[:, None]
    bad = ~torch.isfinite(x).all(dim=2) & valid
    if bool(bad.any()):
        utterance, frame = (int(i) for i in bad.nonzero()[0])
        raise InputError(
            f"features of utterance {utterance} of the batch are NaN or infinite, first in frame "
            f"{frame}; look at its audio and at the normalization"
        )
