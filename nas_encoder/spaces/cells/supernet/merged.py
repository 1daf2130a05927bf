"""One kind of operation on one source state, computed at once for several edges.

In a supernet up to four edges of a cell read the same state, each through its own copy of every
operation. Nothing is evaluated twice: what copies share (ReLU, pooling and the batch norm that
follows it) is computed once, and their convolutions run as one convolution whose channels are
those of the copies side by side. The result is exactly that of separate edges.
B batch, C channels, T frames, F frequency bins, n copies, s stride. Merged feature maps are
(B, nC, T, F) with channel ``copy * C + c``.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops import AvgPool3, MaxPool3, build_operation
from nas_encoder.ops.depthwise import DepthwiseConv2d
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


class MergedOperation(Protocol):
    """``copies`` instances of one operation on one source."""

    def __call__(self, source: Source, scale: Tensor) -> Tensor:
        """Return (B, nC, ceil(T/s), ceil(F/s)), copy j multiplied by ``scale[j]``."""

    def kernels(self, copy: int) -> list[Tensor]:
        """Return views of one copy's kernels, in the order in which they apply."""


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


def _rows(weight: Tensor, copy: int, copies: int) -> Tensor:
    """Return the part of a merged weight that belongs to one copy."""
    size = weight.size(0) // copies
    return weight[copy * size : (copy + 1) * size]


class _MergedNorm(nn.Module):
    """Batch norm without scale and shift, then each copy's weight."""

    def __init__(self, channels: int, copies: int) -> None:
        super().__init__()
        self.channels = channels
        self.norm = MaskedBatchNorm2d(copies * channels, affine=False)

    def forward(self, x: Tensor, mask: Tensor | None, scale: Tensor) -> Tensor:
        return self.norm(x, mask, scale.repeat_interleave(self.channels))  # type: ignore[no-any-return]


class MergedSeparable(nn.Module):
    """Depthwise and pointwise convolution, once (dilation 2) or twice (dilation 1)."""

    def __init__(
        self, kernel: int, dilation: int, twice: bool, channels: int, copies: int, stride: int
    ) -> None:
        super().__init__()
        self.copies = copies
        self.stride = stride
        width = copies * channels
        self.depthwise = DepthwiseConv2d(width, kernel, stride, dilation)
        self.pointwise = nn.Conv2d(width, width, 1, groups=copies, bias=False)
        if twice:
            self.between = MaskedBatchNorm2d(width, affine=False)
            self.depthwise2 = DepthwiseConv2d(width, kernel)
            self.pointwise2 = nn.Conv2d(width, width, 1, groups=copies, bias=False)
        self.twice = twice
        self.norm = _MergedNorm(channels, copies)

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Compute it; see :class:`MergedOperation`."""
        mask = strided(source.mask, self.stride)
        x = self.pointwise(self.depthwise(tile_channels(source.relu, self.copies)))
        if self.twice:
            x = self.pointwise2(self.depthwise2(F.relu(self.between(x, mask))))
        return self.norm(x, mask, scale)  # type: ignore[no-any-return]

    def kernels(self, copy: int) -> list[Tensor]:
        """Return views of one copy's kernels."""
        convolutions = [self.depthwise, self.pointwise]
        if self.twice:
            convolutions += [self.depthwise2, self.pointwise2]
        return [_rows(convolution.weight, copy, self.copies) for convolution in convolutions]


class MergedPair7(nn.Module):
    """1x7 then 7x1 convolution; the first is one full convolution for all copies."""

    def __init__(self, channels: int, copies: int, stride: int) -> None:
        super().__init__()
        self.copies = copies
        self.stride = stride
        width = copies * channels
        self.over_frequency = nn.Conv2d(
            channels, width, (1, 7), stride=(1, stride), padding=(0, 3), bias=False
        )
        self.over_time = nn.Conv2d(
            width, width, (7, 1), stride=(stride, 1), padding=(3, 0), groups=copies, bias=False
        )
        self.norm = _MergedNorm(channels, copies)

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Compute it; see :class:`MergedOperation`."""
        x = self.over_time(self.over_frequency(source.relu))
        return self.norm(x, strided(source.mask, self.stride), scale)  # type: ignore[no-any-return]

    def kernels(self, copy: int) -> list[Tensor]:
        """Return views of one copy's kernels."""
        return [
            _rows(convolution.weight, copy, self.copies)
            for convolution in (self.over_frequency, self.over_time)
        ]


