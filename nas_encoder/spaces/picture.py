"""Cells and chains as text and as a picture."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import GenotypeError, MissingDependencyError
from nas_encoder.genotype.genotype import Genotype
from nas_encoder.spaces.cells.architecture import INPUT_STATES, Cell, CellArchitecture
from nas_encoder.spaces.layered import Layout, Vertex, layered_layout
from nas_encoder.spaces.nasbench_asr.architecture import SkipArchitecture
from nas_encoder.spaces.tdnn_chain.architecture import ChainArchitecture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")

# Families of operations by the beginning of the name -> (fill, edge); chosen to stay apart for
# the colour-blind and in grey.
_COLOURS = {
    "sep_conv": ("#cfe3f5", "#2f6fa8"),
    "dil_conv": ("#d5efd6", "#3c8a45"),
    "conv": ("#e6dbf3", "#7450a8"),
    "max_pool": ("#ffe0b8", "#c26f0a"),
    "avg_pool": ("#fff2b8", "#a08400"),
    "skip_connect": ("#e9e9e9", "#777777"),
    "tdnn": ("#cfe3f5", "#2f6fa8"),
    "zero": ("#e9e9e9", "#777777"),
}
_OTHER = ("#fbd9dc", "#b8404c")

# Inches; one unit of y is _UNIT.
_UNIT, _STATE_WIDTH, _OP_WIDTH, _GAP = 0.46, 0.72, 1.34, 0.42
_OP_HEIGHT, _STATE_HEIGHT = 0.66, 0.74  # of a unit


def state_name(state: int) -> str:
    """Return how a state is called: the two inputs by the cell that they come from."""
    return ("k-2", "k-1")[state] if state < INPUT_STATES else str(state)


def cell_lines(cell: Cell) -> list[str]:
    """Return a cell as aligned text, a node a line: ``2 = sep_conv_3x3(k-2) + ...``."""
    calls = [[f"{edge.op}({state_name(edge.source)})" for edge in node] for node in cell.nodes]
    width = max(len(call) for node in calls for call in node)
    lines = [
        f"{INPUT_STATES + number} = " + " + ".join(call.ljust(width) for call in node).rstrip()
        for number, node in enumerate(calls)
    ]
    return [*lines, "k = concat(" + ", ".join(state_name(state) for state in cell.concat) + ")"]


def skip_lines(architecture: SkipArchitecture) -> list[str]:
    """Return the nodes of a cell with skips as text, one a line."""
    return [
        " + ".join([f"{number} = {node.op}({number - 1})", *map(str, node.skips)])
        for number, node in enumerate(architecture.nodes, 1)
    ]


def architecture_lines(genotype: Genotype) -> list[str]:
    """Return a genotype's architecture as text.

    Raises:
        GenotypeError: The architecture of this space has no text form.
    """
    if isinstance(genotype.architecture, ChainArchitecture):
        blocks = genotype.architecture.blocks
        return ["chain", *(f"  {number} = {block}" for number, block in enumerate(blocks, 1))]
    if isinstance(genotype.architecture, SkipArchitecture):
        return ["cell", *(f"  {line}" for line in skip_lines(genotype.architecture))]
    lines = []
    for kind, cell in _cells(genotype):
        lines += [f"{kind} cell", *(f"  {line}" for line in cell_lines(cell))]
    return lines


def draw(genotype: Genotype) -> Figure:
    """Draw a genotype: its cells, one below the other, or its chain.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        GenotypeError: The architecture of this space cannot be drawn.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot", "drawing a genotype") from error
    if isinstance(genotype.architecture, ChainArchitecture):
        titles, graphs = ["chain"], [_chain_graph(genotype.architecture)]
    elif isinstance(genotype.architecture, SkipArchitecture):
        titles, graphs = ["cell"], [_skip_graph(genotype.architecture)]
    else:
        cells = _cells(genotype)
        titles = [_title(kind) for kind, _ in cells]
        graphs = [_graph(kind, cell) for kind, cell in cells]
    x_of = [_column_places(layout, draws) for layout, draws in graphs]
    width = max(places[-1] for places in x_of) + 1.3
    heights = [layout.height * _UNIT + 1.1 for layout, _ in graphs]
    figure = Figure(figsize=(width, sum(heights) + 0.75), facecolor="white")
    total = sum(heights) + 0.75
    top = total - 0.75
    figure.text(
        0.3 / width, 1 - 0.28 / total, genotype.name, fontsize=14, weight="bold", va="center"
    )
    figure.text(
        0.3 / width, 1 - 0.55 / total, _subtitle(genotype), fontsize=9, va="center", color="#444444"
    )
    for title, (layout, shapes), places, height in zip(titles, graphs, x_of, heights, strict=True):
        top -= height
        axes = figure.add_axes((0.0, top / total, 1.0, height / total))
        axes.set_axis_off()
        middle = [y * _UNIT for _, y in layout.position.values()]
        centre = (max(middle) + min(middle)) / 2 + 0.17
        axes.set_xlim(-0.65, width - 0.65)
        axes.set_ylim(centre - height / 2, centre + height / 2)
        axes.text(-0.35, centre + height / 2 - 0.1, title, fontsize=11, va="top")
        _draw_graph(axes, layout, shapes, places)
    return figure


