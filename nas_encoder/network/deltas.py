"""Delta features inside the network, so that they can respect each utterance's own end."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.ops.chunks import Chunk, aligned, size_of
from nas_encoder.ops.masking import apply_mask, frame_mask, hold_last

WINDOW = 2  # frames on either side, as in Kaldi's add-deltas and HTK
SPAN = 2 * WINDOW  # frames besides the one in the middle


def delta(x: Tensor, lengths: Tensor | None, causal: bool = False) -> Tensor:
    """Return the regression slope over 5 frames, (B, T, F) to (B, T, F).

    ``sum_n n (x[t+n] - x[t-n]) / (2 sum_n n^2)``, n = 1, 2; past either end of the utterance
    its first or last frame is repeated, so frames that follow it in a batch are ignored.

    Args:
        x: (B, T, F).
        lengths: (B,), or None if all frames are valid.
        causal: Whether the last of the 5 frames is that of the output, instead of the middle one.
    """
    if causal:  # what is past the end is not seen from before it
        return _slopes(F.pad(x.transpose(1, 2), (SPAN, 0), mode="replicate").transpose(1, 2))
    held = hold_last(x, lengths).transpose(1, 2)  # (B, F, T)
    return _slopes(F.pad(held, (WINDOW, WINDOW), mode="replicate").transpose(1, 2))


def _slopes(held: Tensor) -> Tensor:
    """Return the slopes over 5 frames of (B, T + 4, F), (B, T, F)."""
    frames = held.size(1) - SPAN
    total = torch.zeros_like(held[:, :frames])
    for n in range(1, WINDOW + 1):
        later = held[:, WINDOW + n : WINDOW + n + frames]
        earlier = held[:, WINDOW - n : WINDOW - n + frames]
        total = total + n * (later - earlier)
    return total / (2 * sum(n * n for n in range(1, WINDOW + 1)))


def with_deltas(x: Tensor, lengths: Tensor | None, causal: bool = False) -> Tensor:
    """Stack static, delta and delta-delta features as channels: (B, T, F) to (B, 3, T, F)."""
    first = delta(x, lengths, causal)
    return torch.stack([x, first, delta(first, lengths, causal)], dim=1)


def input_image(
    x: Tensor, lengths: Tensor | None, deltas: bool, causal: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Return a network's input (B, 1 or 3, T, F), zero in padding, and its mask (B, 1, T, 1).

    Args:
        x: (B, T, F); values in padding frames are ignored.
        lengths: (B,), or None if no utterance is padded.
        deltas: Whether to append delta and delta-delta features.
        causal: Whether these see no frames ahead.
    """
    mask = None
    if lengths is not None:
        mask = frame_mask(lengths, x.size(1), x.dtype)
        x = x.masked_fill(mask[:, 0] == 0, 0.0)  # not a product: padding may be NaN
    image = with_deltas(x, lengths, causal) if deltas else x[:, None]
    return apply_mask(image, mask), mask  # a delta is not zero just after the last frame


def input_frames(x: Tensor, lengths: Tensor | None, deltas: bool) -> tuple[Tensor, Tensor | None]:
    """Return the same as frames, (B, T, F or 3F), with a mask (B, T, 1)."""
    image, mask = input_image(x, lengths, deltas)
    return image.transpose(1, 2).flatten(2), None if mask is None else mask[:, 0]


class DeltaStream:
    """The same image of frames as they arrive, as (B, t, F, 1 or 3).

    Args:
        deltas: As of :func:`input_image`.
        causal: As of :func:`input_image`.
    """

    def __init__(self, deltas: bool, causal: bool = False) -> None:
        self.deltas, self.ahead = deltas, 0 if causal else WINDOW

    def first_cache(self, empty: Tensor) -> tuple[Tensor, ...]:
        """Return the caches of streams (B, 0, F): of both slopes, and what waits."""
        if not self.deltas:
            return ()
        before = empty.new_zeros(empty.size(0), SPAN - self.ahead, empty.size(2))
        return (before, before, *(empty,) * 3)

    def step(self, chunk: Chunk, cache: tuple[Tensor, ...]) -> tuple[Chunk, tuple[Tensor, ...]]:
        """Map a chunk (B, t, F), zero past the ends, to the frames (B, t', F, C) that are complete.

        They are zero past the ends, too.
        """
        if not self.deltas:
            return chunk.holding(chunk.x.unsqueeze(3)), ()
        first, own = self._slopes(chunk, cache[0])
        second, other = self._slopes(first, cache[1])
        ready, waiting = aligned((chunk, first, second), cache[2:])
        image = ready[0].holding(torch.stack([part.x for part in ready], dim=3))
        return image.holding(image.cleared()), (own, other, *waiting)

    def step_frames(
        self, chunk: Chunk, cache: tuple[Tensor, ...]
    ) -> tuple[Chunk, tuple[Tensor, ...]]:
        """Do the same for :func:`input_frames`, (B, t', F or 3F)."""
        out, cache = self.step(chunk, cache)
        return out.holding(out.x.transpose(2, 3).flatten(2)), cache

    def _slopes(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        if chunk.start == 0 and chunk.size:  # the first frame stands for those before it
            cache = chunk.x[:, :1].expand(-1, SPAN - self.ahead, -1)
        joined = chunk.after(cache)
        x = _held(joined)
        if chunk.last:
            x = torch.cat((x, x[:, -1:].expand(-1, self.ahead, -1)), 1)
        count = max(0, size_of(x, 1) - SPAN)
        slopes = _slopes(x) if count else chunk.x[:, :0]
        start = joined.start + SPAN - self.ahead
        return replace(joined, x=slopes, start=start), x[:, count:].clone()


def _held(chunk: Chunk) -> Tensor:
    """Return frames with the first and the last of each utterance in place of those beyond."""
    if chunk.lengths is None and chunk.begins is None:
        return chunk.x
    places = torch.arange(chunk.start, chunk.end, device=chunk.x.device).unsqueeze(0)
    if chunk.begins is not None:
        places = places.maximum(chunk.begins.unsqueeze(1))
    if chunk.lengths is not None:
        places = places.minimum(chunk.lengths.unsqueeze(1) - 1)
    # What was kept of an utterance that has ended holds its last frame already.
    places = (places - chunk.start).clamp(0, chunk.size - 1).expand(chunk.x.size(0), -1)
    return chunk.x.gather(1, places.unsqueeze(2).expand(-1, -1, chunk.x.size(2)))
