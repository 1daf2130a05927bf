"""The pictures of a search report, made from the rows of metrics.jsonl.

E edges of a cell, N operations of the space.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_encoder.errors import MissingDependencyError
from nas_encoder.genotype import Cell
from nas_encoder.genotype.cells import INPUT_STATES
from nas_encoder.genotype.draw import state_name
from nas_encoder.search.gradient.choices import KINDS, edge_list

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Row = Mapping[str, Any]

# Okabe and Ito's colours, which stay apart for the colour-blind; grey is for 'none'.
_COLOURS = (
    "#9a9a9a",
    "#e69f00",
    "#f0e442",
    "#56b4e9",
    "#0072b2",
    "#6fc3a5",
    "#00795c",
    "#cc79a7",
    "#d55e00",
    "#000000",
)
_WIDTH = 9.0  # inches


@dataclass(frozen=True)
class Picture:
    """A PNG picture with what it shows.

    Attributes:
        title: Of the section.
        text: How to read it, a sentence or two.
        png: The file's bytes.
    """

    title: str
    text: str
    png: bytes


def require_matplotlib() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot", "the report of a search") from error


def to_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def curves(rows: Sequence[Row]) -> Picture:
    """Draw losses, the token error rate and the certainty of the choice over all epochs."""
    panels: list[tuple[str, dict[str, list[float | None]]]] = [
        (
            "loss per token",
            {
                "training": [row.get("train_loss") for row in rows],
                "architecture's data": [row.get("architecture_loss") for row in rows],
                "validation": [row.get("valid_loss") for row in rows],
            },
        ),
        ("token error rate, %", {"validation": [row.get("valid_ter") for row in rows]}),
        (
            "entropy / that of a uniform choice",
            {f"{kind} cell": [relative_entropy(row, kind) for row in rows] for kind in KINDS},
        ),
    ]
    figure = _figure(6.9)
    axes_list = figure.subplots(len(panels), 1, sharex=True)
    starts = stage_starts(rows)  # a line ends where its network does
    for axes, (label, lines) in zip(axes_list, panels, strict=True):
        for (name, values), colour in zip(
            lines.items(), ("#0072b2", "#d55e00", "#00795c"), strict=False
        ):
            if any(value is not None for value in values):
                for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                    axes.plot(
                        range(start + 1, end + 1),
                        [float("nan") if v is None else v for v in values[start:end]],
                        marker="o",
                        markersize=3.5,
                        color=colour,
                        label="" if start else name,
                    )
        axes.set_ylabel(label, fontsize=9)
        axes.grid(alpha=0.25)
        _mark_stages(axes, rows)
        axes.legend(fontsize=8, loc="best")
    certainty = axes_list[-1]
    certainty.set_ylim(min(0.9, certainty.get_ylim()[0]), 1.005)
    _label_stages(axes_list[0], rows)
    _epoch_axis(certainty, rows)
    return Picture(
        "Training",
        "Every stage begins with a new, deeper network, so losses jump at its border (dashed). "
        "The validation figures use the running statistics of batch norm, which lag behind in "
        "the first epochs of a stage and in searches of few steps. The entropy is the mean over "
        "the edges of a cell: 1 is a uniform choice (nothing learned), 0 a hard one.",
        to_png(figure),
    )


def operation_shares(rows: Sequence[Row], operations: Sequence[str]) -> Picture:
    """Draw the mean probability of each operation over the edges, epoch by epoch."""
    figure = _figure(5.6)
    axes_list = figure.subplots(len(KINDS), 1, sharex=True)
    for axes, kind in zip(axes_list, KINDS, strict=True):
        shares = [mean_shares(row, kind, operations) for row in rows]
        bottom = [0.0] * len(rows)
        for place, operation in enumerate(operations):
            heights = [share[operation] for share in shares]
            axes.bar(
                range(1, len(rows) + 1),
                heights,
                bottom=bottom,
                width=0.9,
                color=_COLOURS[place % len(_COLOURS)],
                label=operation,
            )
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        axes.set_ylim(0, 1)
        axes.set_ylabel(f"{kind} cell", fontsize=9)
        _mark_stages(axes, rows)
    _label_stages(axes_list[0], rows)
    _epoch_axis(axes_list[-1], rows)
    handles, labels = axes_list[0].get_legend_handles_labels()
    figure.legend(
        handles[::-1], labels[::-1], fontsize=8, loc="outside right center", frameon=False
    )
    return Picture(
        "Operations over time",
        "Mean probability of each operation over the edges of a cell. At the end of a stage the "
        "least probable ones are pruned, edge by edge.",
        to_png(figure),
    )


def edge_map(
    row: Row, operations: Sequence[str], cells: Mapping[str, Cell] | None, title: str
) -> Picture:
    """Draw the probabilities of one epoch, edges by operations, for both cells.

    Args:
        row: The epoch.
        operations: N columns.
        cells: What was derived from these probabilities; its edges get a frame.
        title: Of the section.
    """
    import numpy as np
    from matplotlib.patches import Rectangle

    nodes = _nodes(len(row["probabilities"][KINDS[0]]))
    edges = edge_list(nodes)
    figure = _figure(0.29 * len(edges) + 1.9)
    axes_list = figure.subplots(1, len(KINDS), sharey=True)
    tables = [row["probabilities"][kind] for kind in KINDS]
    highest = max(0.5, *(p for table in tables for edge in table for p in edge.values()))
    for axes, kind, table in zip(axes_list, KINDS, tables, strict=True):
        values = np.array([[edge.get(op, np.nan) for op in operations] for edge in table])
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
        for node, edge in _chosen(cells, kind):
            place = (operations.index(edge.op), edges.index((node, edge.source)))
            axes.add_patch(
                Rectangle(
                    (place[0] - 0.5, place[1] - 0.5),
                    1,
                    1,
                    fill=False,
                    edgecolor="#ff3b30",
                    lw=2,
                    clip_on=False,
                    zorder=3,
                )
            )
        borders = [
            place for place in range(1, len(edges)) if edges[place][0] != edges[place - 1][0]
        ]
        for border in borders:
            axes.axhline(border - 0.5, color="white", lw=2.5)
        axes.set_xticks(range(len(operations)), operations, rotation=40, ha="right", fontsize=8)
        axes.set_yticks(
            range(len(edges)),
            [f"{node + INPUT_STATES} \u2190 {state_name(source)}" for node, source in edges],
            fontsize=8,
        )
        axes.set_title(f"{kind} cell", fontsize=10)
    figure.colorbar(
        axes_list[0].images[0], ax=list(axes_list), label="probability", shrink=0.8, pad=0.02
    )
    return Picture(
        title,
        "Probability of each operation on each edge (node \u2190 its source). Grey: pruned. Red "
        "frame: what the genotype of this epoch takes.",
        to_png(figure),
    )


def relative_entropy(row: Row, kind: str) -> float | None:
    """Return an epoch's mean entropy over that of a uniform choice, or None where not known."""
    entropy = (row.get("entropy") or {}).get(kind)
    uniform = row.get("uniform_entropy")
    return entropy / uniform if entropy is not None and uniform else None


