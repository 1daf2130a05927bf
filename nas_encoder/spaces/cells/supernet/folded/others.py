"""1x7-7x1 pairs and strided identities with a custom backward pass."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.spaces.cells.supernet.folded.norm import Frames, fold
from nas_encoder.spaces.cells.supernet.folded.outputs import (
    Kept,
    OutputGradients,
    Outputs,
    channels_first,
    channels_last,
    input_gradient,
    norm_gradients,
    rows_of,
)
from nas_encoder.spaces.cells.supernet.merged import MergedPair7, MergedReduce


class PairBranch:
    """Copies of 1x7 then 7x1; the batch norm is folded with an identity."""

    def __init__(
        self, module: MergedPair7, copies: Sequence[int], edges: Sequence[int], keep: int
    ) -> None:
        self.module = module
        self.copies = copies
        self.edges = edges
        self.keep = keep
        self.channels = module.norm.channels
        self.geometry = [
            ((1, module.stride), (0, 3)),
            ((module.stride, 1), (3, 0)),
        ]
        self.weights = [
            [rows_of(weight, copy, self.channels) for copy in copies]
            for weight in self.parameters()
        ]

    def parameters(self) -> list[Tensor]:
        """Return the merged weights, in the order of the gradients."""
        return [self.module.over_frequency.weight, self.module.over_time.weight]

    def _convolve(self, x: Tensor, number: int, place: int) -> Tensor:
        stride, padding = self.geometry[number]
        weight = self.weights[number][place]
        return channels_last(F.conv2d(channels_first(x), weight, None, stride, padding))

    def forward(
        self, u: Tensor, frames: Frames, shares: Tensor, kept: Kept, out: Outputs | None
    ) -> list[Tensor]:
        """See :class:`~nas_encoder.spaces.cells.supernet.folded.outputs.Branch`."""
        inner, maps = [], []
        for place in range(len(self.copies)):
            h = self._convolve(u, 0, place)
            maps.append(frames.clear(self._convolve(h, 1, place)))
            inner.append(h)
        eye = torch.eye(self.channels, dtype=torch.float64).expand(len(maps), -1, -1)
        self.norm = fold(eye, self.module.norm.norm, maps, frames, self.copies)
        matrix, shift = self.norm.affine(u.dtype, shares)
        for place, edge in enumerate(self.edges):
            if out is not None:
                out.add(edge, maps[place], matrix[place], shift[place], kept[place])
        return [*inner, *maps] if self.keep > 1 else maps if self.keep else []

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
        """See :class:`~nas_encoder.spaces.cells.supernet.folded.outputs.Branch`."""
        places = range(len(self.copies))
        inner = list(saved[: len(places)]) if self.keep > 1 else []
        if not inner:
            inner = [self._convolve(u, 0, place) for place in places]
        maps = list(saved[-len(places) :])
        if not self.keep:
            maps = [frames.clear(self._convolve(inner[place], 1, place)) for place in places]
        flows = [gradients.of(edge, keep) for edge, keep in zip(self.edges, kept, strict=True)]
        norm = norm_gradients(self.norm, maps, flows, shares)
        found: list[list[Tensor]] = [[], []]
        for place in places:
            if du is None and not wanted:
                break
            d = input_gradient(norm, place, flows[place][0], maps[place], frames)
            d = self._backward(inner[place], d, 1, place, True, wanted, found)
            d = self._backward(u, d, 0, place, du is not None, wanted, found)
            if du is not None:
                du.add_(d)
        return norm.share, self._whole(found) if wanted else []

    def _backward(
        self,
        x: Tensor,
        d: Tensor,
        number: int,
        place: int,
        further: bool,
        wanted: bool,
        found: list[list[Tensor]],
    ) -> Tensor:
        stride, padding = self.geometry[number]
        dx, dw, _ = torch.ops.aten.convolution_backward(
            channels_first(d),
            channels_first(x),
            self.weights[number][place],
            None,
            list(stride),
            list(padding),
            [1, 1],
            False,
            [0, 0],
            1,
            [further, wanted, False],
        )
        if wanted:
            found[number].append(dw)
        return channels_last(dx) if further else x

    def _whole(self, found: list[list[Tensor]]) -> list[Tensor | None]:
        result: list[Tensor | None] = []
        for weight, parts in zip(self.parameters(), found, strict=True):
            if len(parts) == self.module.copies:
                result.append(torch.cat(parts))
                continue
            whole = torch.zeros_like(weight)
            for part, copy in zip(parts, self.copies, strict=True):
                rows_of(whole, copy, self.channels).copy_(part)
            result.append(whole)
        return result


class ReduceBranch:
    """Copies of skip_connect at stride 2 (FactorizedReduce): all read the same positions."""

    def __init__(
        self, module: MergedReduce, copies: Sequence[int], edges: Sequence[int], keep: int
    ) -> None:
        self.module = module
        self.copies = copies
        self.edges = edges
        self.channels = module.norm.channels
        self.half = self.channels // 2

    def parameters(self) -> list[Tensor]:
        """Return the merged weights, in the order of the gradients."""
        return [self.module.even.weight, self.module.odd.weight]

    def _positions(self, u: Tensor) -> Tensor:
        """Return (B, ceil(T/2), ceil(F/2), 2C): even positions, then odd ones."""
        even, odd = u[:, ::2, ::2], u[:, 1::2, 1::2]
        result = even.new_zeros(*even.shape[:3], 2 * self.channels)
        result[..., : self.channels] = even
        result[:, : odd.size(1), : odd.size(2), self.channels :] = odd
        return result

    def _weight(self) -> Tensor:
        """Return the copies' weights (n, C, 2C)."""
        size, half = self.channels, self.half
        even, odd = self.parameters()
        whole = even.new_zeros(self.module.copies, size, 2 * size)
        whole[:, :half, :size] = even.view(len(whole), half, size)
        whole[:, half:, size:] = odd.view(len(whole), size - half, size)
        return whole[list(self.copies)]

    def forward(
        self, u: Tensor, frames: Frames, shares: Tensor, kept: Kept, out: Outputs | None
    ) -> list[Tensor]:
        """See :class:`~nas_encoder.spaces.cells.supernet.folded.outputs.Branch`."""
        x = self._positions(u)
        self.norm = fold(self._weight(), self.module.norm.norm, [x], frames, self.copies)
        matrix, shift = self.norm.affine(u.dtype, shares)
        for place, edge in enumerate(self.edges):
            if out is not None:
                out.add(edge, x, matrix[place], shift[place], kept[place])
        return []

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
        """See :class:`~nas_encoder.spaces.cells.supernet.folded.outputs.Branch`."""
        x = self._positions(u)
        flows = [gradients.of(edge, keep) for edge, keep in zip(self.edges, kept, strict=True)]
        norm = norm_gradients(self.norm, [x] * len(flows), flows, shares)
        size = self.channels
        if du is not None:
            d = torch.zeros_like(x)
            for place, (gradient, _) in enumerate(flows):
                d.add_(input_gradient(norm, place, gradient, x, frames))
            du[:, ::2, ::2].add_(d[..., :size])
            odd = du[:, 1::2, 1::2]
            odd.add_(d[:, : odd.size(1), : odd.size(2), size:])
        if not wanted:
            return norm.share, []
        even, odd = (torch.zeros_like(weight) for weight in self.parameters())
        for place, copy in enumerate(self.copies):
            part = norm.weight[place]
            rows_of(even, copy, self.half)[:, :, 0, 0] = part[: self.half, :size]
            rows_of(odd, copy, size - self.half)[:, :, 0, 0] = part[self.half :, size:]
        return norm.share, [even, odd]
