"""Options of the chain network, checked as a whole before anything is built."""

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
from nas_encoder.spaces.cells.config import EncoderConfig

SUBSAMPLING = 3  # stride of the one layer that reduces the frame rate
SUBSAMPLE_AFTER = 3  # blocks before it (Zheng, An, Ou 2021: its position in the chain)


@dataclass(frozen=True)
class ChainConfig:
    """Everything but the genotype that a chain network is built from.

    Attributes:
        input_size: F, number of frequency bins of the features.
        channels: C, the width of every layer; 640 in the paper.
        output_size: D, features of an output frame. Where it is not C, a fully connected layer
            with ReLU follows the last block (the paper has none).
        dropout: Probability behind every layer, in training; 0.5 in the paper.
        deltas: Whether delta and delta-delta stand beside the features of a frame, as in the
            paper (120 = 3 x 40).
        taps: Blocks, counted from 1, after which an intermediate output is taken (InterCTC);
            they must follow the layer of stride 3.
        conditioning: Whether a function of each tap is fed back into the network.
    """

    input_size: int = 40
    channels: int = 640
    output_size: int = 640
    dropout: float = 0.0
    deltas: bool = True
    taps: tuple[int, ...] = ()
    conditioning: bool = False

    @classmethod
    def from_dict(
        cls, options: Mapping[str, Any], blocks: int, subject: str = "encoder"
    ) -> ChainConfig:
        """Build it from plain YAML types.

        Options that only a cell network has may be given with the value that switches them off;
        the number of cells ``layers`` plays no part, as the genotype says how many blocks there
        are.

        Args:
            options: The mapping.
            blocks: Number of blocks of the genotype.
            subject: What to call it in an error.

        Raises:
            ConfigError: A key is unknown or a value breaks its rule; all are listed.
        """
        known, problems = read_options(cls, options, subject, EncoderConfig, "a chain network")
        config = cls(**known)
        problems.lines.extend(config.problems(blocks))
        if problems:
            raise ConfigError(subject, problems.lines)
        return config

    @property
    def subsampling_factor(self) -> int:
        """Input frames for each output frame."""
        return SUBSAMPLING

    def problems(self, blocks: int) -> list[str]:
        """Return one line for each rule that is broken, led by the field's name."""
        found = Problems()
        bounds = {"input_size": (1, 4096), "channels": (1, 65536), "output_size": (1, 65536)}
        check_integers(self, bounds, found)
        check_shares(self, ("dropout",), found)
        check_flags(self, ("deltas", "conditioning"), found)
        taps = found.sequence(self.taps, "taps", 0, 64) or []
        first = SUBSAMPLE_AFTER + 1
        if taps and blocks <= first:
            found.add("taps", f"a chain of {blocks} blocks has none where a tap can be taken")
        elif taps:
            check_taps(taps, first, blocks - 1, "block", found)
        check_conditioning(self, "block", found)
        return found.lines
