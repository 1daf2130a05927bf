"""One kind of operation on one source state, computed at once for several edges.

In a supernet up to four edges of a cell read the same state, each through its own copy of every
operation. Nothing is evaluated twice: what copies share (ReLU, pooling and the batch norm that
follows it) is computed once, and their convolutions run as one convolution whose channels are
those of the copies side by side. The result is exactly that of separate edges.
B batch, C channels, T frames, F frequency bins, n copies, s stride. Merged feature maps are
(B, nC, T, F) with channel ``copy * C + c``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops import AvgPool3, MaxPool3, build_operation
from nas_encoder.ops.depthwise import DepthwiseConv2d
from nas_encoder.ops.identity import even_and_odd
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.registry import Registry


class Source(NamedTuple):
    """A state and the values that its operations share.

    ``value`` (B, C, T, F) is zero in padding frames, ``relu`` is its positive part, ``mask``
    (B, 1, T, 1) or None.
    """

    value: Tensor
    relu: Tensor
    mask: Tensor | None


def tile_channels(x: Tensor, copies: int) -> Tensor:
    """Repeat the channels of (B, C, T, F), copy after copy: (B, nC, T, F)."""
    if copies == 1:
        return x
    last = x.permute(0, 2, 3, 1)[:, :, :, None]  # (B, T, F, 1, C): no copy if channels are last
    return last.expand(-1, -1, -1, copies, -1).flatten(3).permute(0, 3, 1, 2)


def scale_copies(x: Tensor, scale: Tensor) -> Tensor:
    """Return (B, nC, T, F): (B, C, T, F) repeated and multiplied by each entry of ``scale``.

    In the wider of the two types: in bf16 the weights at the start of a search would be equal.
    """
    last = x.permute(0, 2, 3, 1)[:, :, :, None] * scale[:, None]  # (B, T, F, n, C)
    return last.to(x.dtype).flatten(3).permute(0, 3, 1, 2)


def rows_of(weight: Tensor, copy: int, copies: int) -> Tensor:
    """Return the part of a merged weight that belongs to one of its copies."""
    size = weight.size(0) // copies
    return weight[copy * size : (copy + 1) * size]


class MergedOperation(nn.Module):
    """``copies`` instances of one operation on one source, without scales and shifts."""

    norm: Any

    def __init__(self, channels: int, copies: int, stride: int) -> None:
        super().__init__()
        self.channels = channels
        self.copies = copies
        self.stride = stride

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Return (B, nC, ceil(T/s), ceil(F/s)), copy j multiplied by ``scale[j]``."""
        mask = strided(source.mask, self.stride)
        return self.norm(self._convolve(source.relu, mask), mask, scale)  # type: ignore[no-any-return]

    def _convolve(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what the norm normalizes, for (B, C, T, F) and the mask after the stride."""
        raise NotImplementedError

    def convolutions(self) -> list[nn.Conv2d]:
        """Return the convolutions of all copies, in the order in which they apply."""
        return []

    def kernels(self, copy: int) -> list[Tensor]:
        """Return views of one copy's kernels, in the order in which they apply."""
        return [rows_of(layer.weight, copy, self.copies) for layer in self.convolutions()]


class _MergedNorm(nn.Module):
    """Batch norm without scale and shift, then each copy's weight."""

    def __init__(self, channels: int, copies: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = MaskedBatchNorm2d(copies * channels, affine=False)

    def forward(self, x: Tensor, mask: Tensor | None, scale: Tensor) -> Tensor:
        return self.norm(x, mask, scale.repeat_interleave(self.channels))  # type: ignore[no-any-return]


class MergedSeparable(MergedOperation):
    """Depthwise and pointwise convolution, once (dilation 2) or twice (dilation 1)."""

    def __init__(
        self, kernel: int, dilation: int, twice: bool, channels: int, copies: int, stride: int
    ) -> None:
        super().__init__(channels, copies, stride)
        width = copies * channels
        self.depthwise = DepthwiseConv2d(width, kernel, stride, dilation)
        self.pointwise = nn.Conv2d(width, width, 1, groups=copies, bias=False)
        if twice:
            self.between = MaskedBatchNorm2d(width, affine=False)
            self.depthwise2 = DepthwiseConv2d(width, kernel)
            self.pointwise2 = nn.Conv2d(width, width, 1, groups=copies, bias=False)
        self.twice = twice
        self.norm = _MergedNorm(channels, copies)

    def _convolve(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.pointwise(self.depthwise(tile_channels(x, self.copies)))
        if self.twice:
            x = self.pointwise2(self.depthwise2(F.relu(self.between(x, mask))))
        return x

    def convolutions(self) -> list[nn.Conv2d]:
        """See :class:`MergedOperation`."""
        first: list[nn.Conv2d] = [self.depthwise, self.pointwise]
        return [*first, self.depthwise2, self.pointwise2] if self.twice else first


class MergedPair7(MergedOperation):
    """1x7 then 7x1 convolution; the first is one full convolution for all copies."""

    def __init__(self, channels: int, copies: int, stride: int) -> None:
        super().__init__(channels, copies, stride)
        width = copies * channels
        self.over_frequency = nn.Conv2d(
            channels, width, (1, 7), stride=(1, stride), padding=(0, 3), bias=False
        )
        self.over_time = nn.Conv2d(
            width, width, (7, 1), stride=(stride, 1), padding=(3, 0), groups=copies, bias=False
        )
        self.norm = _MergedNorm(channels, copies)

    def _convolve(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.over_time(self.over_frequency(x))  # type: ignore[no-any-return]

    def convolutions(self) -> list[nn.Conv2d]:
        """See :class:`MergedOperation`."""
        return [self.over_frequency, self.over_time]


class SharedPool(MergedOperation):
    """Pooling and its batch norm, computed once because they are equal on every edge."""

    def __init__(
        self, pool: type[AvgPool3] | type[MaxPool3], channels: int, copies: int, stride: int
    ) -> None:
        super().__init__(channels, copies, stride)
        self.pool = pool(stride)
        self.norm = MaskedBatchNorm2d(channels, affine=False)

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """See :class:`MergedOperation`."""
        x = self.pool(source.value, source.mask)
        return scale_copies(self.norm(x, strided(source.mask, self.stride)), scale)


class SharedIdentity(MergedOperation):
    """skip_connect at stride 1."""

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """See :class:`MergedOperation`."""
        return scale_copies(source.value, scale)


class MergedReduce(MergedOperation):
    """skip_connect at stride 2: see FactorizedReduce."""

    def __init__(self, channels: int, copies: int, stride: int) -> None:
        super().__init__(channels, copies, stride)
        half = channels // 2
        self.even = nn.Conv2d(channels, copies * half, 1, bias=False)
        self.odd = nn.Conv2d(channels, copies * (channels - half), 1, bias=False)
        self.norm = _MergedNorm(channels, copies)

    def _convolve(self, x: Tensor, mask: Tensor | None) -> Tensor:
        even, odd = even_and_odd(x)
        parts = (self.even(even), self.odd(odd))
        split = [part.unflatten(1, (self.copies, -1)) for part in parts]
        return torch.cat(split, dim=2).flatten(1, 2)  # (B, nC, T', F')

    def convolutions(self) -> list[nn.Conv2d]:
        """See :class:`MergedOperation`."""
        return [self.even, self.odd]


class Copies(MergedOperation):
    """Separate copies of any operation of the table, for those without a merged form."""

    def __init__(self, operation: str, channels: int, copies: int, stride: int) -> None:
        super().__init__(channels, copies, stride)
        self.operations = nn.ModuleList(
            build_operation(operation, channels, stride, affine=False) for _ in range(copies)
        )

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """See :class:`MergedOperation`."""
        values = [
            operation(source.value, source.mask) * share
            for operation, share in zip(self.operations, scale.unbind(), strict=True)
        ]
        return torch.cat(values, dim=1)

    def kernels(self, copy: int) -> list[Tensor]:
        """Return one copy's kernels."""
        return [p.detach() for p in self.operations[copy].parameters() if p.dim() == 4]


def _skip(channels: int, copies: int, stride: int) -> MergedOperation:
    return (SharedIdentity if stride == 1 else MergedReduce)(channels, copies, stride)


def build_merged(operation: str, channels: int, copies: int, stride: int) -> MergedOperation:
    """Build ``copies`` instances of an operation, merged if it has a merged form."""
    build = MERGED[operation] if operation in MERGED else partial(Copies, operation)
    return build(channels, copies, stride)


MERGED: Registry[Callable[[int, int, int], MergedOperation]] = Registry("merged operation")
MERGED.add("max_pool_3x3", partial(SharedPool, MaxPool3))
MERGED.add("avg_pool_3x3", partial(SharedPool, AvgPool3))
MERGED.add("skip_connect", _skip)
MERGED.add("sep_conv_3x3", partial(MergedSeparable, 3, 1, True))
MERGED.add("sep_conv_5x5", partial(MergedSeparable, 5, 1, True))
MERGED.add("dil_conv_3x3", partial(MergedSeparable, 3, 2, False))
MERGED.add("dil_conv_5x5", partial(MergedSeparable, 5, 2, False))
MERGED.add("conv_7x1_1x7", MergedPair7)
