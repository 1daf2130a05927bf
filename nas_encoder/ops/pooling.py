"""3x3 pooling operations that never see padding, neither at the borders nor in a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops.masking import strided


class AvgPool3(nn.Module):
    """3x3 average pooling that divides by the number of valid positions in the window."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    @classmethod
    def build(cls, channels: int, stride: int, affine: bool) -> AvgPool3:
        """Build it; pooling has no parameters, so channels and affine play no part."""
        return cls(stride)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        if mask is None:
            return F.avg_pool2d(x, 3, self.stride, padding=1, count_include_pad=False)
        # Both averages divide by 9, so their ratio divides by the number of valid positions.
        share = F.avg_pool2d(mask.expand(-1, -1, -1, x.size(3)), 3, self.stride, padding=1)
        kept = strided(mask, self.stride)
        assert kept is not None
        factor = (kept / share.clamp(min=1 / 16)).to(x.dtype)
        return F.avg_pool2d(x, 3, self.stride, padding=1) * factor


class MaxPool3(nn.Module):
    """3x3 max pooling over valid positions."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    @classmethod
    def build(cls, channels: int, stride: int, affine: bool) -> MaxPool3:
        """Build it; pooling has no parameters, so channels and affine play no part."""
        return cls(stride)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        if mask is None:
            return F.max_pool2d(x, 3, self.stride, padding=1)
        lowest = torch.finfo(x.dtype).min  # not -inf: a window of padding only must stay finite
        x = F.max_pool2d(x.masked_fill(mask == 0, lowest), 3, self.stride, padding=1)
        kept = strided(mask, self.stride)
        assert kept is not None
        return x.masked_fill(kept == 0, 0.0)
