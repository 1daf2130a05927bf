"""The 2-D cell spaces: two cells of 4 nodes, each node the sum of 2 operations.

Liu et al. 2019 (DARTS), section 2.1 and appendix A.1; He et al. 2020 keep the cells and change
the operations. A node reads two *different* earlier states and ``none`` is never part of a
genotype.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import combinations
from math import comb, prod
from typing import Any

from nas_encoder.common.problems import Problems
from nas_encoder.errors import GenotypeError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.cells.architecture import (
    INPUT_STATES,
    KEYS,
    Cell,
    CellArchitecture,
    Edge,
    parse_cells,
)
from nas_encoder.spaces.cells.operations import ASR_REVISED_OPERATIONS, DARTS_OPERATIONS

NODES = 4
EDGES_PER_NODE = 2
KINDS = ("normal", "reduction")


class CellSpace:
    """A 2-D cell space over a tuple of operations.

    Args:
        name: As in a genotype's ``space``.
        operations: Candidates of an edge, ``none`` included, in the supernet's order.
    """

    def __init__(self, name: str, operations: tuple[str, ...]) -> None:
        self.name = name
        self.operations = operations
        self.choices = tuple(op for op in operations if op != "none")
        self.keys = KEYS
        self.nodes = NODES
        self.edges_per_node = EDGES_PER_NODE
        self.pairs = tuple(
            tuple(combinations(range(INPUT_STATES + node), EDGES_PER_NODE)) for node in range(NODES)
        )
        per_cell = prod(
            comb(INPUT_STATES + node, EDGES_PER_NODE) * len(self.choices) ** EDGES_PER_NODE
            for node in range(NODES)
        )
        self.size = per_cell ** len(KINDS)

    def parse(self, document: Mapping[str, Any], problems: Problems) -> CellArchitecture | None:
        """Read the space's own keys of a genotype document; None where there were problems."""
        return parse_cells(document, self.operations, problems)

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a genotype uniformly."""
        vector = [rng.randrange(bound) for bound in self.bounds]
        return self.decode(vector)

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`: pair of sources, op, op; per node."""
        per_cell = [
            bound
            for node in range(NODES)
            for bound in (len(self.pairs[node]), len(self.choices), len(self.choices))
        ]
        return per_cell * len(KINDS)

    def encode(self, genotype: Genotype) -> list[int]:
        """Return 24 integers: for each node of each cell its pair of sources and two ops."""
        self.validate(genotype)
        vector: list[int] = []
        for kind in KINDS:
            cell: Cell = getattr(genotype.architecture, kind)
            for node, edges in enumerate(cell.nodes):
                first, second = sorted(edges, key=lambda edge: edge.source)
                vector.append(self.pairs[node].index((first.source, second.source)))
                vector += [self.choices.index(first.op), self.choices.index(second.op)]
        return vector

    def decode(self, vector: list[int]) -> Genotype:
        """Return the genotype of 24 choices.

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
        cells = []
        values = iter(vector)
        for _ in KINDS:
            nodes = []
            for node in range(NODES):
                sources = self.pairs[node][next(values)]
                nodes.append(tuple(Edge(self.choices[next(values)], source) for source in sources))
            concat = tuple(range(INPUT_STATES, INPUT_STATES + NODES))
            cells.append(Cell(tuple(nodes), concat))
        genotype = Genotype("sampled", self.name, CellArchitecture(*cells), {"kind": "sampled"})
        return genotype.renamed(f"{self.name}-{genotype.hash[:8]}", kind="sampled")

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Change one choice: the operation of an edge, or the pair of states that a node reads.

        Real et al. 2019, section 3.2 (hidden state and op mutation); every other value of the
        choice is equally likely.
        """
        vector = self.encode(genotype)
        bounds = self.bounds
        place = rng.choice([i for i, bound in enumerate(bounds) if bound > 1])
        step = rng.randrange(1, bounds[place])
        vector[place] = (vector[place] + step) % bounds[place]
        return self.decode(vector)

    def validate(self, genotype: Genotype) -> None:
        """Check membership.

        Raises:
            GenotypeError: It is no member; every broken rule is listed.
        """
        problems = Problems()
        if genotype.space != self.name:
            problems.add("space", f"must be '{self.name}', got '{genotype.space}'")
        elif isinstance(genotype.architecture, CellArchitecture):
            for kind in KINDS:
                self._validate_cell(getattr(genotype.architecture, kind), kind, problems)
        else:
            problems.add("architecture", "must be two 2-D cells")
        if problems:
            raise GenotypeError(f"genotype '{genotype.name}'", problems.lines)

    def _validate_cell(self, cell: Cell, kind: str, problems: Problems) -> None:
        if len(cell.nodes) != NODES:
            problems.add(f"{kind}.nodes", f"must be {NODES} in this space, are {len(cell.nodes)}")
        wanted = list(range(INPUT_STATES, INPUT_STATES + len(cell.nodes)))
        if sorted(cell.concat) != wanted:
            problems.add(
                f"{kind}.concat", f"must be {wanted} in this space, is {list(cell.concat)}"
            )
        for index, node in enumerate(cell.nodes):
            if len({edge.source for edge in node}) != EDGES_PER_NODE or len(node) != EDGES_PER_NODE:
                problems.add(
                    f"{kind}.nodes[{index}]",
                    f"must read {EDGES_PER_NODE} different states in this space, reads "
                    f"{[edge.source for edge in node]}",
                )
            for place, edge in enumerate(node):
                path = f"{kind}.nodes[{index}][{place}]"
                problems.choice(edge.op, f"{path}.op", "operation", self.choices)
                problems.integer(edge.source, f"{path}.from", 0, INPUT_STATES + index - 1)


DARTS = CellSpace("darts", DARTS_OPERATIONS)
ASR_REVISED = CellSpace("asr_revised", ASR_REVISED_OPERATIONS)