def mean_shares(row: Row, kind: str, operations: Sequence[str]) -> dict[str, float]:
    """Return each operation's mean probability over the edges of a kind of cell."""
    edges = row["probabilities"][kind]
    return {op: sum(edge.get(op, 0.0) for edge in edges) / len(edges) for op in operations}


def stage_starts(rows: Sequence[Row]) -> list[int]:
    """Return the position of the first row of each stage."""
    return [i for i, row in enumerate(rows) if not i or row["stage"] != rows[i - 1]["stage"]]


def _chosen(cells: Mapping[str, Cell] | None, kind: str) -> list[tuple[int, Any]]:
    if cells is None:
        return []
    return [(node, edge) for node, edges in enumerate(cells[kind].nodes) for edge in edges]


def _nodes(edges: int) -> int:
    nodes = 1
    while len(edge_list(nodes)) < edges:
        nodes += 1
    return nodes


def _figure(height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")


def _mark_stages(axes: Axes, rows: Sequence[Row]) -> None:
    for start in stage_starts(rows)[1:]:
        axes.axvline(start + 0.5, color="#444444", lw=1, ls="--")


def _label_stages(axes: Axes, rows: Sequence[Row]) -> None:
    starts = stage_starts(rows)
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        axes.text(
            (start + end + 1) / 2,
            1.02,
            f"stage {rows[start]['stage']}",
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=9,
        )


def _epoch_axis(axes: Axes, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.4, len(rows) + 0.6)
    axes.set_xlabel("epoch (counted over all stages)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
