"""Error against real-time factor with the front, and against training time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.bench.page import COLOURS, figure_class, shorten
from tools.results.front import front

_MARKERS = "osD^vPX*"
Row = Mapping[str, Any]


def rtf_of(row: Row) -> float | None:
    """Return the real-time factor that is drawn: of the first device at its first threads."""
    for measured in row["measured"].values():
        for found in measured["inference"].values():
            return float(found["rtf"])
    return None


def training_of(row: Row) -> float | None:
    """Return the training time in hours."""
    seconds = row["training_cost"]["seconds"]
    return None if seconds is None else seconds / 3600


def draw(
    rows: Sequence[Row],
    title: str,
    metric: str,
    device: str,
    published: Sequence[Row],
    test: str,
    paths: Sequence[Path],
) -> None:
    """Draw both panels; systems of which a cost is not known are not in its panel.

    The best of ``published`` is a line without a cost. Suffixes of ``paths`` choose the formats.
    """
    figure = figure_class()(figsize=(12, 5), layout="constrained")
    left, right = figure.subplots(1, 2)
    clocks = sorted({row["training_cost"]["clock"] for row in rows})
    panels: list[tuple[Any, Callable[[Row], float | None], str]] = [
        (left, rtf_of, f"real-time factor of the encoder, {device}"),
        (right, training_of, f"training, hours ({' and '.join(clocks)} time)"),
    ]
    for axes, cost_of, label in panels:
        points = [(cost, 100 * row["error"]["estimate"], place)
                  for place, row in enumerate(rows) if (cost := cost_of(row))]  # fmt: skip
        for cost, error, place in points:
            found = rows[place]["error"]
            axes.errorbar(
                [cost], [error],
                yerr=[[error - 100 * found["low"]], [100 * found["high"] - error]],
                color=COLOURS[place % len(COLOURS)], marker=_MARKERS[place % len(_MARKERS)],
                capsize=3, markersize=7, linestyle="none", label=shorten(rows[place]["name"]),
            )  # fmt: skip
        best = front(points, lambda point: point[0], lambda point: point[1])
        line = [cost for cost, _, _ in best], [error for _, error, _ in best]
        axes.plot(*line, color="0.6", linewidth=1, zorder=0)
        axes.set_xlabel(label)
        axes.set_ylabel(f"{metric}, % (95 % bootstrap interval)")
        if points:
            axes.set_xscale("log")
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    if published := [row for row in published if test in row["errors"]]:
        best_published = min(published, key=lambda row: float(row["errors"][test]))
        level = best_published["errors"][test]
        for axes in (left, right):
            axes.axhline(level, color="0.7", linestyle=":", linewidth=1)
        told = f"best published here, other experiment: {best_published['name']}"
        left.annotate(told, (0.01, level), (0, 3), xycoords=("axes fraction", "data"),
                      textcoords="offset points", fontsize=7, color="0.4")  # fmt: skip
    handles, labels = left.get_legend_handles_labels()
    if not handles:
        handles, labels = right.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles, labels, loc="outside lower center", ncols=3, fontsize=8, frameon=False
        )
    figure.suptitle(title, fontsize=11)
    for path in paths:
        figure.savefig(path, dpi=150)
