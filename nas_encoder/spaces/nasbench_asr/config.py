"""Options of the NAS-Bench-ASR network, checked as a whole before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nas_encoder.common.fields import flag, integer, option, share, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.spaces.options import NetworkOptions, SearchedNetwork

STRIDES = (1, 1, 2, 2)  # in time, of the convolution that starts each block
SUBSAMPLING = 4
KERNEL = 8
EPSILON = 1e-3  # of the layer norms
CLIP = 20.0  # the upper bound of the ReLUs
PUBLISHED: dict[str, Any] = {
    "input_size": 80,
    "channels": 600,
    "output_size": 500,
    "lstm_size": 500,
    "dropout": 0.2,
}
"""The published network of Mehrotra et al. 2021, section 3.2, except for its classes."""

BLOCK_CELLS = (3, 4, 5, 6)
"""Cells of each block in the paper."""

_WIDTHS = (3, 4, 5, 6)  # of the blocks, in thirds of the first: 600, 800, 1000, 1200


@dataclass(frozen=True)
class NasBenchSection(SearchedNetwork):
    """The section ``network`` of a search.

    Attributes:
        lstm_size: Width of the LSTM, 0 for none.
        block_cells: Cells of each of the four blocks; empty to spread a stage's layers over them
            as in the paper, 3 to 4 to 5 to 6.
    """

    lstm_size: int = option(0, integer(0, 16384))
    block_cells: tuple[int, ...] = option((), tuple_of(integer(0, 256), 0, 4))


@dataclass(frozen=True)
class NasBenchConfig(NetworkOptions):
    """Everything but the genotype that a NAS-Bench-ASR network is built from.

    ``block_cells`` sets the number of cells: ``layers`` is ignored.

    Attributes:
        input_size: F, number of frequency bins of the features; 80 in the paper.
        channels: C, filters of the first block; the others have 4/3, 5/3 and 2 times as many,
            rounded up to a multiple of the groups. 600 in the paper.
        output_size: D, features of an output frame. If it is not the width of the LSTM, or
            without one that of the last block, a fully connected layer with ReLU follows (the
            paper has none).
        dropout: Dropout probability after every operation of a cell and before the LSTM; 0.2 in
            the paper.
        lstm_size: Width of the LSTM after the last block, 500 in the paper; 0 for none.
        block_cells: Cells of each block; 3, 4, 5 and 6 in the paper.
        block_filters: Filters of each block, overriding ``channels``; empty for that rule.
        conv_groups: Groups of a cell's convolutions; 100 in the paper. 0 for the largest divisor
            of ``channels`` that leaves at least 6 filters per group in the first block, as there.
        deltas: Whether to append delta and delta-delta features; not in the paper.
        taps: Cells, counted from 1, after which an intermediate output is taken (InterCTC); they
            must be in the last block, where the frame rate is the output's.
        conditioning: Whether a function of each tap is fed back into the network.
    """

    input_size: int = option(80, integer(1, 4096))
    channels: int = option(600, integer(1, 16384))
    output_size: int = option(500, integer(1, 65536))
    dropout: float = option(0.0, share)
    lstm_size: int = option(0, integer(0, 16384))
    block_cells: tuple[int, ...] = option(BLOCK_CELLS, tuple_of(integer(0, 256), 4, 4))
    block_filters: tuple[int, ...] = option((), tuple_of(integer(1, 65536), 0, 4))
    conv_groups: int = option(0, integer(0, 16384))
    deltas: bool = option(False, flag)
    taps: tuple[int, ...] = option((), tuple_of(integer(1), 0, 64, once="a cell"))
    conditioning: bool = option(False, flag)

    subsampling_factor = SUBSAMPLING

    @property
    def groups(self) -> int:
        """Groups of a cell's convolutions."""
        if self.conv_groups:
            return self.conv_groups
        first = self.block_filters[0] if self.block_filters else self.channels
        return max((n for n in range(1, first // 6 + 1) if first % n == 0), default=1)

    @property
    def filters(self) -> tuple[int, ...]:
        """Filters of each block."""
        if self.block_filters:
            return self.block_filters
        groups = self.groups
        return tuple(-(-self.channels * w // (3 * groups)) * groups for w in _WIDTHS)

    def conflicts(self, found: Problems) -> None:
        """Check that groups divide the filters, and the positions of intermediate outputs."""
        super().conflicts(found)
        blocks, groups, filters = len(STRIDES), self.conv_groups, self.block_filters
        if filters and len(filters) != blocks:
            rule = f"must have {blocks} entries or none, has {len(filters)}"
            found.conflict("block_filters", rule)
        if groups and not filters and self.channels % groups:
            rule = f"must divide channels, got {groups} for {self.channels}"
            found.conflict("conv_groups", rule, "channels", "block_filters")
        for place, width in enumerate(filters):
            if width % self.groups:
                rule = f"must be a multiple of the {self.groups} groups (conv_groups), got {width}"
                found.conflict(f"block_filters[{place}]", rule, "conv_groups")
        first, last = sum(self.block_cells[:-1]) + 1, sum(self.block_cells) - 1
        if self.taps and first > last:
            rule = "the last block has no cell before its last one"
            found.conflict("taps", rule, "block_cells")
        elif found.sound("block_cells"):
            self.check_taps(first, last, found)


def spread_cells(layers: int) -> tuple[int, ...]:
    """Return the number of cells of each block of NAS-Bench-ASR: in proportion 3 to 4 to 5 to 6."""
    whole = sum(BLOCK_CELLS)
    counts = [layers * share // whole for share in BLOCK_CELLS]
    rest = [layers * share % whole for share in BLOCK_CELLS]
    by_rest = sorted(range(len(rest)), key=lambda block: (-rest[block], block))
    for block in by_rest[: layers - sum(counts)]:
        counts[block] += 1
    return tuple(counts)
