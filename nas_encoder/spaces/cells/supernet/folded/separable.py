"""Separable and dilated convolutions with a custom backward pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.ops.depthwise import depthwise_input_gradient, depthwise_weight_gradient
from nas_encoder.spaces.cells.supernet.folded.norm import FoldedNorm, Frames, fold
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
from nas_encoder.spaces.cells.supernet.merged import MergedSeparable


class SeparableBranch:
    """Copies of a depthwise-pointwise pair, once or twice."""

    def __init__(
        self, module: MergedSeparable, copies: Sequence[int], edges: Sequence[int], keep: int
    ) -> None:
        self.module = module
        self.copies = copies
        self.edges = edges
        self.keep = keep
        self.channels = module.norm.channels
        first, self.dilation = module.depthwise, int(module.depthwise.dilation[0])
        self.stride = module.stride
        self.weights = [rows_of(first.weight, copy, self.channels) for copy in copies]
        if module.twice:
            weight = module.depthwise2.weight
            self.weights2 = [rows_of(weight, copy, self.channels) for copy in copies]
        self.norms: list[FoldedNorm] = []

    def parameters(self) -> list[Tensor]:
        """Return the merged weights, in the order of the gradients."""
        module = self.module
        weights = [module.depthwise.weight, module.pointwise.weight]
        if module.twice:
            weights += [module.depthwise2.weight, module.pointwise2.weight]
        return weights

    def _convolve(self, u: Tensor, place: int, frames: Frames) -> Tensor:
        weight = self.weights[place]
        y = F.conv2d(
            channels_first(u),
            weight,
            None,
            self.stride,
            self.dilation * (weight.size(2) // 2),
            self.dilation,
            self.channels,
        )
        return frames.clear(channels_last(y))

    def _between(self, x: Tensor, place: int, frames: Frames) -> Tensor:
        """Return the input of the second convolution: folded norm, ReLU."""
        matrix, shift = (part[place] for part in self.inner)
        flat = torch.addmm(shift, x.view(-1, self.channels), matrix.t()).relu_()
        return frames.clear(flat.view_as(x))

    def _convolve2(self, r: Tensor, place: int, frames: Frames) -> Tensor:
        weight = self.weights2[place]
        y = F.conv2d(channels_first(r), weight, None, 1, weight.size(2) // 2, 1, self.channels)
        return frames.clear(channels_last(y))

    def _fold(self, maps: list[Tensor], weight: Tensor, norm: Any, frames: Frames) -> FoldedNorm:
        chosen = weight.view(-1, self.channels, self.channels)
        if len(self.copies) < len(chosen):
            chosen = chosen[list(self.copies)]
        return fold(chosen, norm, maps, frames, self.copies)

    def forward(
        self, u: Tensor, frames: Frames, shares: Tensor, kept: Kept, out: Outputs | None
    ) -> list[Tensor]:
        """See :class:`Branch`."""
        module, places = self.module, range(len(self.copies))
        maps = [self._convolve(u, place, frames) for place in places]
        saved = list(maps) if self.keep > 1 or (self.keep and not module.twice) else []
        if module.twice:
            self.norms = [self._fold(maps, module.pointwise.weight, module.between, frames)]
            self.inner = self.norms[0].affine(u.dtype)
            for place in places:
                r = self._between(maps[place], place, frames)
                maps[place] = self._convolve2(r, place, frames)
            self.norms.append(self._fold(maps, module.pointwise2.weight, module.norm.norm, frames))
            saved += maps if self.keep else []
        else:
            self.norms = [self._fold(maps, module.pointwise.weight, module.norm.norm, frames)]
        matrix, shift = self.norms[-1].affine(u.dtype, shares)
        for place in places:
            if out is not None:
                out.add(self.edges[place], maps[place], matrix[place], shift[place], kept[place])
        return saved

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
        """See :class:`Branch`."""
        count, twice = len(self.copies), self.module.twice
        places = range(count)
        if self.keep > 1 or (self.keep and not twice):
            first = list(saved[:count])
        else:
            first = [self._convolve(u, place, frames) for place in places]
        second = first
        if twice:
            r = [self._between(first[place], place, frames) for place in places]
            if self.keep:
                second = list(saved[-count:])
            else:
                second = [self._convolve2(r[place], place, frames) for place in places]
        flows = [gradients.of(edge, keep) for edge, keep in zip(self.edges, kept, strict=True)]
        norm = norm_gradients(self.norms[-1], second, flows, shares)
        result: list[Tensor | None] = []
        outer = norm
        if du is None and not wanted:
            return outer.share, result
        if twice:
            weights2: list[Tensor] = []
            inner: list[tuple[Tensor, Tensor]] = []
            for place in places:
                d = channels_first(
                    input_gradient(norm, place, flows[place][0], second[place], frames)
                )
                weight, x = self.weights2[place], channels_first(r[place])
                if wanted:
                    weights2.append(depthwise_weight_gradient(x, weight, d, 1, 1))
                d = channels_last(depthwise_input_gradient(x, weight, d, 1, 1))
                d = torch.ops.aten.threshold_backward(d, r[place], 0).view(-1, self.channels)
                inner.append((d, d.sum(0)))
            del r
            if wanted:
                result = [self._whole(torch.cat(weights2), 2), self._pointwise(norm.weight, 3)]
            norm = norm_gradients(self.norms[0], first, inner, torch.ones_like(shares))
            flows = inner
        weights: list[Tensor] = []
        for place in places:
            d = channels_first(input_gradient(norm, place, flows[place][0], first[place], frames))
            x, weight = channels_first(u), self.weights[place]
            if wanted:
                weights.append(
                    depthwise_weight_gradient(
                        x, weight, d, self.stride, self.dilation, gradients.prepared
                    )
                )
            if du is not None:
                du.add_(
                    channels_last(
                        depthwise_input_gradient(x, weight, d, self.stride, self.dilation)
                    )
                )
        if wanted:
            result = [self._whole(torch.cat(weights), 0), self._pointwise(norm.weight, 1), *result]
        return outer.share, result

    def _pointwise(self, gradient: Tensor, number: int) -> Tensor:
        return self._whole(gradient.reshape(-1, self.channels, 1, 1), number)

    def _whole(self, gradient: Tensor, number: int) -> Tensor:
        """Return the gradient of all copies' weight; zero for copies that are not computed."""
        weight = self.parameters()[number]
        gradient = gradient.to(weight.dtype)
        if len(self.copies) == self.module.copies:
            return gradient
        result = torch.zeros_like(weight)
        for place, copy in enumerate(self.copies):
            rows_of(result, copy, self.channels).copy_(rows_of(gradient, place, self.channels))
        return result
