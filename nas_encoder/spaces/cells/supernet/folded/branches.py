"""Merged operations with weights of their own, with a custom backward pass.

n copies, N positions, B batch, C channels, T frames, F frequency bins; maps are (B, T, F, C).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops.depthwise import (
    depthwise_conv2d,
    depthwise_input_gradient,
    depthwise_weight_gradient,
)
from nas_encoder.spaces.cells.supernet.folded.norm import FoldedNorm, Frames, Gradients, fold
from nas_encoder.spaces.cells.supernet.folded.outputs import (
    Kept,
    OutputGradients,
    Outputs,
    channels_first,
    channels_last,
)
from nas_encoder.spaces.cells.supernet.merged import (
    MergedPair7,
    MergedReduce,
    MergedSeparable,
    rows_of,
)

Stages = list[list[Tensor]]  # maps after each stage, one for each copy or one for all
Flows = Sequence[tuple[Tensor, Tensor]]  # for each copy a gradient (N, C) and its sum (C,)


class Branch(ABC):
    """Some copies of one operation: stages of convolutions, the last map folded with the norm.

    Args:
        module: The merged operation of all copies.
        copies: Places of these copies in it.
        edges: Their edges.
        places: Places of their shares.
        frames: Valid frames of its output.
        keep: For how many of the last stages the maps are kept for the backward pass.
    """

    stages: int = 1

    def __init__(
        self,
        module: Any,
        copies: Sequence[int],
        edges: Sequence[int],
        places: Sequence[int],
        frames: Frames,
        keep: int,
    ) -> None:
        self.module = module
        self.copies = copies
        self.edges = edges
        self.places = list(places)
        self.frames = frames
        self.keep = keep
        self.channels = int(module.channels)
        self.layers: list[nn.Conv2d] = module.convolutions()
        self.kernels = list(zip(*map(module.kernels, copies), strict=True))

    def parameters(self) -> list[Tensor]:
        """Return the merged weights, in the order of their gradients."""
        return [layer.weight for layer in self.layers]

    @abstractmethod
    def _stage(self, number: int, maps: list[Tensor]) -> list[Tensor]:
        """Return the maps after a stage from those before it; before the first there is only u."""

    @abstractmethod
    def _weight(self) -> Tensor:
        """Return (n, D, C): the pointwise convolutions that the norm is folded with."""

    @abstractmethod
    def _descend(
        self,
        stages: Stages,
        u: Tensor,
        norm: Gradients,
        flows: Flows,
        gradients: OutputGradients,
        du: Tensor | None,
        found: Stages | None,
    ) -> None:
        """Add to ``du`` and append each copy's gradients of the kernels, if given."""

    def _run(self, u: Tensor, saved: Sequence[Tensor]) -> Stages:
        """Return the maps of all stages; those of the last ones may be saved."""
        count, stages = len(self.copies), []
        maps = [u]
        for number in range(self.stages):
            begin = len(saved) - (self.stages - number) * count
            maps = self._stage(number, maps) if begin < 0 else list(saved[begin : begin + count])
            stages.append(maps)
        return stages

    def _each(self, maps: list[Tensor]) -> list[Tensor]:
        return maps * (len(self.copies) // len(maps))

    def forward(self, u: Tensor, shares: Tensor, masks: Kept, out: Outputs | None) -> list[Tensor]:
        """Add to ``out``, if given; return the maps that :meth:`backward` needs."""
        stages = self._run(u, ())
        maps = stages[-1]
        norm = self.module.norm.norm
        self.norm: FoldedNorm = fold(self._weight(), norm, maps, self.frames, self.copies)
        if out is not None:
            matrix, shift = self.norm.affine(u.dtype, shares[self.places].double())
            for copy, x in enumerate(self._each(maps)):
                kept = masks.get(self.places[copy])
                out.add(self.edges[copy], x, matrix[copy], shift[copy], kept)
        return [x for maps in stages[max(self.stages - self.keep, 0) :] for x in maps]

    def backward(
        self,
        saved: Sequence[Tensor],
        u: Tensor,
        shares: Tensor,
        masks: Kept,
        gradients: OutputGradients,
        du: Tensor | None,
        wanted: bool,
    ) -> tuple[Tensor, list[Tensor | None]]:
        """Add to ``du``; return the gradients of shares (n,) and, if wanted, of parameters."""
        stages = self._run(u, saved)
        pairs = zip(self.edges, self.places, strict=True)
        flows = [gradients.of(edge, masks.get(place)) for edge, place in pairs]
        own = shares[self.places].double()
        norm = self.norm.backward(self._each(stages[-1]), flows, own)
        found: Stages | None = [[] for _ in self.layers] if wanted else None
        if du is not None or wanted:
            self._descend(stages, u, norm, flows, gradients, du, found)
        return norm.share, list(map(self._whole, self.parameters(), found or ()))

    def _whole(self, weight: Tensor, parts: Sequence[Tensor]) -> Tensor:
        """Return the gradient of all copies' weight; zero for copies that are not computed."""
        if len(parts) == self.module.copies:
            return torch.cat(list(parts))
        whole = torch.zeros_like(weight)
        for part, copy in zip(parts, self.copies, strict=True):
            rows_of(whole, copy, self.module.copies).copy_(part)
        return whole


class SeparableBranch(Branch):
    """Copies of a depthwise-pointwise pair, once or twice."""

    module: MergedSeparable

    def __init__(self, module: MergedSeparable, *arguments: Any) -> None:
        super().__init__(module, *arguments)
        self.stages = 2 if module.twice else 1
        self.inner: FoldedNorm | None = None

    def _pointwise(self, number: int) -> Tensor:
        return torch.cat(self.kernels[number]).view(-1, self.channels, self.channels)

    def _weight(self) -> Tensor:
        return self._pointwise(-1)

    def _stage(self, number: int, maps: list[Tensor]) -> list[Tensor]:
        if number and self.inner is None:
            weight = self._pointwise(1)
            self.inner = fold(weight, self.module.between, maps, self.frames, self.copies)
            self.affine = self.inner.affine(maps[0].dtype)
        found = []
        for copy, x in enumerate(self._each(maps)):
            x = self._between(x, copy) if number else x
            found.append(self.frames.clear(channels_last(self._depthwise(x, number, copy))))
        return found

    def _geometry(self, number: int) -> tuple[int, int]:
        layer = self.layers[2 * number]
        return layer.stride[0], layer.dilation[0]

    def _depthwise(self, x: Tensor, number: int, copy: int) -> Tensor:
        kernel = self.kernels[2 * number][copy]
        return depthwise_conv2d(channels_first(x), kernel, *self._geometry(number))

    def _between(self, x: Tensor, copy: int) -> Tensor:
        """Return the input of the second convolution: folded norm, ReLU."""
        matrix, shift = (part[copy] for part in self.affine)
        flat = torch.addmm(shift, x.view(-1, self.channels), matrix.t()).relu_()
        return self.frames.clear(flat.view_as(x))

    def _descend(
        self,
        stages: Stages,
        u: Tensor,
        norm: Gradients,
        flows: Flows,
        gradients: OutputGradients,
        du: Tensor | None,
        found: Stages | None,
    ) -> None:
        for number in reversed(range(self.stages)):
            before = []
            prepared = None if number else gradients.prepared
            for copy, (flow, _) in enumerate(flows):
                d = channels_first(norm.of_input(copy, flow, stages[number][copy], self.frames))
                own = self._between(stages[0][copy], copy) if number else u
                x, kernel = channels_first(own), self.kernels[2 * number][copy]
                geometry = self._geometry(number)
                if found is not None:
                    found[2 * number].append(
                        depthwise_weight_gradient(x, kernel, d, *geometry, prepared)
                    )
                    found[2 * number + 1].append(norm.weight[copy][:, :, None, None])
                if number:
                    d = channels_last(depthwise_input_gradient(x, kernel, d, *geometry))
                    d = torch.ops.aten.threshold_backward(d, own, 0).view(-1, self.channels)
                    before.append((d, d.sum(0)))
                elif du is not None:
                    du.add_(channels_last(depthwise_input_gradient(x, kernel, d, *geometry)))
            if number and self.inner is not None:
                flows = before
                ones = torch.ones(len(flows), dtype=torch.float64)
                norm = self.inner.backward(stages[0], flows, ones)


class PairBranch(Branch):
    """Copies of 1x7 then 7x1; the batch norm is folded with an identity."""

    stages = 2

    def _weight(self) -> Tensor:
        eye = torch.eye(self.channels, dtype=torch.float64)
        return eye.expand(len(self.copies), -1, -1)

    def _stage(self, number: int, maps: list[Tensor]) -> list[Tensor]:
        layer = self.layers[number]
        found = []
        for x, kernel in zip(self._each(maps), self.kernels[number], strict=True):
            y = F.conv2d(channels_first(x), kernel, None, layer.stride, layer.padding)
            found.append(channels_last(y))
        return list(map(self.frames.clear, found)) if number else found

    def _descend(
        self,
        stages: Stages,
        u: Tensor,
        norm: Gradients,
        flows: Flows,
        gradients: OutputGradients,
        du: Tensor | None,
        found: Stages | None,
    ) -> None:
        for copy, (flow, _) in enumerate(flows):
            d = norm.of_input(copy, flow, stages[1][copy], self.frames)
            for number, x in ((1, stages[0][copy]), (0, u)):
                further = number == 1 or du is not None
                dx, dw, _ = torch.ops.aten.convolution_backward(
                    channels_first(d),
                    channels_first(x),
                    self.kernels[number][copy],
                    None,
                    self.layers[number].stride,
                    self.layers[number].padding,
                    [1, 1],
                    False,
                    [0, 0],
                    1,
                    [further, found is not None, False],
                )
                if found is not None:
                    found[number].append(dw)
                d = channels_last(dx) if further else d
            if du is not None:
                du.add_(d)


class ReduceBranch(Branch):
    """Copies of skip_connect at stride 2 (FactorizedReduce): all read the same positions."""

    def __init__(self, module: MergedReduce, *arguments: Any) -> None:
        super().__init__(module, *arguments)
        self.keep = 0

    def _stage(self, number: int, maps: list[Tensor]) -> list[Tensor]:
        """Return (B, ceil(T/2), ceil(F/2), 2C): even positions, then odd ones."""
        even, odd = maps[0][:, ::2, ::2], maps[0][:, 1::2, 1::2]
        result = even.new_zeros(*even.shape[:3], 2 * self.channels)
        result[..., : self.channels] = even
        result[:, : odd.size(1), : odd.size(2), self.channels :] = odd
        return [result]

    def _weight(self) -> Tensor:
        size, half = self.channels, self.channels // 2
        result = self.parameters()[0].new_zeros(len(self.copies), size, 2 * size)
        for row, even, odd in zip(result, *self.kernels, strict=True):
            row[:half, :size] = even.flatten(1)
            row[half:, size:] = odd.flatten(1)
        return result

    def _descend(
        self,
        stages: Stages,
        u: Tensor,
        norm: Gradients,
        flows: Flows,
        gradients: OutputGradients,
        du: Tensor | None,
        found: Stages | None,
    ) -> None:
        x, size, half = stages[0][0], self.channels, self.channels // 2
        if du is not None:
            d = torch.zeros_like(x)
            for copy, (flow, _) in enumerate(flows):
                d.add_(norm.of_input(copy, flow, x, self.frames))
            du[:, ::2, ::2].add_(d[..., :size])
            odd = du[:, 1::2, 1::2]
            odd.add_(d[:, : odd.size(1), : odd.size(2), size:])
        if found is not None:
            for part in norm.weight[:, :, :, None, None]:
                found[0].append(part[:half, :size])
                found[1].append(part[half:, size:])


BRANCHES: dict[type[nn.Module], type[Branch]] = {
    MergedSeparable: SeparableBranch,
    MergedPair7: PairBranch,
    MergedReduce: ReduceBranch,
}
