"""The pictures of a search report, made from the rows of metrics.jsonl.

E edges of a cell, N operations of the space.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nas_encoder.errors import MissingDependencyError
from nas_encoder.network.budgets import TITLES, UNITS
from nas_encoder.network.choices.parameters import KINDS, NO_SKIP, SKIP, SKIPS
from nas_encoder.search.records import EpochRecord

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Epochs = Sequence[EpochRecord]

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


def curves(rows: Epochs) -> Picture:
    """Draw losses, the token error rate and the certainty of the choice over all epochs."""
    panels: list[tuple[str, dict[str, list[float | None]]]] = [
        (
            "loss per token",
            {
                "training": [row.train_loss for row in rows],
                "architecture's data": [row.architecture_loss for row in rows],
                "validation": [row.valid_loss for row in rows],
            },
        ),
        ("token error rate, %", {"validation": [row.valid_ter for row in rows]}),
        (
            "entropy / that of a uniform choice",
            entropies(rows),
        ),
    ]
    panels = [panel for panel in panels if panel[1]]
    figure = new_figure(2.3 * len(panels))
    axes_list = figure.subplots(len(panels), 1, sharex=True)
    starts = stage_starts(rows)  # a line ends where its network does
    for axes, (label, lines) in zip(axes_list, panels, strict=True):
        for (name, values), colour in zip(
            lines.items(), ("#0072b2", "#d55e00", "#00795c", "#cc79a7"), strict=False
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
    if len(panels) == 3:
        axes_list[-1].set_ylim(min(0.9, axes_list[-1].get_ylim()[0]), 1.005)
    _label_stages(axes_list[0], rows)
    _epoch_axis(axes_list[-1], rows)
    return Picture(
        "Training",
        "A stage that begins with a new network makes the losses jump at its border (dashed). "
        "The validation figures use the running statistics of batch norm, which lag behind in "
        "the first epochs of a stage and in searches of few steps. The entropy is the mean over "
        "the edges of a cell: 1 is a uniform choice (nothing learned), 0 a hard one."
        + (
            " Where edges are learned, each counts as much as it is probable that its node takes "
            "it; the entropy of a cell's edges is that of the nodes' choice of two."
            if any(row.edges for row in rows)
            else ""
        ),
        to_png(figure),
    )


def entropies(rows: Epochs) -> dict[str, list[float | None]]:
    """Return how open each kind's choice of operations is, and of edges where they are learned."""
    lines: dict[str, list[float | None]] = {
        kind_title(kind): [row.relative_entropy(kind) for row in rows] for kind in kinds_of(rows)
    }
    for kind in kinds_of(rows):
        values = [(row.edge_entropy or {}).get(kind) for row in rows]
        if any(value is not None for value in values):
            lines[f"{kind_title(kind)}, its edges"] = values
    return lines


def compared_curves(runs: Mapping[str, Epochs]) -> Picture:
    """Draw the validation figures of several searches, one colour each."""
    panels = (("validation loss per token", "valid_loss"), ("token error rate, %", "valid_ter"))
    figure = new_figure(5.2)
    axes_list = figure.subplots(len(panels), 1, sharex=True)
    longest = max(runs.values(), key=len)
    for axes, (label, key) in zip(axes_list, panels, strict=True):
        for place, (name, rows) in enumerate(runs.items()):
            starts = stage_starts(rows)
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                axes.plot(
                    range(start + 1, end + 1),
                    [getattr(row, key) for row in rows[start:end]],
                    marker="o",
                    markersize=3.5,
                    color=_COLOURS[1 + (3 * place) % (len(_COLOURS) - 1)],
                    label="" if start else name,
                )
        axes.set_ylabel(label, fontsize=9)
        axes.grid(alpha=0.25)
        _mark_stages(axes, longest)
        axes.legend(fontsize=8, loc="best")
    _label_stages(axes_list[0], longest)
    _epoch_axis(axes_list[-1], longest)
    return Picture(
        "Validation",
        "Every stage begins with a new network, so the figures jump at its border (dashed, of the "
        "longest search).",
        to_png(figure),
    )


