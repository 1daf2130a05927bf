"""Convolutional operations. Kernels are given as (time, frequency)."""

from __future__ import annotations

from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops.depthwise import DepthwiseConv2d
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d


class _DepthwisePointwise(nn.Module):
    """ReLU, depthwise k x k convolution, pointwise convolution, batch norm."""

    def __init__(
        self, kernel: int, channels: int, stride: int, affine: bool, dilation: int = 1
    ) -> None:
        super().__init__()
        self.stride = stride
        self.context = (dilation * (kernel // 2),) * 2
        self.depthwise = DepthwiseConv2d(channels, kernel, stride, dilation)
        self.pointwise = nn.Conv2d(channels, channels, 1, bias=False)
        self.norm = MaskedBatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        x = self.pointwise(self.depthwise(F.relu(x)))
        return self.norm(x, strided(mask, self.stride))  # type: ignore[no-any-return]


class SeparableConv(nn.Module):
    """Separable convolution, applied twice (Liu et al. 2019, section 3.1); stride in the first."""

    def __init__(self, kernel: int, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.first = _DepthwisePointwise(kernel, channels, stride, affine)
        self.second = _DepthwisePointwise(kernel, channels, 1, affine)
        self.context = (kernel // 2 * (1 + stride),) * 2

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        x = self.first(x, mask)
        return self.second(x, strided(mask, self.stride))  # type: ignore[no-any-return]


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

    context = (3, 3)

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.over_frequency = nn.Conv2d(
            channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False
        )
        self.over_time = nn.Conv2d(
            channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False
        )
        self.norm = MaskedBatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        # Neither has a bias, so padding frames are still zero for the second.
        x = self.over_time(self.over_frequency(F.relu(x)))
        return self.norm(x, strided(mask, self.stride))  # type: ignore[no-any-return]


SEP_CONV_3X3 = partial(SeparableConv, 3)
SEP_CONV_5X5 = partial(SeparableConv, 5)
DIL_CONV_3X3 = partial(DilatedConv, 3)
DIL_CONV_5X5 = partial(DilatedConv, 5)
