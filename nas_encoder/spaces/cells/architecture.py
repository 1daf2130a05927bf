"""The architecture part of a genotype of the 2-D cell spaces: a normal and a reduction cell."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any

from nas_encoder.common.problems import Problems

KINDS = NORMAL, REDUCTION = "normal", "reduction"
CAUSAL_AFTER = "causal_after"
MAX_CAUSAL_AFTER = 1024
MAX_NODES = 8
MAX_EDGES_PER_NODE = 8
INPUT_STATES = 2


@dataclass(frozen=True)
class Edge:
    """One operation on one earlier state.

    States 0 and 1 are the outputs of the cell before the previous one and of the previous
    one; state ``2 + i`` is node ``i`` of the same cell.
    """

    op: str
    source: int

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        return {"op": self.op, "from": self.source}


@dataclass(frozen=True)
class Cell:
    """Intermediate nodes, each the sum of its edges, and the states that are concatenated."""

    nodes: tuple[tuple[Edge, ...], ...]
    concat: tuple[int, ...]

    @property
    def edges(self) -> tuple[Edge, ...]:
        """All edges, node by node."""
        return tuple(edge for node in self.nodes for edge in node)

    def used_inputs(self) -> frozenset[int]:
        """The input states (0, 1) that some edge reads."""
        return frozenset(edge.source for edge in self.edges if edge.source < INPUT_STATES)

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        return {
            "nodes": [[edge.to_dict() for edge in node] for node in self.nodes],
            "concat": list(self.concat),
        }

    def canonical(self) -> list[Any]:
        """Return a form that is equal for two cells if and only if they are isomorphic.

        Neither the order of a node's edges, nor the order of the nodes, nor the order of the
        concatenation changes what a cell can compute (up to a permutation of channels that the
        next layer learns). Nodes are ordered by a code of the expression that they compute; only
        nodes with equal codes have to be tried in every order.
        """
        codes: list[str] = ["in0", "in1"]
        for node in self.nodes:
            text = "+".join(sorted(f"{edge.op}({codes[edge.source]})" for edge in node))
            codes.append(hashlib.sha256(text.encode()).hexdigest())
        keys = [(codes[2 + i], 2 + i in self.concat) for i in range(len(self.nodes))]
        groups = [[i for i, other in enumerate(keys) if other == key] for key in sorted(set(keys))]
        forms = []
        for orders in product(*(self._orders(group) for group in groups)):
            order = [node for group in orders for node in group]
            label = {0: 0, 1: 1, **{2 + node: 2 + place for place, node in enumerate(order)}}
            nodes = [
                sorted((edge.op, label[edge.source]) for edge in self.nodes[node]) for node in order
            ]
            forms.append([nodes, sorted(label[state] for state in self.concat)])
        return min(forms)

    def _orders(self, group: list[int]) -> list[tuple[int, ...]]:
        """Return the orders of nodes of one code that can give different forms.

        Nodes read by the same edges are interchangeable; one of their orders is enough. Without
        this, a cell of 8 equal nodes would take 40,320 orders.
        """
        readers = {
            node: sorted(
                (edge.op, reader)
                for reader, edges in enumerate(self.nodes)
                for edge in edges
                if edge.source == node + INPUT_STATES
            )
            for node in group
        }
        orders: list[tuple[int, ...]] = [()]
        for _ in group:
            longer = []
            for order in orders:
                tried: list[list[tuple[str, int]]] = []
                for node in group:
                    if node not in order and readers[node] not in tried:
                        tried.append(readers[node])
                        longer.append((*order, node))
            orders = longer
        return orders


@dataclass(frozen=True)
class CellArchitecture:
    """A normal cell (keeps the resolution) and a reduction cell (halves time and frequency).

    Attributes:
        normal: Of all places but two.
        reduction: Of these two.
        causal_after: After how many cells of the network all others are causal in time, as the stem
            then is: they see no input frames after those of their output frame. None if none is.
    """

    normal: Cell
    reduction: Cell
    causal_after: int | None = None

    def of_kind(self, kind: str) -> Cell:
        """Return the cell of a kind."""
        return self.normal if kind == NORMAL else self.reduction

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        cells = {"normal": self.normal.to_dict(), "reduction": self.reduction.to_dict()}
        return cells if self.causal_after is None else {**cells, CAUSAL_AFTER: self.causal_after}

    def canonical(self) -> list[Any]:
        """Return the canonical form; see :meth:`Cell.canonical`."""
        found = ["cells_2d", self.normal.canonical(), self.reduction.canonical()]
        return found if self.causal_after is None else [*found, [CAUSAL_AFTER, self.causal_after]]

    @property
    def causal_stem(self) -> bool:
        """Whether the stem sees no frames ahead."""
        return self.causal_after is not None

    def is_causal(self, index: int) -> bool:
        """Return whether a cell of the network, counted from 0, is causal."""
        return self.causal_after is not None and index >= self.causal_after


def parse_cells(
    document: Mapping[str, Any], operations: tuple[str, ...], problems: Problems
) -> CellArchitecture | None:
    """Read the two cells of a genotype document, and from where on they are causal.

    None if there were problems with the cells.
    """
    cells = {
        kind: _parse_cell(document[kind], kind, operations, problems)
        for kind in KINDS
        if kind in document
    }
    normal, reduction = cells.get("normal"), cells.get("reduction")
    after = None
    if CAUSAL_AFTER in document:
        why = ": the number of cells before the first causal one; leave it out if none is"
        given = document[CAUSAL_AFTER]
        after = problems.integer(given, CAUSAL_AFTER, 0, MAX_CAUSAL_AFTER, why)
    if normal is None or reduction is None:
        return None
    return CellArchitecture(normal, reduction, after)


def _parse_cell(
    value: object, path: str, operations: tuple[str, ...], problems: Problems
) -> Cell | None:
    before = len(problems.lines)
    mapping = problems.mapping(value, path, ("nodes", "concat"))
    if mapping is None or "nodes" not in mapping or "concat" not in mapping:
        return None
    nodes: list[tuple[Edge, ...]] = []
    listed = problems.sequence(mapping["nodes"], f"{path}.nodes", 1, MAX_NODES)
    for index, node in enumerate(listed or ()):
        edges = problems.sequence(node, f"{path}.nodes[{index}]", 1, MAX_EDGES_PER_NODE)
        parsed = [
            _parse_edge(edge, f"{path}.nodes[{index}][{place}]", index, operations, problems)
            for place, edge in enumerate(edges or ())
        ]
        nodes.append(tuple(edge for edge in parsed if edge is not None))
    states = INPUT_STATES + len(nodes)
    concat = []
    where = f"{path}.concat"
    for place, state in enumerate(problems.sequence(mapping["concat"], where, 1, MAX_NODES) or ()):
        number = problems.integer(
            state,
            f"{where}[{place}]",
            INPUT_STATES,
            states - 1,
            " (only nodes can be joined)",
        )
        if number is not None and number in concat:
            problems.add(f"{where}[{place}]", f"state {number} is listed twice")
        elif number is not None:
            concat.append(number)
    if len(problems.lines) > before:
        return None
    cell = Cell(tuple(nodes), tuple(concat))
    _check_live(cell, path, problems)
    return cell if len(problems.lines) == before else None


def _parse_edge(
    value: object, path: str, node: int, operations: tuple[str, ...], problems: Problems
) -> Edge | None:
    mapping = problems.mapping(value, path, ("op", "from"))
    if mapping is None or "op" not in mapping or "from" not in mapping:
        return None
    if mapping["op"] == "none":
        op = None
        problems.add(
            f"{path}.op", "'none' is a choice during a search only; leave the edge out instead"
        )
    else:
        known = [name for name in operations if name != "none"]
        op = problems.choice(mapping["op"], f"{path}.op", "operation", known)
    source = problems.integer(
        mapping["from"],
        f"{path}.from",
        0,
        node + 1,
        f": node {node} is state {node + 2} and reads earlier states only, "
        "anything else would be a cycle",
    )
    return None if op is None or source is None else Edge(op, source)


def _check_live(cell: Cell, path: str, problems: Problems) -> None:
    """Report nodes that lead to no output: their parameters would never get a gradient."""
    live = set(cell.concat)
    for index in reversed(range(len(cell.nodes))):
        if index + INPUT_STATES in live:
            live.update(edge.source for edge in cell.nodes[index])
    for index in range(len(cell.nodes)):
        if index + INPUT_STATES not in live:
            problems.add(
                f"{path}.nodes[{index}]",
                f"reaches no output: state {index + INPUT_STATES} is neither in 'concat' nor read "
                "by a node that is used",
            )