def save_picture(genotype: Genotype, path: str | Path) -> None:
    """Draw a genotype into a file; the suffix chooses the format.

    The same genotype gives the same SVG and PDF, byte by byte, so they can lie in a repository.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        GenotypeError: The suffix is none of :data:`FORMATS`, the file cannot be written, or the
            architecture of this space cannot be drawn.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise GenotypeError(
            f"picture '{path}'", [f"must end in one of .{', .'.join(FORMATS)}, got '{path.suffix}'"]
        )
    figure = draw(genotype)
    import matplotlib

    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": genotype.hash}):
        figure.savefig(buffer, format=kind, dpi=150, metadata=metadata)
    write_atomically(path, buffer.getvalue())


def _cells(genotype: Genotype) -> list[tuple[str, Cell]]:
    architecture = genotype.architecture
    if not isinstance(architecture, CellArchitecture):
        raise GenotypeError(
            f"genotype '{genotype.name}'", [f"space: '{genotype.space}' has no cells to draw"]
        )
    return [("normal", architecture.normal), ("reduction", architecture.reduction)]


def _title(kind: str) -> str:
    return f"{kind} cell" + (" (/2: stride 2 in time and frequency)" if kind == "reduction" else "")


def _subtitle(genotype: Genotype) -> str:
    kind = genotype.provenance.get("kind", "unknown")
    if kind == "reconstruction":
        kind = "reconstruction, not the published cells"
    return f"space {genotype.space}   {kind}   {genotype.hash}"


# What to draw at a vertex: (text, fill, edge, width in inches, height in units).
Shape = tuple[str, str, str, float, float]


def _graph(kind: str, cell: Cell) -> tuple[Layout, dict[Vertex, Shape]]:
    """Lay a cell out: its states and, between them, one box for each operation."""
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
        colours = ("#3d4652", "#3d4652") if state < INPUT_STATES else ("#ffffff", "#3d4652")
        shapes[("state", state)] = (state_name(state), *colours, _STATE_WIDTH, _STATE_HEIGHT)
    for number, node in enumerate(cell.nodes):
        head = ("state", INPUT_STATES + number)
        for place, edge in enumerate(node):
            op = ("op", number, place)
            column[op] = column[head] - 1
            fill, line = _colours(edge.op)
            halved = kind == "reduction" and edge.source < INPUT_STATES
            text = edge.op + (" /2" if halved else "")
            shapes[op] = (text, fill, line, _OP_WIDTH, _OP_HEIGHT)
            edges += [(("state", edge.source), op), (op, head)]
    out = ("out",)
    column[out] = 2 * max(depth.values()) + 1
    shapes[out] = ("k", "#3d4652", "#3d4652", _STATE_WIDTH, _STATE_HEIGHT)
    edges += [(("state", state), out) for state in cell.concat]
    # The two inputs have the most lines, so they get more room between them.
    size = {v: shape[4] + (0.32 if column[v] else 0.9) for v, shape in shapes.items()}
    return layered_layout(column, edges, size), shapes


def _chain_graph(architecture: ChainArchitecture) -> tuple[Layout, dict[Vertex, Shape]]:
    """Lay a chain out: its blocks in a row, between the features and the output."""
    ends = ("#3d4652", "#3d4652", _STATE_WIDTH, _STATE_HEIGHT)
    vertices: list[Vertex] = [("state", 0)]
    shapes: dict[Vertex, Shape] = {("state", 0): ("in", *ends)}
    for number, block in enumerate(architecture.blocks, 1):
        vertices.append(("op", number, 0))
        shapes[vertices[-1]] = (f"{number}: {block}", *_colours(block), _OP_WIDTH, _OP_HEIGHT)
    vertices.append(("out",))
    shapes[("out",)] = ("out", *ends)
    column = {vertex: place for place, vertex in enumerate(vertices)}
    edges = list(zip(vertices, vertices[1:], strict=False))
    return layered_layout(column, edges, {v: shapes[v][4] + 0.9 for v in vertices}), shapes


def _skip_graph(architecture: SkipArchitecture) -> tuple[Layout, dict[Vertex, Shape]]:
    """Lay a cell with skips out: a skip of a node leads to where the node's result goes."""
    ends = ("#3d4652", "#3d4652", _STATE_WIDTH, _STATE_HEIGHT)
    vertices: list[Vertex] = [("state", 0)]
    shapes: dict[Vertex, Shape] = {("state", 0): ("in", *ends)}
    for number, node in enumerate(architecture.nodes, 1):
        vertices.append(("op", number, 0))
        shapes[vertices[-1]] = (
            f"{number}: {node.op}",
            *_colours("tdnn" if node.op.startswith("conv") else node.op),
            _OP_WIDTH,
            _OP_HEIGHT,
        )
    vertices.append(("out",))
    shapes[("out",)] = ("out", *ends)
    edges = list(zip(vertices, vertices[1:], strict=False))
    edges += [
        (vertices[source], vertices[number + 1])
        for number, node in enumerate(architecture.nodes, 1)
        for source in node.skips
    ]
    column = {vertex: place for place, vertex in enumerate(vertices)}
    return layered_layout(column, edges, {v: shapes[v][4] + 0.9 for v in vertices}), shapes


