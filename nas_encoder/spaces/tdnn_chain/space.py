"""The chain spaces: a fixed number of blocks in a row, each with an operation of its own."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

from nas_encoder.common.problems import Problems
from nas_encoder.errors import GenotypeError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.tdnn_chain.architecture import (
    KEYS,
    TDNN_OPERATIONS,
    ChainArchitecture,
    parse_chain,
)


class ChainSpace:
    """A chain space over a tuple of operations.

    Args:
        name: As in a genotype's ``space``.
        operations: Candidates of a block, in the supernet's order.
        blocks: Their number.
    """

    def __init__(self, name: str, operations: tuple[str, ...], blocks: int) -> None:
        self.name = name
        self.operations = operations
        self.choices = operations
        self.keys = KEYS
        self.blocks = blocks
        self.size = len(operations) ** blocks

    def parse(self, document: Mapping[str, Any], problems: Problems) -> ChainArchitecture | None:
        """Read the space's own keys of a genotype document; None where there were problems."""
        return parse_chain(document, self.operations, problems)

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`: one choice a block."""
        return [len(self.operations)] * self.blocks

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a genotype uniformly."""
        return self.decode([rng.randrange(bound) for bound in self.bounds])

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Give one block another operation; every block and operation is equally likely."""
        vector = self.encode(genotype)
        place = rng.randrange(self.blocks)
        step = rng.randrange(1, len(self.operations))
        vector[place] = (vector[place] + step) % len(self.operations)
        return self.decode(vector)

    def encode(self, genotype: Genotype) -> list[int]:
        """Return the index of each block's operation."""
        self.validate(genotype)
        return [self.operations.index(block) for block in genotype.architecture.blocks]

    def decode(self, vector: list[int]) -> Genotype:
        """Return the genotype of a vector of choices.

        Raises:
            GenotypeError: The vector has a wrong length or a choice out of range.
        """
        problems = Problems()
        if len(vector) != self.blocks:
            problems.add("vector", f"must have {self.blocks} choices, has {len(vector)}")
        for place, value in enumerate(vector):
            problems.integer(value, f"vector[{place}]", 0, len(self.operations) - 1)
        if problems:
            raise GenotypeError(f"space '{self.name}'", problems.lines)
        architecture = ChainArchitecture(tuple(self.operations[value] for value in vector))
        genotype = Genotype("sampled", self.name, architecture, {"kind": "sampled"})
        return genotype.renamed(f"{self.name}-{genotype.hash[:8]}", kind="sampled")

    def enumerate(self) -> Iterator[Genotype]:
        """Yield every genotype once, the last block's operation changing fastest."""
        for vector in itertools.product(range(len(self.operations)), repeat=self.blocks):
            yield self.decode(list(vector))

    def validate(self, genotype: Genotype) -> None:
        """Check membership.

        Raises:
            GenotypeError: It is no member; every broken rule is listed.
        """
        problems = Problems()
        if genotype.space != self.name:
            problems.add("space", f"must be '{self.name}', got '{genotype.space}'")
        elif not isinstance(genotype.architecture, ChainArchitecture):
            problems.add("architecture", "must be a chain of blocks")
        else:
            blocks = genotype.architecture.blocks
            if len(blocks) != self.blocks:
                problems.add("blocks", f"must be {self.blocks} in this space, are {len(blocks)}")
            for place, block in enumerate(blocks):
                problems.choice(block, f"blocks[{place}]", "operation", self.operations)
        if problems:
            raise GenotypeError(f"genotype '{genotype.name}'", problems.lines)


# Zheng, An, Ou 2021: 6 layers, 4,096 networks. Each layer has its own half of the context (1 or 2
# frames at the layer's dilation) and its own dilation (1 or 2).
TDNN_CHAIN = ChainSpace("tdnn_chain", TDNN_OPERATIONS, blocks=6)
