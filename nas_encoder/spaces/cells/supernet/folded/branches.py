"""Merged operations with weights of their own, with a custom backward pass.

n copies, N valid positions, B batch, C channels, T frames, F frequency bins. Maps are (B, T, F, C),
or (N, C) where time is not mixed.
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
from nas_encoder.spaces.cells.supernet.folded.norm import (
    Frames,
    Statistics,
    product,
    statistics,
)
from nas_encoder.spaces.cells.supernet.folded.outputs import (
    EVEN,
    ODD,
    WHOLE,
    Kept,
    OutputGradients,
    Outputs,
    Rectified,
    channels_first,
    channels_last,
)
from nas_encoder.spaces.cells.supernet.merged import (
    MergedPair7,
    MergedReduce,
    MergedSeparable,
)

Found = tuple[Tensor, list[Tensor | None]]  # gradients of the shares (n,) and of parameters


class Branch(ABC):
    """Some copies of one operation: convolutions, then a batch norm.

    Args:
        module: The merged operation of all copies.
        copies: Places of these copies in it.
        edges: Their edges.
        places: Places of their shares.
        frames: Valid frames of its output.
    """

    statistics: Statistics  # of the last maps
    repeats = False  # whether the last maps follow from what is kept for the weights' gradients
    repeated = False

    def __init__(
        self,
        module: Any,
        copies: Sequence[int],
        edges: Sequence[int],
        places: Sequence[int],
        frames: Frames,
    ) -> None:
        self.module = module
        self.copies = copies
        self.edges = edges
        self.places = list(places)
        self.frames = frames
        self.layers: list[nn.Conv2d] = module.convolutions()
        self.kernels = list(zip(*map(module.kernels, copies), strict=True))

    def parameters(self) -> list[Tensor]:
        """Return the merged weights, in the order of their gradients."""
        return [layer.weight for layer in self.layers]

    @abstractmethod
    def _run(self, u: Rectified, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
        """Return the maps (N, C) before the last norm, and what else the backward pass needs.

        ``keep`` says whether weights will have a gradient.
        """

    @abstractmethod
    def _descend(
        self,
        copy: int,
        flow: Tensor,
        kept: Sequence[Tensor],
        u: Rectified,
        shares: Tensor,
        of_u: bool,
        found: list[list[Tensor]] | None,
    ) -> None:
        """Add to the gradient of u, if asked for, and append those of a copy's kernels, if given.

        ``flow`` (N, C) is the gradient of the copy's map before the last norm, but for the factor
        ``shares[copy]``.
        """

    def _repeat(self, copy: int, kept: Sequence[Tensor]) -> Tensor:
        """Return one of the maps before the last norm from the others kept."""
        raise NotImplementedError

    def _finish(self, found: list[list[Tensor]], shares: Tensor) -> list[Tensor]:
        """Return the gradients of the kernels of all copies, (n, ...) each."""
        return [torch.stack(parts) for parts in found]

    def forward(
        self, u: Rectified, shares: Tensor, masks: Kept, out: Outputs | None, keep: bool
    ) -> list[Tensor]:
        """Add to ``out``, if given; return what :meth:`backward` needs, for weights too if kept."""
        maps, kept = self._run(u, keep)
        self.statistics = statistics(self.module.norm.norm, maps, self.copies)
        if out is not None:
            scale, shift = self.statistics.affine(shares[self.places][:, None])
            for own in zip(
                self.edges, maps, scale, shift, map(masks.get, self.places), strict=True
            ):
                out.add_affine(*own)
        self.repeated = keep and self.repeats
        return kept if self.repeated else [*maps, *kept]

    def backward(
        self,
        saved: Sequence[Tensor],
        u: Rectified,
        shares: Tensor,
        masks: Kept,
        gradients: OutputGradients,
        of_u: bool,
        wanted: bool,
    ) -> Found:
        """Add to the gradient of u; return those of the shares and, if wanted, of parameters."""
        kept = saved if self.repeated else saved[len(self.copies) :]
        own = shares[self.places]
        found: list[list[Tensor]] | None = [[] for _ in self.layers] if wanted else None
        along = []
        for copy, (edge, place) in enumerate(zip(self.edges, self.places, strict=True)):
            y = self._repeat(copy, kept) if self.repeated else saved[copy]
            gradient = gradients.of(edge, masks.get(place))
            part, flow = self.statistics.backward(copy, gradient, y, of_u or wanted)
            along.append(part)
            if of_u or wanted:
                self._descend(copy, flow, kept, u, own, of_u, found)
        whole = [] if found is None else self._finish(found, own[:, None, None])
        return torch.stack(along).sum(1), list(map(self._whole, self.parameters(), whole))

    def _whole(self, weight: Tensor, parts: Tensor) -> Tensor:
        """Return the gradient of all copies' weight; zero for copies that are not computed."""
        if len(parts) == self.module.copies:
            return parts.reshape(weight.shape)
        whole = weight.new_zeros(self.module.copies, *parts.shape[1:])
        whole[list(self.copies)] = parts
        return whole.view(weight.shape)


