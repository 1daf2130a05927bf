"""The 2-D cell spaces: two cells of 4 nodes, each node the sum of 2 operations.

Liu et al. 2019 (DARTS), section 2.1 and appendix A.1; He et al. 2020 keep the cells and change
the operations. A node reads two *different* earlier states and ``none`` is never part of a
genotype.

In all of them a genotype may say ``causal_after: n``: the cells of its network after the first n,
and the stem, are causal in time. ``streaming_cells`` searches that number too.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import combinations
from math import comb, prod
from typing import Any

from nas_encoder.common.choices import NO_EDGES, EdgeProbabilities, Probabilities, most_probable
from nas_encoder.common.problems import Problems
from nas_encoder.errors import GenotypeError, NasEncoderError
from nas_encoder.spaces.base import LATENCY, LEARNED_EDGES, LIMITS, Kind, SearchSpace
from nas_encoder.spaces.cells.architecture import (
    CAUSAL_AFTER,
    INPUT_STATES,
    NORMAL,
    Cell,
    CellArchitecture,
    Edge,
    parse_cells,
)
from nas_encoder.spaces.cells.architecture import KINDS as KINDS
from nas_encoder.spaces.cells.config import CellConfig, CellSection
from nas_encoder.spaces.cells.operations import (
    ALL_OPERATIONS,
    ASR_REVISED_OPERATIONS,
    DARTS_OPERATIONS,
    NONE,
)

NODES = 4
EDGES_PER_NODE = 2
# Numbers of consecutive convolutions of the operations that have any.
_CONVOLUTIONS = {
    "sep_conv_3x3": 2,
    "sep_conv_5x5": 2,
    "conv_7x1_1x7": 2,
    "dil_conv_3x3": 1,
    "dil_conv_5x5": 1,
}


def edge_list(nodes: int) -> list[tuple[int, int]]:
    """Return (node, source state) of every edge, node by node."""
    return [(node, source) for node in range(nodes) for source in range(INPUT_STATES + node)]


def state_name(state: int) -> str:
    """Return the name of a state: the two inputs are named by the cell that they come from."""
    return ("k-2", "k-1")[state] if state < INPUT_STATES else str(state)


def cell_lines(cell: Cell) -> list[str]:
    """Return a cell as aligned text, one node per line: ``2 = sep_conv_3x3(k-2) + ...``."""
    calls = [[f"{edge.op}({state_name(edge.source)})" for edge in node] for node in cell.nodes]
    width = max(len(call) for node in calls for call in node)
    lines = [
        f"{INPUT_STATES + number} = " + " + ".join(call.ljust(width) for call in node).rstrip()
        for number, node in enumerate(calls)
    ]
    return [*lines, "k = concat(" + ", ".join(state_name(state) for state in cell.concat) + ")"]


class CellSpace(SearchSpace):
    """A 2-D cell space over a tuple of operations.

    Args:
        name: As in a genotype's ``space``.
        operations: Candidates of an edge, ``none`` included, in the supernet's order.
        causal_after: Candidates of a genotype's ``causal_after``, one more choice; none if it is
            not searched. Such a space has no supernet, as the number is not an operation.
    """

    package = __package__
    options = CellConfig
    section = CellSection
    keys = KINDS
    more_keys = (CAUSAL_AFTER,)
    features = frozenset({LEARNED_EDGES, LIMITS, LATENCY})
    zero = NONE
    weightless = ("max_pool_3x3", "avg_pool_3x3", "skip_connect")

    def __init__(
        self, name: str, operations: tuple[str, ...], causal_after: tuple[int, ...] = ()
    ) -> None:
        self.name = name
        self.operations = operations
        self.causal_after = causal_after
        self.choices = tuple(op for op in operations if op != NONE)
        self.nodes = NODES
        self.edges = edge_list(NODES)
        self.pairs = tuple(
            tuple(combinations(range(INPUT_STATES + node), EDGES_PER_NODE)) for node in range(NODES)
        )
        per_cell = prod(
            comb(INPUT_STATES + node, EDGES_PER_NODE) * len(self.choices) ** EDGES_PER_NODE
            for node in range(NODES)
        )
        self.size = per_cell ** len(KINDS) * max(1, len(causal_after))
        names = tuple(f"{node + INPUT_STATES} ← {state_name(state)}" for node, state in self.edges)
        groups = tuple(node for node, _ in self.edges)
        self.kinds = {
            kind: Kind(f"{kind} cell", names, operations, groups, limited=kind == NORMAL)
            for kind in KINDS
        }
        if causal_after:
            candidates = tuple(map(str, causal_after))
            self.kinds[CAUSAL_AFTER] = Kind("causal after", ("cells",), candidates, pruned=False)

    def has(self, module: str) -> bool:
        """Return whether a module exists; a choice of ``causal_after`` leaves no supernet."""
        return super().has(module) and not (self.causal_after and module == "supernet")

    def parse(self, document: Mapping[str, Any], problems: Problems) -> CellArchitecture | None:
        """Read both cells."""
        return parse_cells(document, self.operations, problems)

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`; see :meth:`vector_of`."""
        per_cell = [
            bound
            for node in range(NODES)
            for bound in (len(self.pairs[node]), len(self.choices), len(self.choices))
        ]
        more = [len(self.causal_after)] if self.causal_after else []
        return per_cell * len(KINDS) + more

    def vector_of(self, architecture: CellArchitecture) -> list[int]:
        """Return integers: for each node of each cell its pair of sources and two ops.

        These are 24; one more is for ``causal_after``, if that is searched.

        Raises:
            GenotypeError: ``causal_after`` is not searched, or not that one.
        """
        after, searched = architecture.causal_after, self.causal_after or (None,)
        if after not in searched:
            rule = (
                f"must be {' or '.join(map(str, self.causal_after))}"
                if self.causal_after
                else ("must be left out")
            )
            raise GenotypeError(
                "genotype",
                [
                    f"{CAUSAL_AFTER}: {rule} to be searched in the space '{self.name}', got "
                    f"{'none' if after is None else after}"
                ],
            )
        vector: list[int] = []
        for kind in KINDS:
            for node, edges in enumerate(architecture.of_kind(kind).nodes):
                first, second = sorted(edges, key=lambda edge: edge.source)
                vector.append(self.pairs[node].index((first.source, second.source)))
                vector += [self.choices.index(first.op), self.choices.index(second.op)]
        return vector if after is None else [*vector, self.causal_after.index(after)]

    def architecture_of(self, vector: Sequence[int]) -> CellArchitecture:
        """Return the architecture of these choices."""
        cells = []
        values = iter(vector)
        for _ in KINDS:
            nodes = []
            for node in range(NODES):
                sources = self.pairs[node][next(values)]
                nodes.append(tuple(Edge(self.choices[next(values)], source) for source in sources))
            cells.append(_cell(nodes))
        after = self.causal_after[next(values)] if self.causal_after else None
        normal, reduction = cells
        return CellArchitecture(normal, reduction, after)

    def check(self, architecture: Any, problems: Problems) -> None:
        """Report every rule of the space that the cells break."""
        if not isinstance(architecture, CellArchitecture):
            problems.add("architecture", "must be two 2-D cells")
            return
        for kind in KINDS:
            self._check_cell(architecture.of_kind(kind), kind, problems)

    def _check_cell(self, cell: Cell, kind: str, problems: Problems) -> None:
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

    def derive(
        self,
        probabilities: Probabilities,
        limits: Mapping[str, int],
        edges: EdgeProbabilities = NO_EDGES,
    ) -> CellArchitecture:
        """Derive both cells; the limits apply to the normal cell."""
        after = None
        if self.causal_after:
            after = int(most_probable(probabilities[CAUSAL_AFTER][0]))
        return CellArchitecture(
            derive_cell(probabilities["normal"], self.nodes, limits, edges.get("normal")),
            derive_cell(probabilities["reduction"], self.nodes, edges=edges.get("reduction")),
            after,
        )

    def chosen(self, architecture: CellArchitecture) -> dict[str, list[tuple[int, str]]]:
        """Return for each kind of cell (edge, operation) of the edges taken."""
        more = {}
        if self.causal_after:
            more[CAUSAL_AFTER] = [(0, str(architecture.causal_after))]
        return more | {
            kind: [
                (self.edges.index((node, edge.source)), edge.op)
                for node, edges in enumerate(architecture.of_kind(kind).nodes)
                for edge in edges
            ]
            for kind in KINDS
        }

    def lines(self, architecture: CellArchitecture) -> list[str]:
        """Return both cells as text."""
        lines = []
        for kind in KINDS:
            lines.append(f"{kind} cell")
            lines += [f"  {text}" for text in cell_lines(architecture.of_kind(kind))]
        if architecture.causal_after is not None:
            lines.append(f"stem and cells after the first {architecture.causal_after}: causal")
        return lines

    def shape(self, architecture: CellArchitecture) -> dict[str, int]:
        """Return numbers of both cells by ``normal depth``, ``reduction pools``, ..."""
        found = {}
        for kind in KINDS:
            cell = architecture.of_kind(kind)
            found[f"{kind} depth"] = depth(cell)
            found[f"{kind} inputs"] = sum(edge.source < INPUT_STATES for edge in cell.edges)
            found[f"{kind} pools"] = sum("pool" in edge.op for edge in cell.edges)
        return found

    def legend(self, architecture: CellArchitecture, options: CellConfig) -> tuple[str, str]:
        """Return the meaning of the states, and the network's size."""
        return (
            "(k-2, k-1: outputs of the two cells before; k: output of this one; numbers: its "
            "nodes)",
            f"network of {options.layers} cells, {options.channels} channels, "
            f"{options.input_size} features, stem stride {options.stem_stride[0]} x "
            f"{options.stem_stride[1]}",
        )

    def check_layers(self, layers: Any, section: Any, path: str, problems: Problems) -> None:
        """Report a stage without a normal cell."""
        if layers == 2:
            problems.add(path, "must be at least 3: of 2, both are reductions")

    def target_sizes(self, layers: int | None, channels: int | None) -> dict[str, int]:
        """Return cells and initial channels; by default those of He et al. 2020's smallest."""
        return {"layers": layers or 17, "channels": channels or 24}


