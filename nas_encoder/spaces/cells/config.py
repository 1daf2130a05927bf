"""Options of the cell network, checked as a whole before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nas_encoder.common.fields import flag, integer, option, share, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.spaces.cells.stack import live_cells, read_by_any, reductions
from nas_encoder.spaces.options import (
    ANYTHING,
    NetworkOptions,
    SearchedNetwork,
    shared,
)

CELL_REDUCTION = 4  # two reduction cells
STEM_STRIDE = tuple_of(integer(1, 2), 2, 2, names=("time", "frequency"))
HIDDEN_SIZES = tuple_of(integer(1, 65536), 0, 16)


@dataclass(frozen=True)
class CellSection(SearchedNetwork):
    """The section ``network`` of a search; for its options see :class:`CellConfig`."""

    stem_stride: tuple[int, int] = option((1, 1), STEM_STRIDE)
    hidden_sizes: tuple[int, ...] = option((), HIDDEN_SIZES)


@dataclass(frozen=True)
class CellConfig(NetworkOptions):
    """Everything but the genotype that a cell network is built from.

    Attributes:
        input_size: F, number of frequency bins of the features.
        channels: C, the channels of a cell's operations before the first reduction.
        layers: L, number of cells; cells L//3 and 2L//3 (counted from 0) are reductions.
        output_size: Features of an output frame.
        stem_stride: Stride of the stem convolution in time and frequency. (1, 1) as published;
            2 in frequency halves the cost of small models, 2 in time makes the reduction in
            time 8 instead of 4.
        hidden_sizes: Widths of additional fully connected layers before the output layer.
        dropout: Dropout probability before each fully connected layer.
        drop_path: Probability of dropping an operation's output for an utterance, in training
            (Larsson et al. 2017; DARTS raises it over the training, see
            :meth:`~nas_encoder.spaces.cells.network.CellEncoder.set_drop_path`).
        deltas: Whether to compute delta and delta-delta as channels 2 and 3; without them the
            network sees one channel.
        checkpointing: Recompute each cell in the backward pass instead of storing its
            activations.
        taps: Cells, counted from 1, after which an intermediate output is taken (InterCTC);
            they must follow the second reduction, where the frame rate is the output's.
        conditioning: Whether a function of each tap is fed back into the network
            (self-conditioned CTC, Nozaki and Komatsu 2021).
    """

    network: ClassVar[str] = "a cell network"

    input_size: int = option(40, integer(4, 4096))
    channels: int = option(24, integer(1, 4096))
    layers: int = shared(17, integer(2, 1024), off=ANYTHING)
    output_size: int = option(512, integer(1, 65536))
    stem_stride: tuple[int, int] = shared((1, 1), STEM_STRIDE)
    hidden_sizes: tuple[int, ...] = shared((), HIDDEN_SIZES)
    dropout: float = option(0.0, share)
    drop_path: float = shared(0.0, share)
    deltas: bool = option(True, flag)
    checkpointing: bool = shared(False, flag)
    taps: tuple[int, ...] = option((), tuple_of(integer(1), 0, 64, once="a cell"))
    conditioning: bool = option(False, flag)

    @property
    def reductions(self) -> tuple[int, int]:
        """Indices, from 0, of the two reduction cells (He et al. 2020, section 3.1)."""
        return reductions(self.layers)

    @property
    def subsampling_factor(self) -> int:
        """Input frames per output frame."""
        return CELL_REDUCTION * self.stem_stride[0]

    def conflicts(self, found: Problems) -> None:
        """Check the positions of intermediate outputs."""
        super().conflicts(found)
        if found.sound("layers"):
            self.check_taps(self.reductions[1] + 1, self.layers - 1, found)

    def fits(self, architecture: Any, found: Problems) -> None:
        """Check that some cell reads what is fed back."""
        if not self.conditioning or not found.sound("layers"):
            return
        read = read_by_any(architecture, live_cells(architecture, self), self.layers)
        for place, tap in enumerate(self.taps):
            if tap - 1 not in read:
                found.conflict(
                    f"taps[{place}]",
                    f"no later cell of this genotype reads cell {tap}, so conditioning has no "
                    "effect there; choose another cell",
                )