class SharedPool(nn.Module):
    """Pooling and its batch norm, computed once because they are equal on every edge."""

    def __init__(self, pool: type[AvgPool3] | type[MaxPool3], channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.pool = pool(stride)
        self.norm = MaskedBatchNorm2d(channels, affine=False)

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Compute it; see :class:`MergedOperation`."""
        x = self.pool(source.value, source.mask)
        return scale_copies(self.norm(x, strided(source.mask, self.stride)), scale)

    def kernels(self, copy: int) -> list[Tensor]:
        """Return views of one copy's kernels."""
        return []


class SharedIdentity(nn.Module):
    """skip_connect at stride 1."""

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Compute it; see :class:`MergedOperation`."""
        return scale_copies(source.value, scale)

    def kernels(self, copy: int) -> list[Tensor]:
        """Return views of one copy's kernels."""
        return []


class MergedReduce(nn.Module):
    """skip_connect at stride 2: see FactorizedReduce."""

    def __init__(self, channels: int, copies: int) -> None:
        super().__init__()
        self.copies = copies
        half = channels // 2
        self.even = nn.Conv2d(channels, copies * half, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels, copies * (channels - half), 1, stride=2, bias=False)
        self.norm = _MergedNorm(channels, copies)

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Compute it; see :class:`MergedOperation`."""
        shifted = F.pad(source.relu, (0, 1, 0, 1))[:, :, 1:, 1:]
        parts = (self.even(source.relu), self.odd(shifted))
        split = [part.unflatten(1, (self.copies, -1)) for part in parts]
        x = torch.cat(split, dim=2).flatten(1, 2)  # (B, nC, T', F')
        return self.norm(x, strided(source.mask, 2), scale)  # type: ignore[no-any-return]

    def kernels(self, copy: int) -> list[Tensor]:
        """Return views of one copy's kernels."""
        return [
            _rows(convolution.weight, copy, self.copies) for convolution in (self.even, self.odd)
        ]


class Copies(nn.Module):
    """Separate copies of any operation of the table, for those without a merged form."""

    def __init__(self, operation: str, channels: int, copies: int, stride: int) -> None:
        super().__init__()
        self.operations = nn.ModuleList(
            build_operation(operation, channels, stride, affine=False) for _ in range(copies)
        )

    def forward(self, source: Source, scale: Tensor) -> Tensor:
        """Compute it; see :class:`MergedOperation`."""
        values = [
            operation(source.value, source.mask) * share
            for operation, share in zip(self.operations, scale.unbind(), strict=True)
        ]
        return torch.cat(values, dim=1)

    def kernels(self, copy: int) -> list[Tensor]:
        """Return one copy's kernels."""
        return [p.detach() for p in self.operations[copy].parameters() if p.dim() == 4]


class _Builder(Protocol):
    def __call__(self, channels: int, copies: int, stride: int) -> nn.Module: ...


def _separable(kernel: int, dilation: int, twice: bool) -> _Builder:
    def build(channels: int, copies: int, stride: int) -> nn.Module:
        return MergedSeparable(kernel, dilation, twice, channels, copies, stride)

    return build


def _pool(pool: type[AvgPool3] | type[MaxPool3]) -> _Builder:
    def build(channels: int, copies: int, stride: int) -> nn.Module:
        return SharedPool(pool, channels, stride)

    return build


def _skip(channels: int, copies: int, stride: int) -> nn.Module:
    return SharedIdentity() if stride == 1 else MergedReduce(channels, copies)


def build_merged(operation: str, channels: int, copies: int, stride: int) -> nn.Module:
    """Build ``copies`` instances of an operation, merged if it has a merged form."""
    if operation in MERGED:
        return MERGED[operation](channels, copies, stride)
    return Copies(operation, channels, copies, stride)


MERGED: Registry[_Builder] = Registry("merged operation")
MERGED.add("max_pool_3x3", _pool(MaxPool3))
MERGED.add("avg_pool_3x3", _pool(AvgPool3))
MERGED.add("skip_connect", _skip)
MERGED.add("sep_conv_3x3", _separable(3, 1, twice=True))
MERGED.add("sep_conv_5x5", _separable(5, 1, twice=True))
MERGED.add("dil_conv_3x3", _separable(3, 2, twice=False))
MERGED.add("dil_conv_5x5", _separable(5, 2, twice=False))
MERGED.add("conv_7x1_1x7", MergedPair7)
