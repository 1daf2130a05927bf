"""Frames that arrive in chunks, and the windows over them that are complete.

B batch, t frames of a chunk, C features; also (B, t, F, C), frames of F frequency bins.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.ops.masking import is_tracing, reduced_lengths

GOING_ON = 1 << 48  # the length of an utterance whose end has not come; larger than any other


@dataclass(frozen=True)
class Chunk:
    """Consecutive frames of one rate.

    Attributes:
        x: (B, t, C) or (B, t, F, C).
        start: Place of the first one, counted from 0.
        last: Whether none follow.
        lengths: (B,) frames of each utterance at this rate, or None while all go on.
        begins: (B,) place of the first frame of each utterance at this rate; None for 0. What is
            before is treated as what is past the end is.
    """

    x: Tensor
    start: int
    last: bool
    lengths: Tensor | None = None
    begins: Tensor | None = None

    @property
    def size(self) -> int:
        """The number of frames, t."""
        return size_of(self.x, 1)

    @property
    def end(self) -> int:
        """Place after the last frame."""
        return self.start + self.size

    def valid(self, start: int, end: int) -> Tensor | None:
        """Return (B, n), true for frames of utterances, for the places from start to end."""
        if self.lengths is None and self.begins is None:
            return None
        places = torch.arange(start, end, device=self.x.device)
        if self.begins is None:
            assert self.lengths is not None
            return places < self.lengths.unsqueeze(1)
        begun = places >= self.begins.unsqueeze(1)
        return begun if self.lengths is None else begun & (places < self.lengths.unsqueeze(1))

    def mask(self) -> Tensor | None:
        """Return (B, t, 1) of the frames' type, 1 for those of utterances; None if all are."""
        valid = self.valid(self.start, self.end)
        return None if valid is None else valid.unsqueeze(2).to(self.x.dtype)

    def begins_after(self, factor: int) -> Tensor | None:
        """Return ``begins`` where the rate is a ``factor`` lower."""
        if self.begins is None:
            return None
        return torch.div(self.begins, factor, rounding_mode="floor")

    def cleared(self) -> Tensor:
        """Return ``x`` with zeros past the end of each utterance."""
        mask = self.valid(self.start, self.end)
        if mask is None:
            return self.x
        return self.x * mask.view(*mask.shape, *(1,) * (self.x.dim() - 2)).to(self.x.dtype)

    def holding(self, x: Tensor) -> Chunk:
        """Return the same places with other features."""
        return replace(self, x=x)

    def after(self, cache: Tensor) -> Chunk:
        """Return these frames behind those kept before them, (B, n, ...)."""
        kept = size_of(cache, 1)
        if not kept:
            return self
        return replace(self, x=torch.cat((cache, self.x), 1), start=self.start - kept)

    def split(self, count: int) -> tuple[Chunk, Tensor]:
        """Return the first frames, and a copy of the others to be kept."""
        return replace(self, x=self.x[:, :count]), self.x[:, count:].clone()


def size_of(x: Tensor, dimension: int) -> int:
    """Return a size that is a constant in recorded graphs, whose chunks all have one size."""
    size = x.size(dimension)
    return int(size) if is_tracing() else size


