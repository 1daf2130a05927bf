"""The figure: error against latency, one panel for each corpus."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.errors import MissingDependencyError
from recipes.blocks.local.encoders import CELLS, CHANCE, NARROWED, PEER, SEARCHED
from recipes.blocks.local.rows import WORDS, Row
from tools.results.front import front as front_of

# Okabe and Ito's palette, which colour-blind readers can tell apart, and a shape for each role.
_LOOKS = {
    SEARCHED: ("#D55E00", "*"),
    CHANCE: ("#E69F00", "P"),
    CELLS: ("#CC79A7", "v"),
    PEER: ("#0072B2", "o"),
    NARROWED: ("#56B4E9", "s"),
}
_COLUMNS = 2


def front(rows: Sequence[Row]) -> list[Row]:
    """Return the encoders that no other one beats in both error and latency, by latency."""
    return front_of(rows, lambda row: row.ms, lambda row: row.pooled.rate)


def _part_labels(axes: Any) -> None:
    """Turn labels at the right edge to the left of their marks, and move those below one apart."""
    taken: list[Any] = []
    for text in sorted(axes.texts, key=lambda text: -text.xy[1]):
        if text.get_window_extent().x1 > axes.bbox.x1:
            text.set_ha("right")
            text.xyann = (-6, 3)
        for down in range(12):
            text.xyann = (text.xyann[0], 3 - 8 * down)
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                break
        taken.append(box)


def plot(panels: Mapping[str, Sequence[Row]], seed: int, paths: Sequence[Path]) -> None:
    """Plot error (95 % interval) against latency; panels by title, suffixes choose formats."""
    try:
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D
        from matplotlib.ticker import FormatStrFormatter
    except ModuleNotFoundError as error:
        raise MissingDependencyError("matplotlib", "plot", "the figure") from error
    columns = min(_COLUMNS, len(panels))
    lines = -(-len(panels) // columns)
    figure = Figure(figsize=(6.2 * columns, 4.4 * lines + 0.5), layout="constrained")
    grid = list(figure.subplots(lines, columns, squeeze=False).flat)
    for axes, (title, rows) in zip(grid, panels.items(), strict=False):
        for row in rows:
            colour, marker = _LOOKS[row.role]
            found = row.interval(seed)
            spread = [[100 * (found.estimate - found.low)], [100 * (found.high - found.estimate)]]
            size = 13 if row.role == SEARCHED else 7
            axes.errorbar(
                [row.ms], [100 * found.estimate], yerr=spread,
                color=colour, marker=marker, markersize=size, capsize=2, linestyle="none",
            )  # fmt: skip
            axes.annotate(
                row.title, (row.ms, 100 * found.estimate), (6, 3),
                textcoords="offset points", fontsize=7,
            )  # fmt: skip
        best = front(rows)
        points = [(row.ms, 100 * row.pooled.rate) for row in best]
        axes.plot(*zip(*points, strict=True), color="0.7", linewidth=1, zorder=0)
        axes.set_xscale("log")
        for ticks in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
            ticks(FormatStrFormatter("%g"))
        axes.set_xlabel("ms for 10 s of speech, one CPU thread")
        axes.set_ylabel("test error, %")
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.3, which="both")
        axes.spines[["top", "right"]].set_visible(False)
    for axes in grid[len(panels) :]:
        axes.set_visible(False)
    roles = dict.fromkeys(row.role for rows in panels.values() for row in rows)
    marks = [
        Line2D([], [], color=_LOOKS[r][0], marker=_LOOKS[r][1], linestyle="none", label=WORDS[r])
        for r in roles
    ]
    ncols = min(len(marks), 3 * columns)
    figure.legend(handles=marks, loc="outside lower center", ncols=ncols, frameon=False)
    figure.draw_without_rendering()  # then texts know how large they are
    for axes in grid[: len(panels)]:
        _part_labels(axes)
    for path in paths:
        figure.savefig(path, dpi=150)