def _cell(nodes: Sequence[tuple[Edge, ...]]) -> Cell:
    return Cell(tuple(nodes), tuple(range(INPUT_STATES, INPUT_STATES + len(nodes))))


def derive_cell(
    probabilities: Sequence[Mapping[str, float]],
    nodes: int,
    at_most: Mapping[str, int] | None = None,
    edges: Sequence[float] | None = None,
) -> Cell:
    """Derive a cell: for each node two edges, for each edge its most probable operation.

    The edges are those whose best operation is most probable, or those of ``edges``.

    Liu et al. 2019, section 2.4; ``none`` is never chosen. If the cell would hold more of an
    operation than ``at_most`` allows, its least probable one is forbidden on its edge and the
    cell derived again (Chen et al. 2019, section 3.3, there for skip_connect; He et al. 2020,
    section 4.3, for average pooling).

    Args:
        probabilities: For each edge of :func:`edge_list`, operation -> probability.
        nodes: Number of intermediate nodes.
        at_most: Operation -> how many edges of the cell may have it.
        edges: For each edge the probability that its node takes it, if learned: the two most
            probable ones are then taken, whatever their operations.

    Raises:
        NasEncoderError: A node has fewer than two edges with an operation, or the limits
            cannot be met.
    """
    candidates = [{op: p for op, p in edge.items() if op != NONE} for edge in probabilities]
    places = edge_list(nodes)
    if len(places) != len(candidates):
        raise NasEncoderError(f"{nodes} nodes have {len(places)} edges, got {len(candidates)}")
    if edges is not None and len(edges) != len(places):
        raise NasEncoderError(f"{nodes} nodes have {len(places)} edges, got {len(edges)} strengths")
    while True:
        chosen = _strongest(candidates, places, nodes, edges)
        excess = _excess(chosen, candidates, at_most or {})
        if excess is None:
            break
        edge, operation = excess
        del candidates[edge][operation]
    return _cell(
        [
            tuple(Edge(most_probable(candidates[index]), places[index][1]) for index in node)
            for node in chosen
        ]
    )