def slide(
    chunk: Chunk, cache: Tensor, size: int, step: int = 1, ahead: int = 0
) -> tuple[Chunk, Tensor]:
    """Return the frames under the windows that are complete now, and what is kept.

    Args:
        chunk: Frames (B, t, ...), zero where the windows shall see zeros.
        cache: What was kept, in the beginning as many zeros as windows reach before their frame.
        size: Frames of a window.
        step: Frames from one window to the next, at most ``size``.
        ahead: Zeros that follow the last frame.

    Returns:
        The frames of n windows, (n - 1) step + size of them, or none. Its ``start`` is that of the
        first window's first frame, negative for zeros before the beginning.
    """
    joined = chunk.after(cache)
    x = joined.x
    if chunk.last and ahead:
        x = F.pad(x, (0, 0) * (x.dim() - 2) + (0, ahead))
    count = max(0, (size_of(x, 1) - size) // step + 1)
    used = x[:, : (count - 1) * step + size] if count else x[:, :0]
    return replace(joined, x=used), x[:, count * step :].clone()


def aligned(
    arrived: Sequence[Chunk], waiting: Sequence[Tensor]
) -> tuple[list[Chunk], tuple[Tensor, ...]]:
    """Return the frames that have arrived on every way, and those that wait for the others.

    Args:
        arrived: Chunks of one rate, at the same places but for what is still on its way.
        waiting: What waited before, one for each; (B, 0, ...) in the beginning.
    """
    joined = [chunk.after(kept) for chunk, kept in zip(arrived, waiting, strict=True)]
    assert len({chunk.start for chunk in joined}) == 1
    count = min(chunk.size for chunk in joined)
    pairs = [chunk.split(count) for chunk in joined]
    return [ready for ready, _ in pairs], tuple(kept for _, kept in pairs)


@dataclass(frozen=True)
class Window:
    """The frames that an output frame is made of.

    Attributes:
        before: How many before the first of its own.
        ahead: How many after it.
        stride: Frames from one output frame to the next: its own.
    """

    before: int
    ahead: int
    stride: int = 1

    @property
    def size(self) -> int:
        """The number of frames."""
        return self.before + 1 + self.ahead

    @property
    def context(self) -> tuple[int, int]:
        """Frames before and ahead."""
        return self.before, self.ahead

    @property
    def delay(self) -> int:
        """How many frames it lies further back than if its middle were the first of its own."""
        return (self.before - self.ahead) // 2

    def causal(self) -> Window:
        """Return the same window, moved back so that it ends with the frame's own."""
        ahead = min(self.ahead, self.stride - 1)
        return replace(self, before=self.size - 1 - ahead, ahead=ahead)

    def then(self, other: Window) -> Window:
        """Return the window of both, one after the other."""
        before, ahead = (self.stride * reach for reach in other.context)
        return Window(self.before + before, self.ahead + ahead, self.stride * other.stride)

    def first_cache(self, empty: Tensor) -> Tensor:
        """Return what is kept in the beginning: zeros before the first frame, (B, before, F, C).

        ``empty`` is (B, 0, F, C), of the frames that will come.
        """
        batch, _, *rest = empty.shape
        return empty.new_zeros(batch, self.before, *rest)

    def step(
        self,
        chunk: Chunk,
        cache: Tensor,
        run: Callable[[Tensor, Chunk], Tensor],
        shape: tuple[int, ...],
    ) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, F, C) to the frames that are complete.

        Args:
            chunk: Zero past the end of each utterance.
            cache: What was kept.
            run: Maps images (B, C, n, F), the frames under complete windows, to (B, C', t', F').
                The chunk holds the same frames with their places.
            shape: (F', C').

        Returns:
            (B, t', F', C') at the rate of the windows, where frames past the end of an utterance
            hold anything, and what is kept.
        """
        under, cache = self._under(chunk, cache)
        if under.size:
            x = run(under.x.permute(0, 3, 1, 2), under).permute(0, 2, 3, 1)
        else:
            x = under.x.new_zeros(under.x.size(0), 0, *shape)
        return self._placed(under, chunk, x), cache

    def step_frames(
        self, chunk: Chunk, cache: Tensor, run: Callable[[Tensor], Tensor], width: int
    ) -> tuple[Chunk, Tensor]:
        """Map a chunk of frames (B, t, C) to those that are complete.

        Args:
            chunk: Zero past the end of each utterance.
            cache: What was kept, (B, n, C).
            run: Maps the frames under complete windows (B, n, C) to (B, t', C').
            width: C'.

        Returns:
            (B, t', C') at the rate of the windows, where frames past the end of an utterance hold
            anything, and what is kept.
        """
        under, cache = self._under(chunk, cache)
        x = run(under.x) if under.size else under.x.new_zeros(under.x.size(0), 0, width)
        return self._placed(under, chunk, x), cache

    def _under(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        if chunk.size or chunk.last:
            return slide(chunk, cache, self.size, self.stride, self.ahead)
        return replace(chunk, start=chunk.start - size_of(cache, 1)), cache

    def _placed(self, under: Chunk, chunk: Chunk, x: Tensor) -> Chunk:
        """Return what was made of the frames under windows at its places."""
        start = (under.start + self.before) // self.stride
        if self.stride == 1:
            return replace(under, x=x, start=start)
        lengths = None if chunk.lengths is None else reduced_lengths(chunk.lengths, self.stride)
        begins = chunk.begins_after(self.stride)
        return replace(under, x=x, start=start, lengths=lengths, begins=begins)


def bins_after(x: Tensor, stride: int) -> int:
    """Return the frequency bins of (B, t, F, C) after a stride: ceil(F / stride)."""
    return -(-x.size(2) // stride)
