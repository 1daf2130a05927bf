"""What the branches of a source share: the edges' outputs, their gradients, dropout masks.

N positions (batch, time, frequency), B batch, C channels, T frames, F frequency bins, m edges, n
copies. Maps are (B, T, F, C) in memory; ``flat`` means (N, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from nas_encoder.spaces.cells.supernet.folded.norm import FoldedNorm, Frames, Gradients

Kept = Sequence[Tensor | None]  # a dropout mask (N, C) for each copy, or none


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
        return tuple(total.permute(0, 3, 1, 2) for total in self.maps)


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


class Branch(Protocol):
    """Some copies of one operation on one source."""

    edges: Sequence[int]

    def parameters(self) -> list[Tensor]:
        """Return the merged weights, in the order of their gradients."""

    def forward(
        self, u: Tensor, frames: Frames, shares: Tensor, kept: Kept, out: Outputs | None
    ) -> list[Tensor]:
        """Add to ``out``, if given; return the maps that :meth:`backward` needs."""

    def backward(
        self,
        saved: Sequence[Tensor],
        u: Tensor,
        frames: Frames,
        shares: Tensor,
        kept: Kept,
        gradients: OutputGradients,
        du: Tensor | None,
        wanted: bool,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Add to ``du``; return the gradients of shares (n,) and, if wanted, of parameters."""


def dropout_mask(size: Sequence[int], probability: float) -> Tensor:
    """Return booleans that are False with a probability, a multiple of 2^-16.

    Two random bytes per element cost a fifth of ``bernoulli_``.
    """
    count = 1
    for length in size:
        count *= length
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


def rows_of(weight: Tensor, copy: int, size: int) -> Tensor:
    """Return a copy's ``size`` rows of a merged weight."""
    return weight[copy * size : (copy + 1) * size]


def input_gradient(
    norm: Gradients, place: int, gradient: Tensor, x: Tensor, frames: Frames
) -> Tensor:
    """Return the gradient (B, T, F, C) of a folded norm's input x."""
    matrix = norm.matrix[place]
    flat = x.view(-1, x.size(-1))
    if norm.curve is None or norm.offset is None:
        result = gradient @ matrix
    else:
        result = torch.addmm(norm.offset[place], gradient, matrix)
        result.addmm_(flat, norm.curve[place], alpha=-1)
    return frames.clear(result.view_as(x))


def norm_gradients(
    norm: FoldedNorm,
    maps: Sequence[Tensor],
    flows: Sequence[tuple[Tensor, Tensor]],
    shares: Tensor,
) -> Gradients:
    """Return the gradients of a folded norm.

    Args:
        norm: Folded norm of n copies.
        maps: Their inputs (B, T, F, C).
        flows: The gradients (N, D) of their outputs, each with its sum (D,).
        shares: (n,).
    """
    product = torch.stack(
        [
            x.view(-1, x.size(-1)).t() @ gradient
            for x, (gradient, _) in zip(maps, flows, strict=True)
        ]
    )
    total = torch.stack([total for _, total in flows])
    return norm.backward(product.double(), total.double(), shares).to(product.dtype)
