"""Options of the cell network, checked as a whole before anything is built."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_encoder.common.problems import Problems
from nas_encoder.errors import ConfigError
from nas_encoder.network.option_rules import (
    check_conditioning,
    check_flags,
    check_integers,
    check_shares,
    check_taps,
    read_options,
)

CELL_REDUCTION = 4  # two reduction cells


@dataclass(frozen=True)
class EncoderConfig:
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

    input_size: int = 40
    channels: int = 24
    layers: int = 17
    output_size: int = 512
    stem_stride: tuple[int, int] = (1, 1)
    hidden_sizes: tuple[int, ...] = ()
    dropout: float = 0.0
    drop_path: float = 0.0
    deltas: bool = True
    checkpointing: bool = False
    taps: tuple[int, ...] = ()
    conditioning: bool = False

    @classmethod
    def from_dict(cls, options: Mapping[str, Any], subject: str = "encoder") -> EncoderConfig:
        """Build it from plain YAML types.

        Raises:
            ConfigError: A key is unknown or a value breaks its rule; all are listed.
        """
        known, problems = read_options(cls, options, subject)
        config = cls(**known)
        problems.lines.extend(config.problems())
        if problems:
            raise ConfigError(subject, problems.lines)
        return config

    @property
    def reductions(self) -> tuple[int, int]:
        """Indices, from 0, of the two reduction cells (He et al. 2020, section 3.1)."""
        return self.layers // 3, 2 * self.layers // 3

    @property
    def subsampling_factor(self) -> int:
        """Input frames for each output frame."""
        return CELL_REDUCTION * self.stem_stride[0]

    def problems(self) -> list[str]:
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
        return found.lines
