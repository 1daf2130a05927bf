"""The space: a row of 1-D blocks, each with an operation and a width. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from nas_encoder.common.choices import NO_EDGES, EdgeProbabilities, Probabilities, most_probable
from nas_encoder.common.fields import flag, integer, option, share, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.spaces.base import Kind, SearchSpace
from nas_encoder.spaces.options import NetworkOptions

OPERATIONS = ("identity", "average3", "conv3", "conv5")
WIDTHS = (4, 8, 16)  # channels that leave a block
BLOCKS, CHANNELS = "blocks", "widths"  # the kinds of choices


@dataclass(frozen=True)
class SlimChain:
    """The operation and the width of each block."""

    blocks: tuple[tuple[str, int], ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        return {"blocks": [{"op": op, "width": width} for op, width in self.blocks]}

    def canonical(self) -> list[Any]:
        """Return what is equal for equal architectures only."""
        return ["slim_chain", *map(list, self.blocks)]


@dataclass(frozen=True)
class SlimOptions(NetworkOptions):
    """What a network is built from beside the genotype, which says how wide its blocks are."""

    network: ClassVar[str] = "a slim chain"
    part: ClassVar[str] = "block"

    input_size: int = option(40, integer(1, 4096))
    output_size: int = option(64, integer(1, 4096))
    channels: int = option(24, integer(1, 4096))
    dropout: float = option(0.0, share)
    deltas: bool = option(True, flag)
    factor: int = option(4, integer(1, 8))
    taps: tuple[int, ...] = option((), tuple_of(integer(1), 0, 64, once="a block"))
    conditioning: bool = option(False, flag)

    @property
    def subsampling_factor(self) -> int:
        """Input frames for each output frame: so many are stacked in front of the first block."""
        return self.factor

    def fits(self, architecture: Any, found: Problems) -> None:
        """Check where intermediate outputs are taken."""
        self.check_taps(1, len(architecture.blocks) - 1, found)


class SlimChainSpace(SearchSpace):
    """Rows of so many blocks.

    Args:
        name: As in a genotype's ``space``.
        blocks: Their number.
    """

    package = "slim_chain"
    options = SlimOptions
    keys = ("blocks",)
    weightless = ("identity", "average3")

    def __init__(self, name: str, blocks: int) -> None:
        self.name = name
        self.blocks = blocks
        self.operations = self.choices = OPERATIONS
        self.size = (len(OPERATIONS) * len(WIDTHS)) ** blocks
        names = tuple(f"block {number}" for number in range(1, blocks + 1))
        self.kinds = {
            BLOCKS: Kind(BLOCKS, names, OPERATIONS),
            CHANNELS: Kind(CHANNELS, names, tuple(map(str, WIDTHS)), pruned=False),
        }

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice: operation and width of each block in turn."""
        return [len(OPERATIONS), len(WIDTHS)] * self.blocks

    def parse(self, document: Mapping[str, Any], problems: Problems) -> SlimChain | None:
        """Read the blocks."""
        blocks = []
        listed = problems.sequence(document.get("blocks"), "blocks", 1, 64) or []
        for place, entry in enumerate(listed):
            path = f"blocks[{place}]"
            read = problems.mapping(entry, path, ("op", "width")) or {}
            op = problems.choice(read.get("op"), f"{path}.op", "operation", OPERATIONS)
            width = problems.integer(read.get("width"), f"{path}.width", WIDTHS[0], WIDTHS[-1])
            if width is not None and width not in WIDTHS:
                problems.add(f"{path}.width", f"must be one of {WIDTHS}, got {width}")
            elif op is not None and width is not None:
                blocks.append((op, width))
        return SlimChain(tuple(blocks)) if blocks and len(blocks) == len(listed) else None

    def check(self, architecture: Any, problems: Problems) -> None:
        """Report every rule that an architecture breaks."""
        if not isinstance(architecture, SlimChain):
            problems.add("architecture", "must be a slim chain")
        elif len(architecture.blocks) != self.blocks:
            count = len(architecture.blocks)
            problems.add("blocks", f"must be {self.blocks} in this space, are {count}")

    def vector_of(self, architecture: SlimChain) -> list[int]:
        """Return the choices of a member as integers."""
        return [
            place
            for op, width in architecture.blocks
            for place in (OPERATIONS.index(op), WIDTHS.index(width))
        ]

    def architecture_of(self, vector: Sequence[int]) -> SlimChain:
        """Return the architecture of choices."""
        pairs = zip(vector[::2], vector[1::2], strict=True)
        return SlimChain(tuple((OPERATIONS[op], WIDTHS[width]) for op, width in pairs))

    def derive(
        self,
        probabilities: Probabilities,
        limits: Mapping[str, int],
        edges: EdgeProbabilities = NO_EDGES,
    ) -> SlimChain:
        """Take the most probable operation and width of each block."""
        pairs = zip(probabilities[BLOCKS], probabilities[CHANNELS], strict=True)
        return SlimChain(
            tuple((most_probable(ops), int(most_probable(widths))) for ops, widths in pairs)
        )

    def chosen(self, architecture: SlimChain) -> dict[str, list[tuple[int, str]]]:
        """Return what stands at each place of each kind."""
        numbered = list(enumerate(architecture.blocks))
        return {
            BLOCKS: [(place, op) for place, (op, _) in numbered],
            CHANNELS: [(place, str(width)) for place, (_, width) in numbered],
        }

    def lines(self, architecture: SlimChain) -> list[str]:
        """Return the blocks, one a line."""
        return [f"  {k} = {op} x {width}" for k, (op, width) in enumerate(architecture.blocks, 1)]

    def legend(self, architecture: SlimChain, options: SlimOptions) -> tuple[str, str]:
        """Return what the text's signs mean, and the network's size."""
        return (
            "(operation x channels that leave the block)",
            f"network of {len(architecture.blocks)} blocks, {options.input_size} features",
        )


SLIM_CHAIN = SlimChainSpace("slim_chain", blocks=4)