class SeparableBranch(Branch):
    """Copies of a depthwise-pointwise pair, once or twice."""

    module: MergedSeparable
    inner: Statistics  # of the first pair's maps
    normalized: Statistics  # of the same, normalized
    repeats = True

    def __init__(self, module: MergedSeparable, *arguments: Any) -> None:
        super().__init__(module, *arguments)
        self.stages = 2 if module.twice else 1
        layer = self.layers[0]
        self.geometry = layer.stride[0], layer.dilation[0]
        self.grid = EVEN if self.geometry == (2, 2) else WHOLE
        if self.grid == EVEN:
            self.geometry = 1, 1
        size = int(module.channels)
        self.matrices = [
            [kernel.view(size, size) for kernel in kernels] for kernels in self.kernels[1::2]
        ]

    def _repeat(self, copy: int, kept: Sequence[Tensor]) -> Tensor:
        return product(kept[copy - len(self.copies)], self.matrices[-1][copy])

    def _depthwise(self, x: Tensor, number: int, copy: int) -> Tensor:
        """Return (N, C) of (B, C, T, F)."""
        geometry = (1, 1) if number else self.geometry
        x = depthwise_conv2d(x, self.kernels[2 * number][copy], *geometry)
        return self.frames.pack(channels_last(x))

    def _between(self, normalized: Tensor) -> Tensor:
        """Return the input (B, C, T, F) of the second pair from the first one's output (N, C)."""
        return channels_first(self.frames.unpack(torch.relu(normalized)))

    def _run(self, u: Rectified, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
        kept: list[Tensor] = []
        maps: list[Tensor] = []
        for number, matrices in enumerate(self.matrices):
            before, maps = maps, []
            for copy, matrix in enumerate(matrices):
                x = self._between(before[copy]) if number else channels_first(u.on(self.grid))
                x = self._depthwise(x, number, copy)
                maps.append(product(x, matrix))
                kept += [x] if keep else []
            if number + 1 < self.stages:
                self.inner = statistics(self.module.between, maps, self.copies)
                self.normalized = self.inner.normalized()
                scale, shift = self.inner.affine(torch.ones(1, dtype=u.whole.dtype))
                for own in zip(shift, maps, scale, strict=True):
                    torch.addcmul(*own, out=own[1])
                kept += maps
        return maps, kept

    def _descend(
        self,
        copy: int,
        flow: Tensor,
        kept: Sequence[Tensor],
        u: Rectified,
        shares: Tensor,
        of_u: bool,
        found: list[list[Tensor]] | None,
    ) -> None:
        count = len(self.copies)
        inputs = found is not None
        normalized = kept[inputs * count :][copy] if self.stages == 2 else flow
        for number in reversed(range(self.stages)):
            kernel, matrix = self.kernels[2 * number][copy], self.matrices[number][copy]
            last = number == self.stages - 1
            factor = shares[copy] if last else self.inner.inverse[copy][:, None]
            d = channels_first(self.frames.unpack(product(flow, (matrix * factor).t())))
            geometry = (1, 1) if number else self.geometry
            own = self._between(normalized) if number else channels_first(u.on(self.grid))
            if found is not None:
                x = kept[2 * number * count :][copy]
                prepared = None if number else u.prepared[self.grid]
                found[2 * number].append(
                    depthwise_weight_gradient(own, kernel, d, *geometry, prepared)
                )
                found[2 * number + 1].append(flow.t() @ x)
            if number:
                d = self.frames.pack(
                    channels_last(depthwise_input_gradient(own, kernel, d, *geometry))
                )
                d = torch.ops.aten.threshold_backward(d, normalized, 0)
                _, flow = self.normalized.backward(copy, d, normalized)
            elif of_u:
                u.add(channels_last(depthwise_input_gradient(own, kernel, d, *geometry)), self.grid)

    def _finish(self, found: list[list[Tensor]], shares: Tensor) -> list[Tensor]:
        whole = super()._finish(found, shares)
        whole[-1] = whole[-1] * shares
        if self.stages == 2:
            whole[1] = whole[1] * self.inner.inverse[:, :, None]
        return whole


class PairBranch(Branch):
    """Copies of 1x7 then 7x1."""

    def _convolve(self, x: Tensor, number: int, copy: int) -> Tensor:
        layer = self.layers[number]
        kernel = self.kernels[number][copy]
        return channels_last(F.conv2d(channels_first(x), kernel, None, layer.stride, layer.padding))

    def _run(self, u: Rectified, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
        kept = [self._convolve(u.whole, 0, copy) for copy in range(len(self.copies))]
        maps = [self.frames.pack(self._convolve(x, 1, copy)) for copy, x in enumerate(kept)]
        return maps, kept

    def _descend(
        self,
        copy: int,
        flow: Tensor,
        kept: Sequence[Tensor],
        u: Rectified,
        shares: Tensor,
        of_u: bool,
        found: list[list[Tensor]] | None,
    ) -> None:
        d = self.frames.unpack(flow * shares[copy])
        for number, x in ((1, kept[copy]), (0, u.whole)):
            further = number == 1 or of_u
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
        if of_u:
            u.add(d, WHOLE)


class ReduceBranch(Branch):
    """Copies of skip_connect at stride 2 (FactorizedReduce): all read the same positions."""

    def __init__(self, module: MergedReduce, *arguments: Any) -> None:
        super().__init__(module, *arguments)
        self.half = int(module.channels) // 2

    def _run(self, u: Rectified, keep: bool) -> tuple[list[Tensor], list[Tensor]]:
        inputs = [self.frames.pack(u.on(grid)) for grid in (EVEN, ODD)]
        maps = [
            torch.cat([product(x, w.flatten(1)) for x, w in zip(inputs, own, strict=True)], 1)
            for own in zip(*self.kernels, strict=True)
        ]
        return maps, inputs if keep else []

    def _descend(
        self,
        copy: int,
        flow: Tensor,
        kept: Sequence[Tensor],
        u: Rectified,
        shares: Tensor,
        of_u: bool,
        found: list[list[Tensor]] | None,
    ) -> None:
        parts = torch.split(flow, [self.half, flow.size(1) - self.half], 1)
        for grid, part in zip((EVEN, ODD), parts, strict=True):
            part = part.contiguous()
            if found is not None:
                found[grid].append((part.t() @ kept[grid])[:, :, None, None])
            if of_u:
                matrix = self.kernels[grid][copy].flatten(1) * shares[copy]
                u.add(self.frames.unpack(product(part, matrix.t())), grid)

    def _finish(self, found: list[list[Tensor]], shares: Tensor) -> list[Tensor]:
        return [own * shares[..., None, None] for own in super()._finish(found, shares)]


BRANCHES: dict[type[nn.Module], type[Branch]] = {
    MergedSeparable: SeparableBranch,
    MergedPair7: PairBranch,
    MergedReduce: ReduceBranch,
}
