"""Delta features inside the network, so that they can respect each utterance's own end."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.ops.masking import apply_mask, frame_mask, hold_last

WINDOW = 2  # frames on either side, as in Kaldi's add-deltas and HTK


def delta(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Return the regression slope over 5 frames, (B, T, F) to (B, T, F).

    ``sum_n n (x[t+n] - x[t-n]) / (2 sum_n n^2)``, n = 1, 2; past either end of the utterance
    its first or last frame is repeated, so frames that follow it in a batch are ignored.

    Args:
        x: (B, T, F).
        lengths: (B,), or None if all frames are valid.
    """
    frames = x.size(1)
    held = hold_last(x, lengths).transpose(1, 2)  # (B, F, T)
    held = F.pad(held, (WINDOW, WINDOW), mode="replicate").transpose(1, 2)
    total = torch.zeros_like(x)
    for n in range(1, WINDOW + 1):
        later = held[:, WINDOW + n : WINDOW + n + frames]
        earlier = held[:, WINDOW - n : WINDOW - n + frames]
        total = total + n * (later - earlier)
    return total / (2 * sum(n * n for n in range(1, WINDOW + 1)))


def with_deltas(x: Tensor, lengths: Tensor | None) -> Tensor:
    """Stack static, delta and delta-delta features as channels: (B, T, F) to (B, 3, T, F)."""
    first = delta(x, lengths)
    return torch.stack([x, first, delta(first, lengths)], dim=1)


def input_image(x: Tensor, lengths: Tensor | None, deltas: bool) -> tuple[Tensor, Tensor | None]:
    """Return a network's input (B, 1 or 3, T, F), zero in padding, and its mask (B, 1, T, 1).

    Args:
        x: (B, T, F); values in padding frames are ignored.
        lengths: (B,), or None if no utterance is padded.
        deltas: Whether to append delta and delta-delta features.
    """
    mask = None
    if lengths is not None:
        mask = frame_mask(lengths, x.size(1), x.dtype)
        x = x.masked_fill(mask[:, 0] == 0, 0.0)  # not a product: padding may be NaN
    image = with_deltas(x, lengths) if deltas else x[:, None]
    return apply_mask(image, mask), mask  # a delta is not zero just after the last frame


def input_frames(x: Tensor, lengths: Tensor | None, deltas: bool) -> tuple[Tensor, Tensor | None]:
    """Return the same as frames, (B, T, F or 3F), with a mask (B, T, 1)."""
    image, mask = input_image(x, lengths, deltas)
    return image.transpose(1, 2).flatten(2), None if mask is None else mask[:, 0]
