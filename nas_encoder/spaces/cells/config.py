"""Options of the cell network, checked as a whole before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nas_encoder.common.fields import integer, option, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.spaces.cells.stack import live_cells, read_by_any, reductions
from nas_encoder.spaces.options import (
    ANYTHING,
    NetworkOptions,
    SearchedNetwork,
    check_conditioning,
    check_flags,
    check_integers,
    check_shares,
    check_taps,
    shared,
)

CELL_REDUCTION = 4  # two reduction cells


@dataclass(frozen=True)
class CellSection(SearchedNetwork):
    """The section ``network`` of a search.

    Attributes:
        stem_stride: See :class:`CellConfig`.
        hidden_sizes: Likewise.
    """

    stem_stride: tuple[int, int] = option(
        (1, 1), tuple_of(integer(1, 2), 2, 2, names=("time", "frequency"))
    )
    hidden_sizes: tuple[int, ...] = option((), tuple_of(integer(1, 65536), 0, 16))


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
        hidden_sizes: Widths of more fully connected layers before the output layer.
        dropout: Probability, before each fully connected layer.
        drop_path: Probability with which an operation's output is dropped for an utterance, in
            training (Larsson et al. 2017; DARTS raises it over the training, see
            :meth:`~nas_encoder.spaces.cells.network.CellEncoder.set_drop_path`).
        deltas: Whether delta and delta-delta are computed as channels 2 and 3; without them the
            network sees one channel.
        checkpointing: Recompute each cell in the backward pass instead of keeping its
            activations.
        taps: Cells, counted from 1, after which an intermediate output is taken (InterCTC);
            they must follow the second reduction, where the frame rate is the output's.
        conditioning: Whether a function of each tap is fed back into the network
            (self-conditioned CTC, Nozaki and Komatsu 2021).
    """

    network: ClassVar[str] = "a cell network"

    input_size: int = 40
    channels: int = 24
    layers: int = shared(17, off=ANYTHING)
    output_size: int = 512
    stem_stride: tuple[int, int] = shared((1, 1))
    hidden_sizes: tuple[int, ...] = shared(())
    dropout: float = 0.0
    drop_path: float = shared(0.0)
    deltas: bool = True
    checkpointing: bool = shared(False)
    taps: tuple[int, ...] = ()
    conditioning: bool = False

    @property
    def reductions(self) -> tuple[int, int]:
        """Indices, from 0, of the two reduction cells (He et al. 2020, section 3.1)."""
        return reductions(self.layers)

    @property
    def subsampling_factor(self) -> int:
        """Input frames for each output frame."""
        return CELL_REDUCTION * self.stem_stride[0]

    def problems(self, architecture: Any = None) -> list[str]:
        """Return one line for each rule that is broken, led by the field's name."""
        found = Problems()
        bounds = {
            "input_size": (4, 4096),
            "channels": (1, 4096),
            "layers": (2, 1024),
            "output_size": (1, 65536),
        }
        check_integers(self, bounds, found)
        strides = found.sequence(self.stem_stride, "stem_stride", 2, 2)
        for axis, stride in zip(("time", "frequency"), strides or (), strict=False):
            found.integer(stride, f"stem_stride ({axis})", 1, 2)
        widths = found.sequence(self.hidden_sizes, "hidden_sizes", 0, 16)
        for place, size in enumerate(widths or ()):
            found.integer(size, f"hidden_sizes[{place}]", 1, 65536)
        check_shares(self, ("dropout", "drop_path"), found)
        check_flags(self, ("deltas", "checkpointing", "conditioning"), found)
        taps = found.sequence(self.taps, "taps", 0, 64) or []
        if taps and not found:
            check_taps(taps, self.reductions[1] + 1, self.layers - 1, "cell", found)
        check_conditioning(self, "cell", found)
        if not found and self.conditioning and architecture is not None:
            read = read_by_any(architecture, live_cells(architecture, self), self.layers)
            for place, tap in enumerate(self.taps):
                if tap - 1 not in read:
                    found.add(
                        f"taps[{place}]",
                        f"no later cell of this genotype reads cell {tap}, so conditioning has no "
                        "effect there; choose another cell",
                    )
        return found.lines
