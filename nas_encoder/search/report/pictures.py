"""The plots of a report, drawn from the epochs of a search.

E edges of a cell, N operations of the space.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from nas_encoder.errors import MissingDependencyError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import TITLES, UNITS
from nas_encoder.search.records import EpochRecord
from nas_encoder.search.report.page import Section
from nas_encoder.spaces import SearchSpace
from nas_encoder.spaces.picture import architecture_lines, draw

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Epochs = Sequence[EpochRecord]

# Okabe and Ito's colours, distinguishable by the colour-blind; grey is for 'none'.
COLOURS = (
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


def require_matplotlib() -> None:
    """Check that pictures can be drawn.

    Raises:
        MissingDependencyError: matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError("matplotlib", "plot", "the report of a search") from error


def new_figure(height: float) -> Figure:
    """Return an empty figure of the report's width."""
    from matplotlib.figure import Figure

    return Figure(figsize=(_WIDTH, height), layout="constrained", facecolor="white")


def new_panels(height: float, *labels: str) -> tuple[Figure, list[Axes]]:
    """Return a figure of one panel below the other, with these labels of their y axes."""
    figure = new_figure(height)
    panels: list[Axes] = list(figure.subplots(len(labels), 1, sharex=True, squeeze=False)[:, 0])
    for axes, label in zip(panels, labels, strict=True):
        axes.set_ylabel(label, fontsize=9)
    return figure, panels


def mark_whole_numbers(axes: Axes) -> None:
    """Mark the x axis at whole numbers only, even where one is all that it shows."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def finish(axes: Axes, label: str = "", whole: bool = False) -> None:
    """Add the grid, the label of the x axis (of ``whole`` numbers) and the legend, if any."""
    axes.grid(alpha=0.25)
    if whole:
        mark_whole_numbers(axes)
    if label:
        axes.set_xlabel(label, fontsize=9)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(fontsize=8, loc="best")


def to_png(figure: Figure) -> bytes:
    """Return a figure as the bytes of a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    return buffer.getvalue()


def genotype_section(title: str, genotype: Genotype, note: str = "", **more: Any) -> Section:
    """Return a genotype as a picture and as text."""
    lines = "\n".join(architecture_lines(genotype))
    return Section(title, note, to_png(draw(genotype)), "the genotype", lines, **more)


def curves(epochs: Epochs, space: SearchSpace) -> Section:
    """Draw losses, token error rate and certainty of the choices over all epochs."""
    panels: dict[str, dict[str, Sequence[float | None]]] = {
        "loss per token": {
            "training": [epoch.train_loss for epoch in epochs],
            "architecture's data": [epoch.architecture_loss for epoch in epochs],
            "validation": [epoch.valid_loss for epoch in epochs],
        },
        "token error rate, %": {"validation": [epoch.valid_ter for epoch in epochs]},
        "entropy / that of a uniform choice": entropies(epochs, space),
    }
    figure, axes_list = new_panels(2.3 * len(panels), *panels)
    for axes, lines in zip(axes_list, panels.values(), strict=True):
        for (name, values), colour in zip(
            lines.items(), ("#0072b2", "#d55e00", "#00795c", "#cc79a7"), strict=False
        ):
            if any(value is not None for value in values):
                _plot(axes, epochs, values, name, color=colour)
    axes_list[-1].set_ylim(min(0.9, axes_list[-1].get_ylim()[0]), 1.005)
    _finish(axes_list, epochs)
    learned = (
        " Where edges are learned, each counts as much as it is probable that its node takes it; "
        "the entropy of a cell's edges is that of its nodes' choice of two."
    )
    return Section(
        "Training",
        "A stage starts with a new network, so the losses jump at its border (dashed). Validation "
        "uses the running statistics of batch norm, which lag behind in the first epochs of a "
        "stage and in searches of few steps. The entropy is the mean over the edges of a cell: 1 "
        "is a uniform choice (nothing learned), 0 a hard one."
        + (learned if any(epoch.edges for epoch in epochs) else ""),
        to_png(figure),
    )


def entropies(epochs: Epochs, space: SearchSpace) -> dict[str, Sequence[float | None]]:
    """Return the relative entropy of each kind's operations, and of its edges where learned."""
    lines: dict[str, Sequence[float | None]] = {
        space.kinds[kind].title: [epoch.relative_entropy(kind) for epoch in epochs]
        for kind in epochs[0].probabilities
    }
    for kind in epochs[0].edge_entropy or ():
        values = [(epoch.edge_entropy or {}).get(kind) for epoch in epochs]
        lines[f"{space.kinds[kind].title}, its edges"] = values
    return lines


def compared_curves(runs: Mapping[str, Epochs]) -> Section:
    """Draw the validation scores of several searches, one colour each."""
    panels = {"validation loss per token": "valid_loss", "token error rate, %": "valid_ter"}
    figure, axes_list = new_panels(5.2, *panels)
    for axes, key in zip(axes_list, panels.values(), strict=True):
        for place, (name, epochs) in enumerate(runs.items()):
            colour = COLOURS[1 + (3 * place) % (len(COLOURS) - 1)]
            _plot(axes, epochs, [getattr(epoch, key) for epoch in epochs], name, color=colour)
    _finish(axes_list, max(runs.values(), key=len))
    return Section(
        "Validation",
        "Every stage starts with a new network, so the figures jump at its border (dashed, of the "
        "longest search).",
        to_png(figure),
    )


