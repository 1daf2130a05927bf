"""What the branches of a source share: the edges' outputs, their gradients, dropout masks.

N positions (batch, time, frequency), B batch, C channels, T frames, F frequency bins, m edges.
Maps are (B, T, F, C) in memory; ``flat`` means (N, C).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from nas_encoder.spaces.cells.supernet.folded.norm import Frames

Kept = Mapping[int, Tensor]  # dropout masks (N, C) of those shares that have one, by place


class Outputs:
    """The sums of the operations of m edges, each (B, T', F', C), in the dtype of ``like``."""

    def __init__(self, edges: int, shape: Sequence[int], like: Tensor) -> None:
        self.maps = [like.new_zeros(tuple(shape)) for _ in range(edges)]
        self.shift = like.new_zeros(edges, shape[-1])

    def add(self, edge: int, x: Tensor, matrix: Tensor, shift: Tensor, kept: Tensor | None) -> None:
        """Add ``matrix @ x + shift``, masked by ``kept``, for x (B, T', F', C)."""
        total = self.maps[edge].view(-1, matrix.size(0))
        flat = x.view(-1, x.size(-1))
        if kept is None:
            total.addmm_(flat, matrix.t())
            self.shift[edge] += shift
        else:
            total.add_(torch.addmm(shift, flat, matrix.t()).mul_(kept))

    def finish(self, frames: Frames) -> tuple[Tensor, ...]:
        """Return the m sums (B, C, T', F'), zero in padding frames."""
        for total, shift in zip(self.maps, self.shift, strict=True):
            frames.clear(total.add_(shift))
        return tuple(channels_first(total) for total in self.maps)


class OutputGradients:
    """The gradients of the m sums, zero in padding frames.

    ``prepared`` caches the rearranged input for the gradients of the source's depthwise kernels.
    """

    def __init__(self, gradients: Sequence[Tensor], frames: Frames) -> None:
        self.maps = []
        for gradient in gradients:
            last = gradient.permute(0, 2, 3, 1)
            last = last.contiguous() if frames.mask is None else last * frames.mask
            self.maps.append(last.contiguous().view(-1, last.size(-1)))
        self.totals = [x.sum(0) for x in self.maps]
        self.prepared: dict[tuple[bool, ...], Tensor] = {}

    def of(self, edge: int, kept: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return an edge's gradient (N, C) and its sum (C,), masked by ``kept``."""
        if kept is None:
            return self.maps[edge], self.totals[edge]
        gradient = self.maps[edge] * kept
        return gradient, gradient.sum(0)


def dropout_mask(size: Sequence[int], probability: float) -> Tensor:
    """Return booleans that are False with a probability, a multiple of 2^-16.

    Two random bytes per element cost a fifth of ``bernoulli_``.
    """
    count = prod(size)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    return (bits.view(torch.int16)[:count] >= _threshold(probability)).view(tuple(size))


def kept_share(probability: float) -> float:
    """Return the exact probability of a True in :func:`dropout_mask`."""
    return (2**15 - _threshold(probability)) / 2**16


def _threshold(probability: float) -> int:
    return round(probability * 2**16) - 2**15


def channels_first(x: Tensor) -> Tensor:
    """View (B, T, F, C) as (B, C, T, F)."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """Return (B, C, T, F) as (B, T, F, C)."""
    return x.permute(0, 2, 3, 1).contiguous()
