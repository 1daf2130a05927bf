"""From a genotype to a network: stacked frames, blocks in a row, a linear layer.

B batch, T frames, S the factor, C channels, D output features.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.genotype import Genotype
from nas_encoder.network.deltas import WINDOW, input_frames
from nas_encoder.network.tapped import TappedEncoder, Taps
from slim_chain.space import WIDTHS, SlimChain, SlimOptions

KERNELS = {"identity": 1, "average3": 3, "conv3": 3, "conv5": 5}


class Block(nn.Module):
    """One operation over time on (B, T, C), zero in padding frames as its input is.

    Channels that the operation lacks at its input or output are zeros.
    """

    def __init__(self, operation: str, inputs: int, width: int) -> None:
        super().__init__()
        self.kernel = KERNELS[operation]
        self.width = self.output_channels = width
        self.conv: nn.Conv1d | None = None
        if operation.startswith("conv"):
            self.conv = nn.Conv1d(inputs, width, self.kernel, padding=self.kernel // 2)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, C') to (B, T, C)."""
        y = x.transpose(1, 2)
        if self.conv is not None:
            y = F.relu(self.conv(y))
        elif self.kernel > 1:
            y = F.avg_pool1d(y, self.kernel, stride=1, padding=self.kernel // 2)
        y = fit(y.transpose(1, 2), self.width)
        return y if mask is None else y * mask.to(y.dtype)


def fit(x: Tensor, width: int) -> Tensor:
    """Leave out the last channels, or add zeros, until there are so many."""
    return F.pad(x, (0, width - x.size(-1)))


class Row(TappedEncoder):
    """What the networks and the supernet share: everything but the blocks."""

    def __init__(self, options: SlimOptions) -> None:
        super().__init__(options)
        features = options.input_size * (3 if options.deltas else 1) * options.factor
        self.first = nn.Linear(features, WIDTHS[-1])
        self.head = nn.Linear(WIDTHS[-1], options.output_size)

    def stacked(self, x: Tensor, lengths: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Map (B, T, F) to (B, ceil(T / S), C), with the mask of these frames."""
        x, mask = input_frames(x, lengths, self.config.deltas)
        factor = self.config.factor
        x = F.pad(x, (0, 0, 0, -x.size(1) % factor))
        mask = None if mask is None else mask[:, ::factor]
        return masked(F.relu(self.first(x.reshape(x.size(0), -1, factor * x.size(2)))), mask), mask

    def output(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map what leaves a block to (B, T', D)."""
        return masked(self.head(fit(x, WIDTHS[-1])), mask)


def masked(x: Tensor, mask: Tensor | None) -> Tensor:
    """Set padding frames to zero."""
    return x if mask is None else x * mask.to(x.dtype)


class SlimEncoder(Row):
    """The network of a genotype."""

    def __init__(self, genotype: Genotype, options: SlimOptions) -> None:
        super().__init__(options)
        self.genotype = genotype
        blocks: Sequence[tuple[str, int]] = genotype.architecture.blocks
        widths = [WIDTHS[-1], *(width for _, width in blocks)]
        self.blocks = nn.ModuleList(
            Block(op, inputs, width) for (op, width), inputs in zip(blocks, widths, strict=False)
        )
        self.possible_taps = tuple(range(1, len(blocks)))
        if options.conditioning:
            self.condition = nn.Linear(options.output_size, WIDTHS[-1])

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / S), D)."""
        x, mask = self.stacked(x, lengths)
        for number, block in enumerate(self.blocks, 1):
            x = block(x, mask)
            given = taps.take(number, partial(self.output, x, mask))
            if given is not None:
                x = x + masked(fit(self.condition(given), x.size(-1)), mask)
            x = F.dropout(x, self.config.dropout, self.training)
        return self.output(x, mask)

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most; with it the network streams."""
        return receptive_field(self.genotype.architecture, self.config)


build = SlimEncoder


def receptive_field(architecture: SlimChain, options: SlimOptions) -> ReceptiveField:
    """Return the receptive field of an output frame in time."""
    field = ReceptiveField().plus(2 * WINDOW if options.deltas else 0)
    field = field.plus(0, options.factor - 1)
    for op, _ in architecture.blocks:
        field = field.plus(KERNELS[op] // 2 * options.factor)
    return field
