"""Drawing architectures; each space defines its graphs in its ``picture.py``."""

from __future__ import annotations

import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import GenotypeError, MissingDependencyError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.layered import Layout, Vertex, layered_layout
from nas_encoder.tables import SPACES

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = ("svg", "png", "pdf")

# Families of operations by the beginning of the name -> (fill, edge); colours that stay
# distinguishable for colour-blind readers and in greyscale.
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
_UNIT, STATE_WIDTH, OP_WIDTH, _GAP = 0.46, 0.72, 1.34, 0.42
OP_HEIGHT, STATE_HEIGHT = 0.66, 0.74  # of a unit
DARK = "#3d4652"


def draw(genotype: Genotype) -> Figure:
    """Draw a genotype: its graphs, one below the other.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        NasEncoderError: The space has no picture.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot", "drawing a genotype") from error
    titles, graphs = zip(*SPACES[genotype.space].picture.graphs(genotype.architecture), strict=True)
    columns = [_columns(layout, shapes) for layout, shapes in graphs]
    width = max(places[-1] for places, _ in columns) + 1.3
    heights = [layout.height * _UNIT + 1.1 for layout, _ in graphs]
    total = sum(heights) + 0.75
    top = total - 0.75
    figure = Figure(figsize=(width, total), facecolor="white")
    left = 0.3 / width
    style: dict[str, Any] = {"va": "center"}
    figure.text(left, 1 - 0.28 / total, genotype.name, fontsize=14, weight="bold", **style)
    figure.text(left, 1 - 0.55 / total, _subtitle(genotype), fontsize=9, color="#444444", **style)
    for title, graph, column, height in zip(titles, graphs, columns, heights, strict=True):
        top -= height
        axes = figure.add_axes((0.0, top / total, 1.0, height / total))
        axes.set_axis_off()
        middle = [y * _UNIT for _, y in graph[0].position.values()]
        centre = (max(middle) + min(middle)) / 2 + 0.17
        axes.set_xlim(-0.65, width - 0.65)
        axes.set_ylim(centre - height / 2, centre + height / 2)
        axes.text(-0.35, centre + height / 2 - 0.1, title, fontsize=11, va="top")
        _draw_graph(axes, graph, column)
    return figure


def save_picture(genotype: Genotype, path: str | Path) -> None:
    """Draw a genotype into a file; the suffix chooses the format.

    The same genotype gives the same SVG and PDF, byte by byte, so they can be committed.

    Raises:
        MissingDependencyError: matplotlib is not installed.
        GenotypeError: The suffix is not in :data:`FORMATS`, or the file cannot be written.
    """
    path = Path(path)
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise GenotypeError(
            f"picture '{path}'", [f"must end in one of .{', .'.join(FORMATS)}, got '{path.suffix}'"]
        )
    write_atomically(path, picture(genotype, kind))


def picture(genotype: Genotype, kind: str, dpi: int = 150) -> bytes:
    """Return the picture of a genotype in one of :data:`FORMATS`.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    figure = draw(genotype)
    import matplotlib

    metadata: dict[str, Any] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind, {})
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": genotype.hash}):
        figure.savefig(buffer, format=kind, dpi=dpi, metadata=metadata)
    return buffer.getvalue()


# What to draw at a vertex: (text, fill, edge, width in inches, height in units).
Shape = tuple[str, str, str, float, float]
Graph = tuple[Layout, dict[Vertex, Shape]]
Columns = tuple[list[float], list[float]]


def state_shape(text: str, outer: bool = True) -> Shape:
    """Return the shape of a state; ``outer`` ones come from or lead out of the picture."""
    return (text, DARK if outer else "#ffffff", DARK, STATE_WIDTH, STATE_HEIGHT)


def operation_shape(text: str, operation: str) -> Shape:
    """Return the shape of an operation, whose name determines the colours."""
    return (text, *_colours(operation), OP_WIDTH, OP_HEIGHT)


def row_graph(
    operations: Sequence[Shape], ends: tuple[str, str], skips: Iterable[tuple[int, int]] = ()
) -> Graph:
    """Lay operations out in a row between two ends.

    Args:
        operations: Operations, first to last.
        ends: Labels of the beginning and the end.
        skips: (from, to): further lines; 0 is the beginning, k the k-th operation.
    """
    vertices: list[Vertex] = [
        ("state", 0),
        *(("op", number, 0) for number in range(1, len(operations) + 1)),
        ("out",),
    ]
    drawn = [state_shape(ends[0]), *operations, state_shape(ends[1])]
    shapes = dict(zip(vertices, drawn, strict=True))
    edges = list(zip(vertices, vertices[1:], strict=False))
    edges += [(vertices[start], vertices[end]) for start, end in skips]
    column = {vertex: place for place, vertex in enumerate(vertices)}
    return layered_layout(column, edges, {v: shapes[v][4] + 0.9 for v in vertices}), shapes


def _subtitle(genotype: Genotype) -> str:
    kind = genotype.provenance.get("kind", "unknown")
    if kind == "reconstruction":
        kind = "reconstruction, not the published cells"
    return f"space {genotype.space}   {kind}   {genotype.hash}"


def _colours(op: str) -> tuple[str, str]:
    matches = [family for family in _COLOURS if op.startswith(family)]
    return _COLOURS[max(matches, key=len)] if matches else _OTHER


def _columns(layout: Layout, shapes: dict[Vertex, Shape]) -> Columns:
    """Return the x of each column's centre and half of its width, in inches."""
    halves = [0.0] * (1 + max(column for column, _ in layout.position.values()))
    for vertex, (column, _) in layout.position.items():
        halves[column] = max(halves[column], shapes[vertex][3] / 2)
    places = [0.0]
    for before, after in zip(halves, halves[1:], strict=False):
        places.append(places[-1] + before + _GAP + after)
    return places, halves


def _draw_graph(axes: Axes, graph: Graph, columns: Columns) -> None:
    from matplotlib.patches import FancyBboxPatch

    (layout, shapes), (places, halves) = graph, columns
    own_half = {layout.position[vertex]: shape[3] / 2 for vertex, shape in shapes.items()}
    end = layout.position[("out",)]
    for points in layout.route:
        way: list[tuple[float, float]] = []
        for index, (column, y) in enumerate(points):
            ends = index in (0, len(points) - 1)
            half = own_half[(column, y)] if ends else halves[column]
            way += [(places[column] - half, y * _UNIT), (places[column] + half, y * _UNIT)]
        # Concatenation, data. An edge starts at its tail's right side and ends at its head's left.
        _draw_edge(axes, way[1:-1], "#a3acb7" if points[-1] == end else "#4f5964")
    for vertex, (text, fill, line, width, height) in shapes.items():
        column, y = layout.position[vertex]
        x, centre, tall = places[column], y * _UNIT, height * _UNIT
        is_op = width == OP_WIDTH
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


def _draw_edge(axes: Axes, way: list[tuple[float, float]], colour: str) -> None:
    """Draw a smooth line that is level in every column it passes."""
    from matplotlib.patches import FancyArrowPatch
    from matplotlib.path import Path as Curve

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


def architecture_lines(genotype: Genotype) -> list[str]:
    """Return a genotype's architecture as text."""
    lines: list[str] = SPACES[genotype.space].lines(genotype.architecture)
    return lines
