"""A picture of comparisons: error rates with intervals, and costs."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from nas_encoder.errors import MissingDependencyError
from tools.results.comparison import Comparison

# Okabe and Ito's palette, which colour-blind readers can tell apart.
_COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_MARKERS = "osD^vP"


def plot(comparisons: Sequence[Comparison], title: str, paths: Sequence[Path]) -> None:
    """Plot CER with intervals by system, and over training time, with a marker for each comparison.

    Suffixes of ``paths`` choose the formats.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
    except ModuleNotFoundError as error:
        raise MissingDependencyError("matplotlib", "plot", "the plot of the results") from error
    names = list(dict.fromkeys(s.name for item in comparisons for s in item.systems))
    # A bare Figure needs neither pyplot nor a display.
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    rates, cost = figure.subplots(1, 2)
    for place, item in enumerate(comparisons):
        shift = 0.22 * (place - (len(comparisons) - 1) / 2)
        for system in item.systems:
            interval = item.intervals[system.name]
            index = names.index(system.name)
            colour = _COLOURS[index % len(_COLOURS)]
            below, above = interval.estimate - interval.low, interval.high - interval.estimate
            for axes, x in ((rates, index + shift), (cost, system.training_seconds / 60)):
                axes.errorbar(
                    [x], [100 * interval.estimate], yerr=[[100 * below], [100 * above]],
                    color=colour, marker=_MARKERS[place % len(_MARKERS)],
                    capsize=3, markersize=7, linestyle="none",
                )  # fmt: skip
    rates.set_xticks(range(len(names)), [name.replace(" ", "\n", 1) for name in names])
    rates.set_xlim(-0.6, len(names) - 0.4)
    rates.set_title("by encoder", fontsize=10)
    cost.set_xlabel("training time, CPU minutes")
    cost.set_xlim(left=0)
    cost.set_title("over training time", fontsize=10)
    for axes in (rates, cost):
        axes.set_ylabel("CER, % (95 % bootstrap interval)")
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    for axes, labels, colours, markers in (
        (rates, [item.title for item in comparisons], ("0.3",), _MARKERS),
        (cost, names, _COLOURS, "o"),
    ):
        looks = zip(labels, cycle(colours), cycle(markers), strict=False)
        marks = [
            Line2D([], [], color=colour, marker=marker, linestyle="none", label=label)
            for label, colour, marker in looks
        ]
        axes.legend(handles=marks, frameon=False)
    figure.suptitle(title, fontsize=11)
    for path in paths:
        figure.savefig(path, dpi=150)
