"""Options of the chain network, checked as a whole before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nas_encoder.common.problems import Problems
from nas_encoder.spaces.options import (
    NetworkOptions,
    check_conditioning,
    check_flags,
    check_integers,
    check_shares,
    check_taps,
)

SUBSAMPLING = 3  # stride of the one layer that reduces the frame rate
SUBSAMPLE_AFTER = 3  # blocks before it (Zheng, An, Ou 2021: its position in the chain)


@dataclass(frozen=True)
class ChainConfig(NetworkOptions):
    """Everything but the genotype that a chain network is built from.

    The genotype says how many blocks there are: ``layers`` plays no part.

    Attributes:
        input_size: F, number of frequency bins of the features.
        channels: C, the width of every layer; 640 in the paper.
        output_size: D, features of an output frame. Where it is not C, a fully connected layer
            with ReLU follows the last block (the paper has none).
        dropout: Probability after every layer, in training; 0.5 in the paper.
        deltas: Whether delta and delta-delta stand beside the features of a frame, as in the
            paper (120 = 3 x 40).
        taps: Blocks, counted from 1, after which an intermediate output is taken (InterCTC);
            they must follow the layer of stride 3.
        conditioning: Whether a function of each tap is fed back into the network.
    """

    network: ClassVar[str] = "a chain network"

    input_size: int = 40
    channels: int = 640
    output_size: int = 640
    dropout: float = 0.0
    deltas: bool = True
    taps: tuple[int, ...] = ()
    conditioning: bool = False

    @property
    def subsampling_factor(self) -> int:
        """Input frames for each output frame."""
        return SUBSAMPLING

    def problems(self, architecture: Any = None) -> list[str]:
        """Return one line for each rule that is broken, led by the field's name."""
        found = Problems()
        bounds = {"input_size": (1, 4096), "channels": (1, 65536), "output_size": (1, 65536)}
        check_integers(self, bounds, found)
        check_shares(self, ("dropout",), found)
        check_flags(self, ("deltas", "conditioning"), found)
        taps = found.sequence(self.taps, "taps", 0, 64) or []
        if taps and architecture is not None:
            first, last = SUBSAMPLE_AFTER + 1, len(architecture.blocks) - 1
            if first > last:
                found.add("taps", f"a chain of {last + 1} blocks has none where a tap can be taken")
            else:
                check_taps(taps, first, last, "block", found)
        check_conditioning(self, "block", found)
        return found.lines
