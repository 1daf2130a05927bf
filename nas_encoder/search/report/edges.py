"""The pictures of a search report that show every edge: at one epoch, and over all of them.

E edges of a cell, blocks of a chain, or nodes or skips, N operations of the space.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from nas_encoder.genotype import Genotype
from nas_encoder.network.choices.parameters import (
    KINDS,
    NO_SKIP,
    NODES,
    SKIP,
    SKIPS,
    edge_list,
    skip_list,
)
from nas_encoder.search.records import EpochRecord
from nas_encoder.search.report.page import Section
from nas_encoder.search.report.pictures import (
    colours_of,
    kind_title,
    new_figure,
    stage_starts,
    to_png,
)
from nas_encoder.spaces.cells.architecture import INPUT_STATES, CellArchitecture
from nas_encoder.spaces.nasbench_asr.architecture import SkipArchitecture
from nas_encoder.spaces.picture import state_name

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_COLUMNS = 5
_PITCH = (1.1, 1.35)  # from one small picture to the next, their size is 1
_MOST_BARS = 200  # of a small picture: more could not be seen apart


def edge_map(
    row: EpochRecord, operations: Sequence[str], genotype: Genotype | None, title: str
) -> Section:
    """Draw the probabilities of one epoch, edges by operations.

    Args:
        row: The epoch.
        operations: N columns.
        genotype: What was derived from these probabilities; its edges get a frame.
        title: Of the section.
    """
    import numpy as np

    kinds = list(row.probabilities)
    tables = [row.probabilities[kind] for kind in kinds]
    figure = new_figure(0.29 * max(map(len, tables)) + 1.9)
    axes_list = figure.subplots(1, len(kinds), squeeze=False)[0]
    highest = max(0.5, *(p for table in tables for edge in table for p in edge.values()))
    for axes, kind, table in zip(axes_list, kinds, tables, strict=True):
        columns = list(colours_of(kind, operations))
        values = np.array([[edge.get(op, np.nan) for op in columns] for edge in table])
        axes.set_facecolor("#e4e4e4")
        axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=highest)
        for line, place in np.argwhere(~np.isnan(values)):
            value = values[line, place]
            axes.text(
                place,
                line,
                f"{value:.3f}".lstrip("0"),
                ha="center",
                va="center",
                fontsize=6,
                color="black" if value > 0.6 * highest else "white",
            )
        for line, operation in _chosen(genotype, kind):
            _frame(axes, columns.index(operation), line)
        for border in _borders(kind, len(table)):
            axes.axhline(border - 0.5, color="white", lw=2.5)
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
        names = edge_names(kind, len(table))
        if row.edges:
            names = [f"{name}  {p:.2f}" for name, p in zip(names, row.edges[kind], strict=True)]
        axes.set_yticks(range(len(table)), names, fontsize=8)
        axes.set_title(kind_title(kind), fontsize=10)
    figure.colorbar(
        axes_list[0].images[0], ax=list(axes_list), label="probability", shrink=0.8, pad=0.02
    )
    return Section(
        title,
        "Probability of each operation on each edge (node \u2190 its source), block or node. Grey: "
        "no candidate (any more). Red frame: what the genotype of this epoch takes."
        + (" Beside an edge: how probable it is that its node takes it." if row.edges else ""),
        to_png(figure),
    )


def edge_courses(
    rows: Sequence[EpochRecord], kind: str, operations: Sequence[str], genotype: Genotype | None
) -> Section:
    """Draw how the probabilities of every edge of one kind moved over the epochs.

    Args:
        rows: Epochs that record probabilities of this kind.
        kind: Of cell.
        operations: N, in the order of their colours.
        genotype: What was derived at the end; its edges are marked.
    """
    step = -(-len(rows) // _MOST_BARS)
    shown = rows[step - 1 :: step]
    edges = len(shown[0].probabilities[kind])
    names = edge_names(kind, edges)
    taken = dict(_chosen(genotype, kind))
    columns = min(_COLUMNS, edges)
    lines = -(-edges // columns)
    figure = new_figure(1.4 * lines + 0.2)
    # One pair of axes for all: a dozen would take matplotlib seconds.
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, columns * _PITCH[0])
    axes.set_ylim(lines * _PITCH[1], -0.2)
    width = 1 / len(shown)
    for number in range(edges):
        left = number % columns * _PITCH[0]
        base = number // columns * _PITCH[1] + 1
        borders = [left + place * width for place in range(len(shown) + 1)]
        bottom = [0.0] * len(shown)
        for operation, colour in colours_of(kind, operations).items():
            heights = [
                row.taken(kind)[number] * row.probabilities[kind][number].get(operation, 0.0)
                for row in shown
            ]
            top = [low + height for low, height in zip(bottom, heights, strict=True)]
            axes.fill_between(
                borders,
                [base - value for value in (*bottom, bottom[-1])],
                [base - value for value in (*top, top[-1])],
                step="post",
                color=colour,
                linewidth=0,
                label="" if number else operation,
            )
            bottom = top
        for start in stage_starts(shown)[1:]:
            axes.plot([borders[start]] * 2, [base - 1, base], color="#222222", lw=0.8, ls="--")
        axes.text(
            left,
            base - 1.05,
            names[number] + (f": {taken[number]}" if number in taken else ""),
            fontsize=7,
            fontweight="bold" if number in taken else "normal",
        )
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], fontsize=7, loc="outside right center", frameon=False
    )
    return Section(
        f"Every edge of the {kind_title(kind)} over time",
        "Probability of each operation (the height of its band) from the first epoch, left, to the "
        "last, right; dashed: a new stage. Bold: edges that the genotype takes, "
        "with their operation. Bands that stay equally high: the edge has learned nothing."
        + (
            " All bands together: how probable it is that the edge is taken."
            if shown[0].edges
            else ""
        ),
        to_png(figure),
    )


def edge_names(kind: str, count: int) -> list[str]:
    """Return what the edges of a kind are called: node and source, or the block's number."""
    if kind == SKIPS:
        return [
            f"{node + 1} \u2190 {source or 'input'}"
            for node, source in skip_list(_nodes_by_skips(count))
        ]
    if kind not in KINDS:
        title = "node" if kind == NODES else "block"
        return [f"{title} {number}" for number in range(1, count + 1)]
    edges = edge_list(nodes_of(count))
    return [f"{node + INPUT_STATES} \u2190 {state_name(source)}" for node, source in edges]