def operation_shares(epochs: Epochs, space: SearchSpace) -> Section:
    """Draw the mean probability of each operation over the edges, by epoch."""
    kinds = list(epochs[0].probabilities)
    titles = [space.kinds[kind].title for kind in kinds]
    figure, axes_list = new_panels(2.5 * len(kinds) + 0.6, *titles)
    named: dict[str, Any] = {}
    colours = colours_of(space)
    for axes, kind in zip(axes_list, kinds, strict=True):
        own = space.kinds[kind].operations
        shares = [epoch.shares(kind, own) for epoch in epochs]
        bottom = [0.0] * len(epochs)
        for operation in own:
            heights = [share[operation] for share in shares]
            places, colour = range(1, len(epochs) + 1), colours[operation]
            named[operation] = axes.bar(places, heights, 0.9, bottom, color=colour)
            bottom = [low + height for low, height in zip(bottom, heights, strict=True)]
        axes.set_ylim(0, 1)
    _finish(axes_list, epochs, legends=False)
    figure.legend(
        handles=list(named.values())[::-1],
        labels=list(named)[::-1],
        fontsize=8,
        loc="outside right center",
        frameon=False,
    )
    return Section(
        "Operations over time",
        "Mean probability of each operation over the edges of a cell, the blocks of a chain, or "
        "the nodes and skips of a cell. With several stages, the least probable ones are pruned "
        "between them.",
        to_png(figure),
    )


def costs(epochs: Epochs) -> Section | None:
    """Draw the costs of the derived networks against their budgets; None if not recorded."""
    known = [epoch.costs or {} for epoch in epochs]
    names = [name for name in UNITS if any(name in costs for costs in known)]
    if not names:
        return None
    labels = [f"{TITLES[name]}, {UNITS[name][0]}" for name in names]
    figure, axes_list = new_panels(1.9 * len(names) + 0.6, *labels)
    for axes, name in zip(axes_list, names, strict=True):
        factor = UNITS[name][1]
        found = [costs.get(name) for costs in known]
        derived = [None if cost is None else factor * cost.derived for cost in found]
        expected = [None if cost is None else factor * cost.expected for cost in found]
        _plot(axes, epochs, derived, "of the genotype derived", color="#0072b2")
        _plot(axes, epochs, expected, "expected, by the probabilities", color="#56b4e9", ls="--")
        budgets = [cost.budget for cost in found if cost and cost.budget is not None]
        if budgets:
            axes.axhline(factor * budgets[-1], color="#d55e00", lw=1.6, label="budget")
        axes.set_ylim(0, 1.08 * axes.get_ylim()[1])
    _finish(axes_list, epochs)
    return Section(
        "Cost against budget",
        "What the encoder would cost at the size given by 'objective', without an output layer.",
        to_png(figure),
    )


def colours_of(space: SearchSpace) -> dict[str, str]:
    """Return the candidates of all kinds of choices with their colours."""
    names = dict.fromkeys(op for kind in space.kinds.values() for op in kind.operations)
    return {op: COLOURS[place % len(COLOURS)] for place, op in enumerate(names)}


def stage_starts(epochs: Epochs) -> list[int]:
    """Return the position of the first epoch of each stage."""
    return [i for i, e in enumerate(epochs) if not i or e.stage != epochs[i - 1].stage]


def _plot(
    axes: Axes, epochs: Epochs, values: Sequence[float | None], label: str, **style: Any
) -> None:
    """Plot a line over the epochs, broken where the network changes between stages."""
    starts = stage_starts(epochs)
    for start, end in zip(starts, [*starts[1:], len(epochs)], strict=True):
        axes.plot(
            range(start + 1, end + 1),
            [float("nan") if value is None else value for value in values[start:end]],
            marker="o",
            markersize=3.5,
            label="" if start else label,
            **style,
        )


def _finish(axes_list: Sequence[Axes], epochs: Epochs, legends: bool = True) -> None:
    """Add the stages, the axis of epochs and, if wanted, grids and legends."""
    starts = stage_starts(epochs)
    for axes in axes_list:
        for start in starts[1:]:
            axes.axvline(start + 0.5, color="#444444", lw=1, ls="--")
        if legends:
            finish(axes)
    for start, end in zip(starts, [*starts[1:], len(epochs)], strict=True):
        axes_list[0].text(
            (start + end + 1) / 2,
            1.02,
            f"stage {epochs[start].stage} {epochs[start].phase}",
            transform=axes_list[0].get_xaxis_transform(),
            ha="center",
            fontsize=9,
        )
    axes_list[-1].set_xlim(0.4, len(epochs) + 0.6)
    axes_list[-1].set_xlabel("epoch (counted over all stages)", fontsize=9)
    mark_whole_numbers(axes_list[-1])
