"""The baseline: GRU layers over stacked frames.

Cho et al. 2014 (arXiv 1406.1078). Ours: stacked frames at a low frame rate, a skip connection
around each layer and a layer normalization in front of it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.common.fields import Declared, integer, option, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.network.deltas import input_frames
from nas_encoder.network.tapped import TappedEncoder, Taps


@dataclass(frozen=True)
class GRUConfig(Declared):
    """Options of the baseline."""

    input_size: int = option(40, integer(1, 4096))
    output_size: int = option(256, integer(1, 4096))
    layers: int = option(3, integer(1, 32))
    subsampling_factor: int = option(4, integer(1, 8))
    taps: tuple[int, ...] = option((), tuple_of(integer(1), 0, 32))

    def conflicts(self, found: Problems) -> None:
        """Report what does not fit together."""
        for place, tap in enumerate(self.taps):
            found.integer(tap, f"taps[{place}]", 1, self.layers - 1)


class Layer(nn.Module):
    """One layer with its skip connection; it runs forward, so padding at the end has no effect."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(size)
        self.gru = nn.GRU(size, size, batch_first=True)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, D) to (B, T, D), zero in padding frames."""
        y: Tensor = x + self.gru(self.norm(x))[0]
        return y if mask is None else y * mask.to(y.dtype)


class StackedGRU(TappedEncoder):
    """GRU layers over stacked frames."""

    Config = GRUConfig

    def __init__(self, config: GRUConfig) -> None:
        super().__init__(config)
        self.first = nn.Linear(config.input_size * config.subsampling_factor, config.output_size)
        self.blocks = nn.ModuleList(Layer(config.output_size) for _ in range(config.layers))
        self.norm = nn.LayerNorm(config.output_size)
        self.possible_taps = tuple(range(1, config.layers))

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / S), D)."""
        x, mask = input_frames(x, lengths, deltas=False)
        factor = self.subsampling_factor
        x = F.pad(x, (0, 0, 0, -x.size(1) % factor))
        mask = None if mask is None else mask[:, ::factor]
        x = self.first(x.reshape(x.size(0), -1, factor * x.size(2)))
        for number, layer in enumerate(self.blocks, 1):
            x = layer(x, mask)
            added = taps.take(number, partial(self.output, x, mask))
            x = x if added is None else x + added
        return self.output(x, mask)

    def output(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return the normalized frames, zero in padding."""
        y: Tensor = self.norm(x)
        return y if mask is None else y * mask.to(y.dtype)