def nodes_of(edges: int) -> int:
    """Return the nodes of a cell that has so many edges."""
    return _first(edge_list, edges)


def _nodes_by_skips(skips: int) -> int:
    """Return the nodes of a cell that has so many skips."""
    return _first(skip_list, skips)


def _first(list_of: Callable[[int], Sequence[Any]], count: int) -> int:
    nodes = 1
    while len(list_of(nodes)) < count:
        nodes += 1
    return nodes


def _borders(kind: str, count: int) -> list[int]:
    if kind == SKIPS:
        edges = skip_list(_nodes_by_skips(count))
    elif kind in KINDS:
        edges = edge_list(nodes_of(count))
    else:
        return []
    return [place for place in range(1, count) if edges[place][0] != edges[place - 1][0]]


def _chosen(genotype: Genotype | None, kind: str) -> Iterator[tuple[int, str]]:
    """Yield (edge, operation) of what a genotype takes."""
    if genotype is None:
        return
    architecture = genotype.architecture
    if isinstance(architecture, CellArchitecture):
        cell = getattr(architecture, kind)
        edges = edge_list(len(cell.nodes))
        for node, own in enumerate(cell.nodes):
            for edge in own:
                yield edges.index((node, edge.source)), edge.op
    elif isinstance(architecture, SkipArchitecture):
        if kind == NODES:
            yield from enumerate(node.op for node in architecture.nodes)
            return
        for row, (number, source) in enumerate(skip_list(len(architecture.nodes))):
            yield row, SKIP if source in architecture.nodes[number].skips else NO_SKIP
    else:
        yield from enumerate(getattr(architecture, kind))


def _frame(axes: Axes, column: int, line: int) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(
        Rectangle(
            (column - 0.5, line - 0.5),
            1,
            1,
            fill=False,
            edgecolor="#ff3b30",
            lw=2,
            clip_on=False,
            zorder=3,
        )
    )
