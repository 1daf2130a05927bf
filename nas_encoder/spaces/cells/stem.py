"""The beginning of the network: delta features as channels and a convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_encoder.network.deltas import input_image
from nas_encoder.ops.masking import is_capturing, strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.spaces.cells.cell import State
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.stack import STEM_WIDTH


class Stem(nn.Module):
    """Deltas, 3x3 convolution to 3C channels (as in DARTS), batch norm."""

    def __init__(self, config: CellConfig) -> None:
        super().__init__()
        self.deltas = config.deltas
        self.stride = config.stem_stride
        self.output_channels = STEM_WIDTH * config.channels
        self.conv = nn.Conv2d(
            3 if config.deltas else 1,
            self.output_channels,
            3,
            stride=config.stem_stride,
            padding=1,
            bias=False,
        )
        self.norm = MaskedBatchNorm2d(self.output_channels)

    def forward(self, x: Tensor, lengths: Tensor | None) -> State:
        """Map features (B, T, F) to a feature map (B, 3C, ceil(T/s), ceil(F/r)), stride (s, r).

        Values in padding frames are ignored; ``lengths`` (B,) is None if no utterance is padded.
        """
        image, mask = input_image(x, lengths, self.deltas)
        if image.device.type == "cpu" and not is_capturing():
            # All later feature maps keep this layout, in which oneDNN's depthwise convolutions
            # are several times faster, above all in the backward pass.
            image = image.contiguous(memory_format=torch.channels_last)
        mask = strided(mask, self.stride[0])
        return State(self.norm(self.conv(image), mask), mask)
