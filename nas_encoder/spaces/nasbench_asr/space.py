"""The space ``nasbench_asr`` of Mehrotra et al. 2021: 13,824 cells, 8,242 of them different.

Three nodes in a row; each has one of six operations and a skip from every output before it that
is there or not.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import GenotypeError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.nasbench_asr.architecture import (
    KEYS,
    NODES,
    OPERATIONS,
    SkipArchitecture,
    Vector,
    all_vectors,
    graph_hash,
    is_minimal,
    parse_nodes,
)
from nas_encoder.spaces.nasbench_asr.architecture import (
    SPACE as NAME,
)


class NasBenchSpace:
    """The space of NAS-Bench-ASR.

    Attributes:
        name: As in a genotype's ``space``.
        operations: Candidates of a node, in the published order.
        size: Number of genotypes that can be written down.
        unique_size: Number of different ones, by the published hash.
    """

    def __init__(self) -> None:
        self.name = NAME
        self.operations = OPERATIONS
        self.choices = OPERATIONS
        self.keys = KEYS
        self.nodes = NODES
        self.size = 1
        for bound in self.bounds:
            self.size *= bound
        self.unique_size = 8242

    def parse(self, document: Mapping[str, Any], problems: Problems) -> SkipArchitecture | None:
        """Read the space's own keys of a genotype document; None where there were problems."""
        return parse_nodes(document, problems)

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`: per node its operation and skips."""
        return [
            bound
            for number in range(1, self.nodes + 1)
            for bound in (len(self.operations), *[2] * number)
        ]

    def sample(self, rng: random.Random) -> Genotype:
        """Draw uniformly from the genotypes that can be written down."""
        return self.decode([rng.randrange(bound) for bound in self.bounds])

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Change one choice: an operation, or whether a skip is there.

        Real et al. 2019, section 3.2; every other value of the choice is equally likely. What is
        written down differs; with ``zero`` in it the graph may still be the same.
        """
        vector = self.encode(genotype)
        bounds = self.bounds
        place = rng.randrange(len(bounds))
        vector[place] = (vector[place] + rng.randrange(1, bounds[place])) % bounds[place]
        return self.decode(vector)

    def encode(self, genotype: Genotype) -> list[int]:
        """Return 9 integers: the published vector without its brackets."""
        self.validate(genotype)
        return [value for node in genotype.architecture.vector for value in node]

    def decode(self, vector: list[int]) -> Genotype:
        """Return the genotype of 9 choices.

        Raises:
            GenotypeError: The vector has a wrong length or a choice out of range.
        """
        bounds = self.bounds
        problems = Problems()
        if len(vector) != len(bounds):
            problems.add("vector", f"must have {len(bounds)} choices, has {len(vector)}")
        else:
            for place, (value, bound) in enumerate(zip(vector, bounds, strict=True)):
                problems.integer(value, f"vector[{place}]", 0, bound - 1)
        if problems:
            raise GenotypeError(f"space '{self.name}'", problems.lines)
        values = iter(vector)
        return self._genotype(
            tuple(
                tuple(next(values) for _ in range(number + 1))
                for number in range(1, self.nodes + 1)
            )
        )

    def from_vector(self, vector: Sequence[Sequence[int]]) -> Genotype:
        """Return the genotype of a vector as the published code writes it.

        Args:
            vector: Per node the position of its operation in :attr:`operations`, then a 1 for
                each output before it (the cell's input first) that is added to its result, for
                example ``[[1, 0], [1, 0, 0], [1, 0, 0, 0]]``.

        Raises:
            GenotypeError: The shape is another, or a value is out of range.
        """
        problems = Problems()
        nodes = problems.sequence(vector, "vector", self.nodes, self.nodes)
        flat: list[int] = []
        for index, node in enumerate(nodes or ()):
            values = problems.sequence(node, f"vector[{index}]", index + 2, index + 2)
            for place, value in enumerate(values or ()):
                top = 1 if place else len(self.operations) - 1
                problems.integer(value, f"vector[{index}][{place}]", 0, top)
            flat += values or []
        if problems:
            raise GenotypeError(f"space '{self.name}'", problems.lines)
        return self.decode(flat)

    def enumerate(self) -> Iterator[Genotype]:
        """Yield each of the 8,242 different genotypes once, in a fixed order.

        Of those that the published hash calls the same, the one that comes is
        :meth:`~nas_encoder.spaces.nasbench_asr.architecture.SkipArchitecture.reduced`.
        """
        seen: set[str] = set()
        for vector in all_vectors(self.nodes):
            if is_minimal(vector):
                found = graph_hash(vector)
                if found not in seen:
                    seen.add(found)
                    yield self._genotype(vector)

    def validate(self, genotype: Genotype) -> None:
        """Check membership.

        Raises:
            GenotypeError: It is no member; every broken rule is listed.
        """
        problems = Problems()
        if genotype.space != self.name:
            problems.add("space", f"must be '{self.name}', got '{genotype.space}'")
        elif not isinstance(genotype.architecture, SkipArchitecture):
            problems.add("architecture", "must be nodes with skips")
        else:
            nodes = genotype.architecture.nodes
            if len(nodes) != self.nodes:
                problems.add("nodes", f"must be {self.nodes} in this space, are {len(nodes)}")
            for index, node in enumerate(nodes):
                problems.choice(node.op, f"nodes[{index}].op", "operation", self.operations)
                for place, source in enumerate(node.skips):
                    problems.integer(source, f"nodes[{index}].skips[{place}]", 0, index)
                if len(set(node.skips)) < len(node.skips):
                    problems.add(f"nodes[{index}].skips", f"repeats one: {show(node.skips)}")
        if problems:
            raise GenotypeError(f"genotype '{genotype.name}'", problems.lines)

    def _genotype(self, vector: Vector) -> Genotype:
        name = f"{self.name}-{graph_hash(vector)[:8]}"
        architecture = SkipArchitecture.from_vector(vector)
        return Genotype(name, self.name, architecture, {"kind": "sampled"})


NASBENCH_ASR = NasBenchSpace()
