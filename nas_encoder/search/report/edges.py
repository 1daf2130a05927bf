"""The report's plots of every edge: at one epoch, and over all epochs.

E edges of a cell, blocks of a chain, or nodes or skips, N operations of the space.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from nas_encoder.genotype import Genotype
from nas_encoder.search.records import EpochRecord
from nas_encoder.search.report.page import Section
from nas_encoder.search.report.pictures import colours_of, new_figure, stage_starts, to_png
from nas_encoder.spaces import SearchSpace

_COLUMNS = 5
_PITCH = (1.1, 1.35)  # between subplots of size 1
_MOST_BARS = 200  # per subplot: more would be indistinguishable


def edge_map(
    row: EpochRecord, space: SearchSpace, genotype: Genotype | None, title: str
) -> Section:
    """Draw the probabilities of one epoch, edges by operations.

    Edges of the genotype derived from these probabilities get a frame.
    """
    import numpy as np
    from matplotlib.patches import Rectangle

    kinds = list(row.probabilities)
    chosen = {} if genotype is None else space.chosen(genotype.architecture)
    tables = [row.probabilities[kind] for kind in kinds]
    figure = new_figure(0.29 * max(map(len, tables)) + 1.9)
    axes_list = figure.subplots(1, len(kinds), squeeze=False)[0]
    centred: dict[str, Any] = {"ha": "center", "va": "center", "fontsize": 6, "in_layout": False}
    frame: dict[str, Any] = {"fill": False, "ec": "#ff3b30", "lw": 2, "clip_on": False, "zorder": 3}
    highest = max(0.5, *(p for table in tables for edge in table for p in edge.values()))
    for axes, kind, table in zip(axes_list, kinds, tables, strict=True):
        about = space.kinds[kind]
        columns = about.operations
        values = np.array([[edge.get(op, np.nan) for op in columns] for edge in table])
        axes.set_facecolor("#e4e4e4")
        axes.imshow(values, aspect="auto", cmap="viridis", vmin=0, vmax=highest)
        for line, place in np.argwhere(~np.isnan(values)):
            value = values[line, place]
            axes.text(
                place,
                line,
                f"{value:.3f}".lstrip("0"),
                color="black" if value > 0.6 * highest else "white",
                **centred,
            )
        for line, operation in chosen.get(kind, ()):
            corner = (columns.index(operation) - 0.5, line - 0.5)
            axes.add_patch(Rectangle(corner, 1, 1, **frame))
        for border, (above, below) in enumerate(pairwise(about.groups), 1):
            if above != below:
                axes.axhline(border - 0.5, color="white", lw=2.5)
        axes.set_xticks(range(len(columns)), columns, rotation=40, ha="right", fontsize=8)
        names = list(about.names)
        if row.edges:
            names = [f"{name}  {p:.2f}" for name, p in zip(names, row.edges[kind], strict=True)]
        axes.set_yticks(range(len(table)), names, fontsize=8)
        axes.set_title(about.title, fontsize=10)
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
    rows: Sequence[EpochRecord], kind: str, space: SearchSpace, genotype: Genotype | None
) -> Section:
    """Draw the probabilities of every edge of one kind over the epochs that record them.

    Edges of the genotype derived at the end are marked.
    """
    import numpy as np

    step = -(-len(rows) // _MOST_BARS)
    shown = rows[step - 1 :: step]
    edges = len(shown[0].probabilities[kind])
    about = space.kinds[kind]
    taken = {} if genotype is None else dict(space.chosen(genotype.architecture)[kind])
    columns = min(_COLUMNS, edges)
    lines = -(-edges // columns)
    figure = new_figure(1.4 * lines + 0.2)
    # One pair of axes for all: a dozen would take matplotlib seconds to draw.
    axes = figure.subplots()
    axes.set_axis_off()
    axes.set_xlim(0, columns * _PITCH[0])
    axes.set_ylim(lines * _PITCH[1], -0.2)
    width, colours = 1 / len(shown), colours_of(space)
    for number in range(edges):
        left = number % columns * _PITCH[0]
        base = number // columns * _PITCH[1] + 1
        borders = [left + place * width for place in range(len(shown) + 1)]
        heights = [
            [row.taken(kind)[number] * row.probabilities[kind][number].get(op, 0) for row in shown]
            for op in about.operations
        ]
        ends = base - np.cumsum([[0.0] * len(shown), *heights], axis=0)
        for operation, (low, high) in zip(about.operations, pairwise(ends), strict=True):
            axes.fill_between(
                borders,
                np.append(low, low[-1]),
                np.append(high, high[-1]),
                step="post",
                color=colours[operation],
                linewidth=0,
                label="" if number else operation,
            )
        for start in stage_starts(shown)[1:]:
            axes.plot([borders[start]] * 2, [base - 1, base], color="#222222", lw=0.8, ls="--")
        axes.text(
            left,
            base - 1.05,
            about.names[number] + (f": {taken[number]}" if number in taken else ""),
            fontsize=7,
            fontweight="bold" if number in taken else "normal",
        )
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], fontsize=7, loc="outside right center", frameon=False
    )
    return Section(
        f"Every edge of the {about.title} over time",
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
