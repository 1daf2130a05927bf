"""The beginning of the network: delta features as channels and a convolution."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_encoder.network.deltas import DeltaStream, input_image
from nas_encoder.ops.chunks import Chunk, Window
from nas_encoder.ops.convolution import delayed, in_window
from nas_encoder.ops.masking import is_capturing, strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.spaces.cells.cell import State
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.stack import STEM_WIDTH


class Stem(nn.Module):
    """Deltas, 3x3 convolution to 3C channels (as in DARTS), batch norm.

    Args:
        config: ``channels``, ``deltas``, ``input_size`` and ``stem_stride``.
        causal: Whether it sees no further than a frame's own input frames.
    """

    def __init__(self, config: CellConfig, causal: bool = False) -> None:
        super().__init__()
        self.deltas, self.causal = config.deltas, causal
        self.stride = config.stem_stride
        self.window = stem_window(config.stem_stride[0], causal)
        self.arriving = DeltaStream(config.deltas, causal)
        self.bins = -(-config.input_size // config.stem_stride[1])
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
        image, mask = input_image(x, lengths, self.deltas, self.causal)
        if image.device.type == "cpu" and not is_capturing():
            # All later feature maps keep this layout, in which oneDNN's depthwise convolutions
            # are several times faster, above all in the backward pass.
            image = image.contiguous(memory_format=torch.channels_last)
        mask = strided(mask, self.stride[0])
        return State(self.norm(delayed(self.conv, image, self.window.delay), mask), mask)

    def first_cache(self, empty: Tensor) -> tuple[tuple[Tensor, ...], Tensor]:
        """Return the caches of streams of features (B, 0, F)."""
        image = empty.unsqueeze(3).expand(-1, -1, -1, self.conv.in_channels)
        return self.arriving.first_cache(empty), self.window.first_cache(image)

    def step(
        self, chunk: Chunk, cache: tuple[tuple[Tensor, ...], Tensor]
    ) -> tuple[Chunk, tuple[tuple[Tensor, ...], Tensor]]:
        """Map a chunk (B, t, F), zero past the ends, to the frames (B, t', F', 3C) complete."""
        chunk, first = self.arriving.step(chunk, cache[0])
        shape = self.bins, self.output_channels
        chunk, second = self.window.step(chunk, cache[1], self._under, shape)
        return chunk.holding(chunk.cleared()), (first, second)

    def _under(self, x: Tensor, _: Chunk) -> Tensor:
        return self.norm(in_window(self.conv, x))  # type: ignore[no-any-return]


def stem_window(stride: int, causal: bool) -> Window:
    """Return what the stem's convolution sees in time."""
    window = Window(1, 1, stride)
    return window.causal() if causal else window