def _colours(op: str) -> tuple[str, str]:
    matches = [family for family in _COLOURS if op.startswith(family)]
    return _COLOURS[max(matches, key=len)] if matches else _OTHER


def _column_places(layout: Layout, shapes: dict[Vertex, Shape]) -> list[float]:
    """Return the x of each column's centre, in inches."""
    widths = [0.0] * (1 + max(column for column, _ in layout.position.values()))
    for vertex, (column, _) in layout.position.items():
        widths[column] = max(widths[column], shapes[vertex][3])
    places = [0.0]
    for before, after in zip(widths, widths[1:], strict=False):
        places.append(places[-1] + before / 2 + _GAP + after / 2)
    return places


def _draw_graph(
    axes: Axes, layout: Layout, shapes: dict[Vertex, Shape], places: list[float]
) -> None:
    from matplotlib.patches import FancyBboxPatch

    half_width = [0.0] * len(places)
    for vertex, (column, _) in layout.position.items():
        half_width[column] = max(half_width[column], shapes[vertex][3] / 2)
    own_half = {layout.position[vertex]: shape[3] / 2 for vertex, shape in shapes.items()}
    end = layout.position[("out",)]
    for points in layout.route:
        colour = "#a3acb7" if points[-1] == end else "#4f5964"  # concatenation, data
        _draw_edge(axes, points, places, half_width, own_half, colour)
    for vertex, (text, fill, line, width, height) in shapes.items():
        column, y = layout.position[vertex]
        x, centre, tall = places[column], y * _UNIT, height * _UNIT
        is_op = width == _OP_WIDTH
        axes.add_patch(
            FancyBboxPatch(
                (x - width / 2, centre - tall / 2),
                width,
                tall,
                boxstyle=f"round,pad=0,rounding_size={0.05 if is_op else 0.16}",
                facecolor=fill,
                edgecolor=line,
                linewidth=1.1,
                zorder=3,
            )
        )
        axes.text(
            x,
            centre,
            text,
            fontsize=8 if is_op else 10,
            ha="center",
            va="center",
            color="white" if fill == line else "black",
            zorder=4,
        )


def _draw_edge(
    axes: Axes,
    points: list[tuple[int, float]],
    places: list[float],
    half_width: list[float],
    own_half: dict[tuple[int, float], float],
    colour: str,
) -> None:
    """Draw a smooth line that runs level through every column it passes."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

    way: list[tuple[float, float]] = []
    for index, (column, y) in enumerate(points):
        ends = index in (0, len(points) - 1)
        half = own_half[(column, y)] if ends else half_width[column]
        if index > 0:
            way.append((places[column] - half, y * _UNIT))
        if index < len(points) - 1:
            way.append((places[column] + half, y * _UNIT))
    vertices, codes = [way[0]], [int(Curve.MOVETO)]
    for (x0, y0), (x1, y1) in zip(way, way[1:], strict=False):
        middle = (x0 + x1) / 2
        vertices += [(middle, y0), (middle, y1), (x1, y1)]
        codes += [int(Curve.CURVE4)] * 3
    axes.add_patch(
        FancyArrowPatch(
            path=Curve(vertices, codes),
            arrowstyle="-|>,head_width=2.2,head_length=4",
            color=colour,
            linewidth=1.0,
            shrinkA=0,
            shrinkB=0,
            zorder=2,
        )
    )
