"""The operation: a 3x3 convolution whose output gates itself (Dauphin et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d


class GatedConv3(nn.Module):
    """ReLU, 3x3 convolution to 2 C channels, gated linear unit, batch norm.

    Attributes:
        context: Input frames that an output frame sees before and after the first of its own.
    """

    context = (1, 1)

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride, padding=1, bias=False)
        self.norm = MaskedBatchNorm2d(channels, affine=affine)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T / s), ceil(F / s)); see :mod:`nas_encoder.ops`."""
        value, gate = self.conv(torch.relu(x)).chunk(2, dim=1)
        y: Tensor = self.norm(value * gate.sigmoid(), strided(mask, self.stride))
        return y
