"""Drawing the cells of a genotype."""

from __future__ import annotations

from nas_encoder.spaces.cells.architecture import INPUT_STATES, Cell, CellArchitecture
from nas_encoder.spaces.cells.space import state_name
from nas_encoder.spaces.layered import Vertex, layered_layout
from nas_encoder.spaces.picture import Graph, Shape, operation_shape, state_shape


def graphs(architecture: CellArchitecture) -> list[tuple[str, Graph]]:
    """Return the graphs of both cells."""
    after = architecture.causal_after
    causal = "" if after is None else f", causal in time after {after} cells of the network"
    return [
        (f"normal cell{causal}", _graph("normal", architecture.normal)),
        (
            "reduction cell (/2: stride 2 in time and frequency)",
            _graph("reduction", architecture.reduction),
        ),
    ]


def _graph(kind: str, cell: Cell) -> Graph:
    """Lay a cell out: its states and, between them, one box per operation."""
    depth: dict[int, int] = {}
    for source in sorted(cell.used_inputs()):
        depth[source] = 0
    for number, node in enumerate(cell.nodes):
        depth[INPUT_STATES + number] = 1 + max(depth[edge.source] for edge in node)
    column: dict[Vertex, int] = {}
    shapes: dict[Vertex, Shape] = {}
    edges: list[tuple[Vertex, Vertex]] = []
    for state, level in depth.items():
        column[("state", state)] = 2 * level
        shapes[("state", state)] = state_shape(state_name(state), state < INPUT_STATES)
    for number, node in enumerate(cell.nodes):
        head = ("state", INPUT_STATES + number)
        for place, edge in enumerate(node):
            op = ("op", number, place)
            column[op] = column[head] - 1
            halved = kind == "reduction" and edge.source < INPUT_STATES
            shapes[op] = operation_shape(edge.op + (" /2" if halved else ""), edge.op)
            edges += [(("state", edge.source), op), (op, head)]
    out = ("out",)
    column[out] = 2 * max(depth.values()) + 1
    shapes[out] = state_shape("k")
    edges += [(("state", state), out) for state in cell.concat]
    # The two inputs have the most lines, so they get more room between them.
    size = {v: shape[4] + (0.32 if column[v] else 0.9) for v, shape in shapes.items()}
    return layered_layout(column, edges, size), shapes
