"""What the branches of a source share: its ReLU, the edges' outputs, gradients, dropout masks.

N valid positions (batch, time, frequency), B batch, C channels, T frames, F frequency bins, m
edges. Maps are (B, T, F, C) in memory, or (N, C).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import NamedTuple

import torch
from torch import Tensor

from nas_encoder.spaces.cells.supernet.folded.norm import Frames

WHOLE, EVEN, ODD = -1, 0, 1  # grids of positions, see Rectified
Kept = Mapping[int, Tensor]  # dropout masks (N, C) of those shares that have one, by place


class Rectified:
    """The ReLU (B, T, F, C) of a source, and its gradient, a sum over branches.

    ``prepared`` caches the forms that :func:`.depthwise_weight_gradient` prepares, for each grid.
    """

    def __init__(self, x: Tensor) -> None:
        self.whole = torch.relu(x)
        self.prepared: dict[int, dict[tuple[bool, ...], Tensor]] = {WHOLE: {}, EVEN: {}}
        self._grids: dict[int, Tensor] = {WHOLE: self.whole}
        self._gradients: dict[int, Tensor] = {}

    def on(self, grid: int) -> Tensor:
        """Return the positions of a grid, (B, ceil(T/2), ceil(F/2), C), unless it is ``WHOLE``.

        ``EVEN`` are those even in time and frequency: on them a convolution of stride and dilation
        2 is one without either. ``ODD`` are those odd in both, with zeros that odd sizes lack.
        """
        if grid not in self._grids:
            own = self.whole[:, grid::2, grid::2]
            if grid == ODD and own.shape != self.on(EVEN).shape:
                self._grids[grid] = torch.zeros_like(self.on(EVEN))
                self._grids[grid][:, : own.size(1), : own.size(2)] = own
            else:
                self._grids[grid] = own.contiguous()
        return self._grids[grid]

    def add(self, gradient: Tensor, grid: int) -> None:
        """Add a map, which is given away, to the gradient of those positions."""
        if grid in self._gradients:
            self._gradients[grid].add_(gradient)
        else:
            self._gradients[grid] = gradient

    def gradient(self) -> Tensor:
        """Return that of the source."""
        found = self._gradients.get(WHOLE)
        if found is None:
            found = torch.zeros_like(self.whole)
        for grid in self._gradients.keys() - {WHOLE}:
            part = found[:, grid::2, grid::2]
            part.add_(self._gradients[grid][:, : part.size(1), : part.size(2)])
        result: Tensor = torch.ops.aten.threshold_backward(found, self.whole, 0)
        return result


class _Term(NamedTuple):
    map: Tensor
    factor: float
    affine: tuple[Tensor, Tensor] | None
    kept: Tensor | None


class Outputs:
    """The sums of the operations of m edges, (N, C) each."""

    def __init__(self, edges: int) -> None:
        self._terms: list[list[_Term]] = [[] for _ in range(edges)]

    def add(self, edge: int, x: Tensor, factor: float, kept: Tensor | None) -> None:
        """Add ``factor * x``, multiplied by a dropout mask if given, for x (N, C)."""
        self._terms[edge].append(_Term(x, factor, None, kept))

    def add_affine(
        self, edge: int, x: Tensor, scale: Tensor, shift: Tensor, kept: Tensor | None
    ) -> None:
        """Add ``scale * x + shift``, multiplied by a dropout mask if given; all else is (C,)."""
        self._terms[edge].append(_Term(x, 1.0, (scale, shift), kept))

    def finish(self, frames: Frames, like: Tensor) -> tuple[Tensor, ...]:
        """Return the m sums (B, C, T', F'), zero in padding frames, in the dtype of ``like``."""
        empty = like.new_zeros(1, frames.shape[3])
        sums = [_sum(own, empty) for own in self._terms]
        sums = [own.expand(frames.positions, -1) if own is empty else own for own in sums]
        return tuple(channels_first(frames.unpack(own.contiguous())) for own in sums)


def _sum(terms: Sequence[_Term], empty: Tensor) -> Tensor:
    """Return the sum (N, C) of some terms; ``empty`` (1, C) if there are none."""
    # One pass for each term: the first also adds the shifts of all without dropout.
    shifts = [own.affine[1] for own in terms if own.kept is None and own.affine is not None]
    total = torch.stack(shifts).sum(0)[None] if shifts else empty
    for number, own in enumerate(sorted(terms, key=lambda own: own.kept is not None)):
        x, by = own.map, own.kept
        if own.affine is not None:
            scale, shift = own.affine
            if by is None:
                by = scale
            else:
                x = torch.addcmul(shift, x, scale)
        out = total if number else torch.empty_like(x)
        if by is None:
            torch.add(total, x, alpha=own.factor, out=out)
        else:
            torch.addcmul(total, x, by, value=own.factor, out=out)
        total = out
    return total


class OutputGradients:
    """The gradients (N, C) of the m sums, each (B, C, T', F')."""

    def __init__(self, gradients: Sequence[Tensor], frames: Frames) -> None:
        self.maps = [frames.pack(channels_last(gradient)) for gradient in gradients]

    def of(self, edge: int, kept: Tensor | None) -> Tensor:
        """Return an edge's gradient (N, C), masked by ``kept``."""
        return self.maps[edge] if kept is None else self.maps[edge] * kept


def dropout_mask(size: Sequence[int], probability: float, like: Tensor) -> Tensor:
    """Return ones and, with a probability, a multiple of 2^-16, zeros, in the dtype of ``like``.

    Two random bytes per element cost a fifth of ``bernoulli_``, and products with numbers a third
    of those with booleans.
    """
    count = prod(size)
    bits = torch.empty(-(-count // 4), dtype=torch.int64).random_(-(2**63), None)
    found = like.new_empty(tuple(size))
    torch.ge(bits.view(torch.int16)[:count].view(found.shape), _threshold(probability), out=found)
    return found


def kept_share(probability: float) -> float:
    """Return the exact probability of a one in :func:`dropout_mask`."""
    return (2**15 - _threshold(probability)) / 2**16


def _threshold(probability: float) -> int:
    return round(probability * 2**16) - 2**15


def channels_first(x: Tensor) -> Tensor:
    """View (B, T, F, C) as (B, C, T, F)."""
    return x.permute(0, 3, 1, 2)


def channels_last(x: Tensor) -> Tensor:
    """Return (B, C, T, F) as (B, T, F, C)."""
    return x.permute(0, 2, 3, 1).contiguous()
