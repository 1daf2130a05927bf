"""The operation: a 3x3 convolution whose output gates itself (Dauphin et al. 2017)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_encoder.ops.chunks import Chunk, Window, bins_after
from nas_encoder.ops.convolution import delayed, in_window
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d


class GatedConv3(nn.Module):
    """ReLU, 3x3 convolution to 2 C channels, gated linear unit, batch norm.

    Attributes:
        window: Input frames that an output frame is made of.
    """

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        self.stride = stride
        self.window = Window(1, 1, stride)
        self.conv = nn.Conv2d(channels, 2 * channels, 3, stride, padding=1, bias=False)
        self.norm = MaskedBatchNorm2d(channels, affine=affine)

    @property
    def context(self) -> tuple[int, int]:
        """Input frames that an output frame sees before and after the first of its own."""
        return self.window.context

    def make_causal(self) -> None:
        """See no further than a frame's own frames. It may be left out."""
        self.window = self.window.causal()

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T / s), ceil(F / s)); see :mod:`nas_encoder.ops`."""
        y = delayed(self.conv, torch.relu(x), self.window.delay)
        return self._gated(y, strided(mask, self.stride))

    def _gated(self, y: Tensor, mask: Tensor | None) -> Tensor:
        value, gate = y.chunk(2, dim=1)
        out: Tensor = self.norm(value * gate.sigmoid(), mask)
        return out

    def first_cache(self, empty: Tensor) -> Tensor:
        """Return the cache of streams (B, 0, F, C). It and ``step`` may be left out."""
        return self.window.first_cache(empty)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, F, C) to the frames that are complete."""
        shape = bins_after(chunk.x, self.stride), self.conv.out_channels // 2
        chunk, cache = self.window.step(chunk, cache, self._under, shape)
        return chunk.holding(chunk.cleared()), cache

    def _under(self, x: Tensor, _: Chunk) -> Tensor:
        return self._gated(in_window(self.conv, torch.relu(x)), None)