def _strongest(
    candidates: Sequence[Mapping[str, float]],
    places: Sequence[tuple[int, int]],
    nodes: int,
    strengths: Sequence[float] | None,
) -> list[list[int]]:
    """Return for each node the indices of its two strongest edges, by source."""
    chosen = []
    for node in range(nodes):
        own = [i for i, (head, _) in enumerate(places) if head == node and candidates[i]]
        if len(own) < EDGES_PER_NODE:
            raise NasEncoderError(f"node {node} has fewer than two edges with an operation")
        if strengths is None:
            own.sort(key=lambda i: (-candidates[i][most_probable(candidates[i])], i))
        else:
            own.sort(key=lambda i: (-strengths[i], i))
        chosen.append(sorted(own[:EDGES_PER_NODE]))
    return chosen


def _excess(
    chosen: Sequence[Sequence[int]],
    candidates: Sequence[Mapping[str, float]],
    at_most: Mapping[str, int],
) -> tuple[int, str] | None:
    """Return the (edge, operation) to forbid next, or None if the limits are met."""
    selected = [(index, most_probable(candidates[index])) for node in chosen for index in node]
    counts = Counter(operation for _, operation in selected)
    for operation, limit in at_most.items():
        if counts[operation] <= limit:
            continue
        removable = [
            index for index, op in selected if op == operation and len(candidates[index]) > 1
        ]
        if not removable:
            raise NasEncoderError(
                f"cannot keep {operation} to {limit}: its edges have no other operation left"
            )
        weakest = min(removable, key=lambda index: (candidates[index][operation], -index))
        return weakest, operation
    return None


def depth(cell: Cell) -> int:
    """Return the most convolutions on a path from a cell's inputs to one of its nodes."""
    depths = [0] * INPUT_STATES
    for node in cell.nodes:
        depths.append(max(depths[edge.source] + _CONVOLUTIONS.get(edge.op, 0) for edge in node))
    return max(depths)


DARTS = CellSpace("darts", DARTS_OPERATIONS)
ASR_REVISED = CellSpace("asr_revised", ASR_REVISED_OPERATIONS)
STREAMING_CELLS = CellSpace("streaming_cells", ALL_OPERATIONS, (0, 1, 2, 3, 4, 5, 6, 8))
