"""The chain spaces: a fixed number of blocks in a row, each with its own operation."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

from nas_encoder.common.choices import NO_EDGES, EdgeProbabilities, Probabilities, most_probable
from nas_encoder.common.fields import flag, integer, option, share, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.errors import NasEncoderError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.base import Kind, SearchSpace
from nas_encoder.spaces.options import NetworkOptions

BLOCKS = "blocks"  # the one kind of choices, and its key in a genotype
MAX_BLOCKS = 64
# Zheng, An, Ou 2021 (ST-NAS): half of the context (kernel 2c + 1) and dilation of a TDNN layer.
TDNN_OPERATIONS = ("tdnn_c1_d1", "tdnn_c1_d2", "tdnn_c2_d1", "tdnn_c2_d2")
SUBSAMPLING = 3  # stride of the one layer that reduces the frame rate
SUBSAMPLE_AFTER = 3  # blocks before it (Zheng, An, Ou 2021: its position in the chain)


@dataclass(frozen=True)
class ChainArchitecture:
    """The operations of the blocks, first to last; each block reads the previous one."""

    blocks: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        return {"blocks": list(self.blocks)}

    def canonical(self) -> list[Any]:
        """Return the canonical form: chains of different blocks always differ."""
        return ["chain", *self.blocks]


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

    subsampling_factor = SUBSAMPLING

    def fits(self, architecture: Any, found: Problems) -> None:
        """Check the positions of intermediate outputs."""
        first, last = SUBSAMPLE_AFTER + 1, len(architecture.blocks) - 1
        if self.taps and first > last:
            rule = f"a chain of {last + 1} blocks has none where a tap can be taken"
            found.conflict("taps", rule)
        else:
            self.check_taps(first, last, found)


class ChainSpace(SearchSpace):
    """A chain space over a tuple of operations.

    Args:
        name: As in a genotype's ``space``.
        operations: Candidates of a block, in the supernet's order.
        blocks: Number of blocks.
    """

    package = __package__
    options = ChainConfig
    keys = (BLOCKS,)

    def __init__(self, name: str, operations: tuple[str, ...], blocks: int) -> None:
        self.name = name
        self.operations = operations
        self.choices = operations
        self.blocks = blocks
        self.size = len(operations) ** blocks
        names = tuple(f"block {number}" for number in range(1, blocks + 1))
        self.kinds = {BLOCKS: Kind(BLOCKS, names, operations)}

    def parse(self, document: Mapping[str, Any], problems: Problems) -> ChainArchitecture | None:
        """Read the blocks."""
        if BLOCKS not in document:
            return None
        listed = problems.sequence(document[BLOCKS], BLOCKS, 1, MAX_BLOCKS)
        names = [
            problems.choice(block, f"{BLOCKS}[{place}]", "operation", self.operations)
            for place, block in enumerate(listed or ())
        ]
        return ChainArchitecture(tuple(map(str, names))) if names and all(names) else None

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`: one choice per block."""
        return [len(self.operations)] * self.blocks

    def vector_of(self, architecture: ChainArchitecture) -> list[int]:
        """Return the index of each block's operation."""
        return [self.operations.index(block) for block in architecture.blocks]

    def architecture_of(self, vector: Sequence[int]) -> ChainArchitecture:
        """Return the chain of each block's index."""
        return ChainArchitecture(tuple(self.operations[value] for value in vector))

    def enumerate(self) -> Iterator[Genotype]:
        """Yield every genotype once, the last block's operation changing fastest."""
        for vector in itertools.product(range(len(self.operations)), repeat=self.blocks):
            yield self.decode(vector)

    def check(self, architecture: Any, problems: Problems) -> None:
        """Report every rule of the space that the chain breaks."""
        if not isinstance(architecture, ChainArchitecture):
            problems.add("architecture", "must be a chain of blocks")
            return
        blocks = architecture.blocks
        if len(blocks) != self.blocks:
            problems.add("blocks", f"must be {self.blocks} in this space, are {len(blocks)}")
        for place, block in enumerate(blocks):
            problems.choice(block, f"blocks[{place}]", "operation", self.operations)

    def derive(
        self,
        probabilities: Probabilities,
        limits: Mapping[str, int],
        edges: EdgeProbabilities = NO_EDGES,
    ) -> ChainArchitecture:
        """Derive a chain: each block's most probable operation (Zheng, An, Ou 2021, section 3).

        Raises:
            NasEncoderError: A block has no operation.
        """
        for place, block in enumerate(probabilities[BLOCKS]):
            if not block:
                raise NasEncoderError(f"block {place} has no operation")
        return ChainArchitecture(tuple(map(most_probable, probabilities[BLOCKS])))

    def chosen(self, architecture: ChainArchitecture) -> dict[str, list[tuple[int, str]]]:
        """Return (block, operation)."""
        return {BLOCKS: list(enumerate(architecture.blocks))}

    def lines(self, architecture: ChainArchitecture) -> list[str]:
        """Return the blocks, one per line."""
        return ["chain", *(f"  {place} = {op}" for place, op in enumerate(architecture.blocks, 1))]

    def legend(self, architecture: ChainArchitecture, options: ChainConfig) -> tuple[str, str]:
        """Return the meaning of the operations' names, and the network's size."""
        return (
            "(c: frames of context to either side, d: their distance; the --layers of a chain are "
            "those above)",
            f"network of {len(architecture.blocks)} blocks, {options.channels} channels, "
            f"{options.input_size} features",
        )

    def check_layers(self, layers: Any, section: Any, path: str, problems: Problems) -> None:
        """Report a stage with a different number of blocks."""
        problems.integer(layers, path, self.blocks, self.blocks)

    def target_options(
        self, options: ChainConfig, layers: int | None, channels: int | None
    ) -> ChainConfig:
        """Return the options of a derived genotype's network, of the desired width."""
        return replace(options, channels=channels or options.channels)


# Zheng, An, Ou 2021: 6 layers, 4,096 networks. Each layer chooses half of its context (1 or 2
# frames at the layer's dilation) and its dilation (1 or 2).
TDNN_CHAIN = ChainSpace("tdnn_chain", TDNN_OPERATIONS, blocks=6)
