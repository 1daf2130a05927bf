"""The space ``nasbench_asr`` of Mehrotra et al. 2021: 13,824 cells, 8,242 of them distinct.

Three nodes in a row; each has one of six operations and an optional skip from every earlier
output.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, cast

from nas_encoder.common.choices import NO_EDGES, EdgeProbabilities, Probabilities, most_probable
from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import DataError, GenotypeError, NasEncoderError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.base import Kind, SearchSpace
from nas_encoder.spaces.nasbench_asr.architecture import (
    NODES,
    OPERATIONS,
    SPACE,
    ZERO,
    Node,
    SkipArchitecture,
    all_vectors,
    graph_hash,
    hash_of_graph,
    is_minimal,
)
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig, NasBenchSection, spread_cells

NODE, SKIPS = "nodes", "skips"  # the kinds of choices
NO_SKIP, SKIP = "no_skip", "skip"  # the candidates of a skip


def skip_list(nodes: int) -> list[tuple[int, int]]:
    """Return (node from 0, source) of every skip; source 0 is the cell's input, k node k."""
    return [(node, source) for node in range(nodes) for source in range(node + 1)]


class NasBenchSpace(SearchSpace):
    """The space of NAS-Bench-ASR."""

    package = __package__
    options = NasBenchConfig
    section = NasBenchSection
    keys = (NODE,)
    zero = ZERO

    def __init__(self) -> None:
        self.name = SPACE
        self.operations = OPERATIONS
        self.choices = OPERATIONS
        self.nodes = NODES
        self.skips = skip_list(NODES)
        self.size = prod(self.bounds)
        self.kinds = {
            NODE: Kind(NODE, tuple(f"node {k}" for k in range(1, NODES + 1)), OPERATIONS),
            SKIPS: Kind(
                SKIPS,
                tuple(f"{node + 1} ← {source or 'input'}" for node, source in self.skips),
                (NO_SKIP, SKIP),
                groups=tuple(node for node, _ in self.skips),
                pruned=False,
            ),
        }

    def parse(self, document: Mapping[str, Any], problems: Problems) -> SkipArchitecture | None:
        """Read the nodes."""
        if "nodes" not in document:
            return None
        before = len(problems.lines)
        nodes = []
        listed = problems.sequence(document["nodes"], "nodes", NODES, NODES)
        for index, item in enumerate(listed or ()):
            path = f"nodes[{index}]"
            entry = problems.mapping(item, path, ("op",), ("skips",))
            if entry is None:
                continue
            op = None
            if "op" in entry:
                op = problems.choice(entry["op"], f"{path}.op", "operation", OPERATIONS)
            skips = problems.sequence(entry.get("skips", []), f"{path}.skips", 0, index + 1)
            sources = [
                problems.integer(
                    skip, f"{path}.skips[{place}]", 0, index, " (0 is the cell's input, k node k)"
                )
                for place, skip in enumerate(skips or ())
            ]
            known = [source for source in sources if source is not None]
            if len(set(known)) < len(known):
                problems.add(f"{path}.skips", f"names an output twice: {known}")
            nodes.append(Node(str(op), tuple(sorted(known))))
        return SkipArchitecture(tuple(nodes)) if len(problems.lines) == before else None

    @property
    def layout(self) -> dict[str, Any]:
        """The header of the published files: options of each choice, operations, nodes."""
        shape = [[len(self.operations), *[2] * number] for number in range(1, self.nodes + 1)]
        return {"shape": shape, "ops": list(self.operations), "nodes": self.nodes}

    @property
    def unique_size(self) -> int:
        """Number of distinct published hashes."""
        return 8242

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`: per node its operation and skips."""
        return [
            bound
            for number in range(1, self.nodes + 1)
            for bound in (len(self.operations), *[2] * number)
        ]

    def vector_of(self, architecture: SkipArchitecture) -> list[int]:
        """Return 9 integers: the published vector without its brackets."""
        return [value for node in architecture.vector for value in node]

    def architecture_of(self, vector: Sequence[int]) -> SkipArchitecture:
        """Return the nodes of 9 choices."""
        values = iter(vector)
        return SkipArchitecture.from_vector(
            [[next(values) for _ in range(number + 1)] for number in range(1, self.nodes + 1)]
        )

    def from_vector(self, vector: Sequence[Sequence[int]]) -> Genotype:
        """Return the genotype of a vector as the published code writes it.

        Args:
            vector: Per node the position of its operation in :attr:`operations`, then a 1 for
                each earlier output (the cell's input first) that is added to its result, for
                example ``[[1, 0], [1, 0, 0], [1, 0, 0, 0]]``.

        Raises:
            GenotypeError: The shape is wrong, or a value is out of range.
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

    def key(self, genotype: Genotype) -> str:
        """Return the published hash."""
        return str(genotype.architecture.graph_hash)

    def key_of_graph(self, graph: Any) -> str:
        """Return the published hash of a graph: (adjacency matrix, labels of the vertices).

        A pair whose first half is such a graph, as the published code returns it, will do too.

        Raises:
            DataError: It is no such graph.
        """
        if isinstance(graph, tuple | list) and len(graph) == 2:
            matrix, names = graph[0] if isinstance(graph[0], tuple) else graph
            rows, labels = [list(map(bool, row)) for row in matrix], list(names)
            ends, operations = [*labels[:1], *labels[-1:]], labels[1:-1]
            if (
                all(len(row) == len(rows) for row in rows)
                and len(rows) == len(labels) != 1
                and ends in (["input", "output"], [])  # no vertex: the output is cut off
                and set(operations) <= set(self.operations)
            ):
                return hash_of_graph(rows, operations)
        raise DataError(
            "graph",
            [
                "must be (square adjacency matrix, labels), the labels 'input', operations of "
                f"{list(self.operations)}, 'output', got {show(graph)}"
            ],
        )

    def enumerate(self) -> Iterator[Genotype]:
        """Yield each of the 8,242 distinct genotypes once, in a fixed order.

        Those of the same published hash are represented by
        :meth:`~nas_encoder.spaces.nasbench_asr.architecture.SkipArchitecture.reduced`.
        """
        seen: set[str] = set()
        for vector in all_vectors():
            if is_minimal(vector):
                found = graph_hash(vector)
                if found not in seen:
                    seen.add(found)
                    yield self.decode([value for node in vector for value in node])

    def check(self, architecture: Any, problems: Problems) -> None:
        """Report every rule of the space that the nodes break."""
        if not isinstance(architecture, SkipArchitecture):
            problems.add("architecture", "must be nodes with skips")
            return
        self.parse(architecture.to_dict(), problems)

    def derive(
        self,
        probabilities: Probabilities,
        limits: Mapping[str, int],
        edges: EdgeProbabilities = NO_EDGES,
    ) -> SkipArchitecture:
        """Derive a cell: each node's most probable operation, and the skips that are likely.

        ``zero`` is never chosen for a node, like ``none`` in a cell of edges: its probability says
        how strong the others have to be together, not that they do harm (Liu et al. 2019, section
        2.4). 8,000 of the space's 8,242 cells can be derived this way. A skip of probability 1/2
        is omitted.

        Raises:
            NasEncoderError: A node has no operation, or the number of skips is not what the nodes
                need.
        """
        nodes, skips = probabilities[NODE], probabilities[SKIPS]
        places = skip_list(len(nodes))
        if len(places) != len(skips):
            raise NasEncoderError(f"{len(nodes)} nodes have {len(places)} skips, got {len(skips)}")
        taken = [p for p, skip in zip(places, skips, strict=True) if most_probable(skip) == SKIP]
        chosen = []
        for number, node in enumerate(nodes):
            candidates = {op: p for op, p in node.items() if op != ZERO}
            if not candidates:
                raise NasEncoderError(f"node {number + 1} has no operation")
            sources = tuple(source for own, source in taken if own == number)
            chosen.append(Node(most_probable(candidates), sources))
        return SkipArchitecture(tuple(chosen))

    def chosen(self, architecture: SkipArchitecture) -> dict[str, list[tuple[int, str]]]:
        """Return (node, operation), and (skip, its candidate)."""
        return {
            NODE: [(number, node.op) for number, node in enumerate(architecture.nodes)],
            SKIPS: [
                (row, SKIP if source in architecture.nodes[number].skips else NO_SKIP)
                for row, (number, source) in enumerate(self.skips)
            ],
        }

    def lines(self, architecture: SkipArchitecture) -> list[str]:
        """Return the nodes, one per line."""
        return [
            "cell",
            *(
                "  " + " + ".join([f"{number} = {node.op}({number - 1})", *map(str, node.skips)])
                for number, node in enumerate(architecture.nodes, 1)
            ),
        ]

    def legend(self, architecture: SkipArchitecture, options: NasBenchConfig) -> tuple[str, str]:
        """Return the meaning of the numbers, and the network's size."""
        return (
            "(0: the cell's input, the other numbers its nodes; the last one is the cell's output)",
            f"network of {sum(options.block_cells)} cells in {len(options.block_cells)} blocks, "
            f"{options.channels} channels in the first, {options.input_size} features; the "
            "published size is --channels 600 --input-size 80",
        )

    def search_options(
        self, section: NasBenchSection, *, layers: int, **sizes: Any
    ) -> NasBenchConfig:
        """Return the options of the networks in a stage of a search."""
        section = replace(section, block_cells=section.block_cells or spread_cells(layers))
        return cast(NasBenchConfig, super().search_options(section, layers=layers, **sizes))

    def check_layers(self, layers: Any, section: Any, path: str, problems: Problems) -> None:
        """Report a stage whose number of cells differs from ``block_cells``."""
        given = section.block_cells
        if not given:
            problems.integer(layers, path, 1, 1024)
        elif isinstance(given, tuple) and all(isinstance(count, int) for count in given):
            cells = max(1, sum(given))
            why = " (the sum of network.block_cells, which must have a cell)"
            problems.integer(layers, path, cells, cells, why)

    def target_options(
        self, options: NasBenchConfig, layers: int | None, channels: int | None
    ) -> NasBenchConfig:
        """Return the options of a derived genotype's network."""
        cells = options.block_cells if layers is None else spread_cells(layers)
        return replace(options, channels=channels or options.channels, block_cells=cells)


NASBENCH_ASR = NasBenchSpace()
