"""Options of the chain network, checked as a whole before anything is built."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from nas_encoder.common.fields import flag, integer, option, share, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.spaces.options import NetworkOptions

SUBSAMPLING = 3  # stride of the one layer that reduces the frame rate
SUBSAMPLE_AFTER = 3  # blocks before it (Zheng, An, Ou 2021: its position in the chain)


@dataclass(frozen=True)
class ChainConfig(NetworkOptions):
    """Everything but the genotype that a chain network is built from.

    The genotype sets the number of blocks: ``layers`` is ignored.

    Attributes:
        input_size: F, number of frequency bins of the features.
        channels: C, the width of every layer; 640 in the paper.
        output_size: D, features of an output frame. If it is not C, a fully connected layer with
            ReLU follows the last block (the paper has none).
        dropout: Dropout probability after every layer; 0.5 in the paper.
        deltas: Whether to append delta and delta-delta features, as in the paper (120 = 3 x 40).
        taps: Blocks, counted from 1, after which an intermediate output is taken (InterCTC);
            they must follow the layer of stride 3.
        conditioning: Whether a function of each tap is fed back into the network.
    """

    network: ClassVar[str] = "a chain network"
    part: ClassVar[str] = "block"

    input_size: int = option(40, integer(1, 4096))
    channels: int = option(640, integer(1, 65536))
    output_size: int = option(640, integer(1, 65536))
    dropout: float = option(0.0, share)
    deltas: bool = option(True, flag)
    taps: tuple[int, ...] = option((), tuple_of(integer(1), 0, 64, once="a block"))
    conditioning: bool = option(False, flag)

    @property
    def subsampling_factor(self) -> int:
        """Input frames per output frame."""
        return SUBSAMPLING

    def fits(self, architecture: Any, found: Problems) -> None:
        """Check the positions of intermediate outputs."""
        first, last = SUBSAMPLE_AFTER + 1, len(architecture.blocks) - 1
        if self.taps and first > last:
            rule = f"a chain of {last + 1} blocks has none where a tap can be taken"
            found.conflict("taps", rule)
        else:
            self.check_taps(first, last, found)