def operation_shares(rows: Epochs, operations: Sequence[str]) -> Picture:
    """Draw the mean probability of each operation over the edges, epoch by epoch."""
    kinds = kinds_of(rows)
    figure = new_figure(2.5 * len(kinds) + 0.6)
    axes_list = figure.subplots(len(kinds), 1, sharex=True, squeeze=False)[:, 0]
    for axes, kind in zip(axes_list, kinds, strict=True):
        own = colours_of(kind, operations)
        shares = [row.shares(kind, own) for row in rows]
        bottom = [0.0] * len(rows)
        for operation, colour in own.items():
            heights = [share[operation] for share in shares]
            axes.bar(
                range(1, len(rows) + 1),
                heights,
                bottom=bottom,
                width=0.9,
                color=colour,
                label=operation,
            )
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        axes.set_ylim(0, 1)
        axes.set_ylabel(kind_title(kind), fontsize=9)
        _mark_stages(axes, rows)
    _label_stages(axes_list[0], rows)
    _epoch_axis(axes_list[-1], rows)
    named: dict[str, Any] = {}
    for axes in axes_list:
        handles, labels = axes.get_legend_handles_labels()
        named.update(zip(labels, handles, strict=True))
    figure.legend(
        handles=list(named.values())[::-1],
        labels=list(named)[::-1],
        fontsize=8,
        loc="outside right center",
        frameon=False,
    )
    return Picture(
        "Operations over time",
        "Mean probability of each operation over the edges of a cell, the blocks of a chain, or "
        "the nodes and skips of a cell. "
        "Where a search has several stages, the least probable ones are pruned between them.",
        to_png(figure),
    )


def costs(rows: Epochs) -> Picture | None:
    """Draw what the derived networks cost, against their budgets; None where not recorded."""
    names = [name for name in UNITS if any(name in (row.costs or {}) for row in rows)]
    if not names:
        return None
    figure = new_figure(1.9 * len(names) + 0.6)
    axes_list = figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0]
    starts = stage_starts(rows)
    for axes, name in zip(axes_list, names, strict=True):
        unit, factor = UNITS[name]
        found = [(row.costs or {}).get(name) for row in rows]
        for key, label, colour, style in (
            ("derived", "of the genotype derived", "#0072b2", "-"),
            ("expected", "expected, by the probabilities", "#56b4e9", "--"),
        ):
            values = [factor * getattr(cost, key, float("nan")) for cost in found]
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
                axes.plot(
                    range(start + 1, end + 1),
                    values[start:end],
                    marker="o",
                    markersize=3.5,
                    color=colour,
                    ls=style,
                    label="" if start else label,
                )
        budgets = [cost.budget for cost in found if cost and cost.budget is not None]
        if budgets:
            axes.axhline(factor * budgets[-1], color="#d55e00", lw=1.6, label="budget")
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
        axes.set_ylabel(f"{TITLES[name]}, {unit}", fontsize=9)
        axes.grid(alpha=0.25)
        _mark_stages(axes, rows)
        axes.legend(fontsize=8, loc="best")
    _label_stages(axes_list[0], rows)
    _epoch_axis(axes_list[-1], rows)
    return Picture(
        "Cost against budget",
        "What the encoder would cost at the size given by 'objective', without an output layer.",
        to_png(figure),
    )


def kinds_of(rows: Epochs) -> list[str]:
    """Return the kinds of cells (or of blocks) that the rows record, in their order."""
    return list(dict.fromkeys(kind for row in rows for kind in row.probabilities))


def colours_of(kind: str, operations: Sequence[str]) -> dict[str, str]:
    """Return the operations that a kind chooses from, with their colours.

    Args:
        kind: Of cells, blocks, nodes or skips.
        operations: Of the space.
    """
    if kind == SKIPS:
        return dict(zip((NO_SKIP, SKIP), ("#e4e4e4", "#000000"), strict=True))
    return {op: _COLOURS[place % len(_COLOURS)] for place, op in enumerate(operations)}


def kind_title(kind: str) -> str:
    """Return what a kind is called."""
    return f"{kind} cell" if kind in KINDS else kind


def stage_starts(rows: Epochs) -> list[int]:
    """Return the position of the first row of each stage."""
    return [i for i, row in enumerate(rows) if not i or row.stage != rows[i - 1].stage]


def new_figure(height: float) -> Figure:
    """Return an empty figure of the report's width."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")


def _mark_stages(axes: Axes, rows: Epochs) -> None:
    for start in stage_starts(rows)[1:]:
        axes.axvline(start + 0.5, color="#444444", lw=1, ls="--")


def _label_stages(axes: Axes, rows: Epochs) -> None:
    starts = stage_starts(rows)
    for start, end in zip(starts, [*starts[1:], len(rows)], strict=True):
        axes.text(
            (start + end + 1) / 2,
            1.02,
            f"stage {rows[start].stage} {rows[start].phase}",
            transform=axes.get_xaxis_transform(),
            ha="center",
            fontsize=9,
        )


def _epoch_axis(axes: Axes, rows: Epochs) -> None:
    from matplotlib.ticker import MaxNLocator

    axes.set_xlim(0.4, len(rows) + 0.6)
    axes.set_xlabel("epoch (counted over all stages)", fontsize=9)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
