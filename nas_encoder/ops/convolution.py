"""Convolutional operations. Kernels are given as (time, frequency)."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops.chunks import Chunk, Window, bins_after
from nas_encoder.ops.depthwise import DepthwiseConv2d
from nas_encoder.ops.fused import can_fuse, pair_norm, pointwise_norm
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d


def delayed(convolution: nn.Conv2d, x: Tensor, delay: int) -> Tensor:
    """Convolve (B, C, T, F) with the kernel ``delay`` frames further back than the module has it.

    The module's own zero padding in time is that of a centred kernel.
    """
    padding: Any = convolution.padding
    over_time, over_bins = padding
    if not delay:
        return convolution(x)  # type: ignore[no-any-return]
    x = F.pad(x, (0, 0, over_time + delay, over_time - delay))
    return _without_padding(convolution, x, over_bins)


def in_window(convolution: nn.Conv2d, x: Tensor) -> Tensor:
    """Convolve the frames under complete windows, (B, C, n, F), without padding in time."""
    padding: Any = convolution.padding
    return _without_padding(convolution, x, padding[1])


def _without_padding(convolution: nn.Conv2d, x: Tensor, over_bins: int) -> Tensor:
    own: Any = convolution
    return F.conv2d(x, own.weight, own.bias, own.stride, (0, over_bins), own.dilation, own.groups)


class _DepthwisePointwise(nn.Module):
    """ReLU, depthwise k x k convolution, pointwise convolution, batch norm."""

    def __init__(
        self, kernel: int, channels: int, stride: int, affine: bool, dilation: int = 1
    ) -> None:
        super().__init__()
        self.stride = stride
        reach = dilation * (kernel // 2)
        self.window = Window(reach, reach, stride)
        self.depthwise = DepthwiseConv2d(channels, kernel, stride, dilation)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = MaskedBatchNorm2d(channels, affine=affine)

    @property
    def context(self) -> tuple[int, int]:
        """Input frames before and after the first of a frame's own."""
        return self.window.context

    def make_causal(self) -> None:
        """See no further than a frame's own frames."""
        self.window = self.window.causal()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        mask = strided(mask, self.stride)
        if not self.window.delay and can_fuse(x, mask, self.norm, self.depthwise, self.pointwise):
            return pointwise_norm(x, self.pointwise, self.norm, mask, self.depthwise)
        x = self.pointwise(self.depthwise(F.relu(x), self.window.delay))
        return self.norm(x, mask)  # type: ignore[no-any-return]

    def first_cache(self, empty: Tensor) -> Tensor:
        """Return the cache of streams (B, 0, F, C)."""
        return self.window.first_cache(empty)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, F, C) to the frames that are complete."""
        shape = bins_after(chunk.x, self.stride), self.pointwise.out_channels
        chunk, cache = self.window.step(chunk, cache, self._under, shape)
        return chunk.holding(chunk.cleared()), cache

    def _under(self, x: Tensor, _: Chunk) -> Tensor:
        x = in_window(self.depthwise, F.relu(x))
        return self.norm(self.pointwise(x))  # type: ignore[no-any-return]


class SeparableConv(nn.Module):
    """Separable convolution, applied twice (Liu et al. 2019, section 3.1); stride in the first."""

    def __init__(self, kernel: int, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.first = _DepthwisePointwise(kernel, channels, stride, affine)
        self.second = _DepthwisePointwise(kernel, channels, 1, affine)

    @property
    def context(self) -> tuple[int, int]:
        """Input frames before and after the first of a frame's own."""
        return self.first.window.then(self.second.window).context

    def make_causal(self) -> None:
        """See no further than a frame's own frames."""
        self.first.make_causal()
        self.second.make_causal()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        x = self.first(x, mask)
        return self.second(x, strided(mask, self.stride))  # type: ignore[no-any-return]

    def first_cache(self, empty: Tensor) -> tuple[Tensor, Tensor]:
        """Return the caches of streams (B, 0, F, C), one of each half."""
        between = empty[:, :, :: self.stride]
        return self.first.first_cache(empty), self.second.first_cache(between)

    def step(
        self, chunk: Chunk, cache: tuple[Tensor, Tensor]
    ) -> tuple[Chunk, tuple[Tensor, Tensor]]:
        """Map a chunk (B, t, F, C) to the frames that are complete."""
        chunk, first = self.first.step(chunk, cache[0])
        chunk, second = self.second.step(chunk, cache[1])
        return chunk, (first, second)


class DilatedConv(_DepthwisePointwise):
    """Separable convolution of dilation 2, applied once (Liu et al. 2019, section 3.1)."""

    def __init__(self, kernel: int, channels: int, stride: int, affine: bool) -> None:
        super().__init__(kernel, channels, stride, affine, dilation=2)


class ConvPair7(nn.Module):
    """1x7 then 7x1 convolution (He et al. 2020, section 3.2; Real et al. 2019).

    ReLU, 1x7 along frequency, 7x1 along time, batch norm; both are full convolutions from C to
    C channels (14 C^2 weights), each strided along its own axis. tests/unit/test_zoo.py derives
    that the parameter counts of the paper's tables need full convolutions.
    """

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.window = Window(3, 3, stride)
        self.over_frequency = nn.Conv2d(
            channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False
        )
        self.over_time = nn.Conv2d(
            channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False
        )
        self.norm = MaskedBatchNorm2d(channels, affine=affine)

    @property
    def context(self) -> tuple[int, int]:
        """Input frames before and after the first of a frame's own."""
        return self.window.context

    def make_causal(self) -> None:
        """See no further than a frame's own frames."""
        self.window = self.window.causal()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        mask = strided(mask, self.stride)
        pair = self.over_frequency, self.over_time
        if not self.window.delay and can_fuse(x, mask, self.norm, *pair):
            return pair_norm(x, *pair, self.norm, mask)
        # Neither has a bias, so padding frames are still zero for the second.
        x = delayed(self.over_time, self.over_frequency(F.relu(x)), self.window.delay)
        return self.norm(x, mask)  # type: ignore[no-any-return]

    def first_cache(self, empty: Tensor) -> Tensor:
        """Return the cache of streams (B, 0, F, C), of what is between the convolutions."""
        return self.window.first_cache(empty[:, :, :: self.stride])

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, F, C) to the frames that are complete."""
        bins = bins_after(chunk.x, self.stride)
        x = chunk.x[:, :, :: self.stride]
        if chunk.size:
            x = self.over_frequency(F.relu(chunk.x.permute(0, 3, 1, 2))).permute(0, 2, 3, 1)
        shape = bins, self.over_time.out_channels
        chunk, cache = self.window.step(chunk.holding(x), cache, self._under, shape)
        return chunk.holding(chunk.cleared()), cache

    def _under(self, x: Tensor, _: Chunk) -> Tensor:
        return self.norm(in_window(self.over_time, x))  # type: ignore[no-any-return]


SEP_CONV_3X3 = partial(SeparableConv, 3)
SEP_CONV_5X5 = partial(SeparableConv, 5)
DIL_CONV_3X3 = partial(DilatedConv, 3)
DIL_CONV_5X5 = partial(DilatedConv, 5)
