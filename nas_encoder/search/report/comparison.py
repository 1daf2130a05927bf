"""The files of a comparison of algorithms: numbers, a plot, a page of results."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import CheckpointError
from nas_encoder.search.report.pictures import finish, new_panels, require_matplotlib, to_png

# Okabe and Ito's colours.
_COLOURS = {
    "random": "#9a9a9a",
    "evolution": "#0072b2",
    "hyperband": "#e69f00",
    "tpe": "#00795c",
}
_GRADIENT = ("#d55e00", "#cc79a7", "#56b4e9", "#000000")


def write_comparison(folder: Path, document: Mapping[str, Any]) -> list[Path]:
    """Write comparison.json, regret.png and RESULTS.md; return their paths.

    Raises:
        CheckpointError: They cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    require_matplotlib()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(str(folder), [f"cannot be made: {error.strerror}"]) from None
    contents = {
        "comparison.json": json.dumps(document, indent=1).encode() + b"\n",
        "regret.png": picture(document),
        "RESULTS.md": results(document).encode(),
    }
    for name, data in contents.items():
        write_atomically(folder / name, data, CheckpointError)
    return [folder / name for name in contents]


def picture(document: Mapping[str, Any]) -> bytes:
    """Plot the regret of every algorithm over the epochs spent: median and quartiles."""
    figure, (axes,) = new_panels(4.4, "regret in test error, percentage points")
    grid = document["epochs"]
    for name, found in document["algorithms"].items():
        colour, quartiles = _COLOURS[name], (found["lower_quartile"], found["upper_quartile"])
        axes.fill_between(grid, *quartiles, step="post", color=colour, alpha=0.15, lw=0)
        axes.step(grid, found["median"], where="post", color=colour, lw=1.8, label=name)
    for place, found in enumerate(document["gradient"]["strategies"]):
        colour, several = _GRADIENT[place % len(_GRADIENT)], found["searches"] > 1
        axes.axhline(
            found["median"],
            color=colour,
            ls="--",
            label=f"{found['strategy']}, {found['searches']} gradient search{'es' * several}",
        )
        if several:
            axes.axhspan(found["lower_quartile"], found["upper_quartile"], color=colour, alpha=0.1)
    axes.set_ylim(bottom=0)
    finish(axes, "epochs of training that the search would have spent", whole=True)
    title = (
        f"{document['table']}: {document['architectures']} architectures of {document['space']}, "
        f"{document['runs']} seeds, median and quartiles"
    )
    if not document["gradient"]["available"]:
        title += "\n(no gradient search: see RESULTS.md)"
    axes.set_title(title, fontsize=9)
    return to_png(figure)


def results(document: Mapping[str, Any]) -> str:
    """Return the results page in Markdown."""
    lines = [
        f"# Search algorithms on the table `{document['table']}`",
        "",
        f"{document['architectures']} architectures of the space `{document['space']}`; a training "
        f"has {document['epochs_of_a_training']} epochs, a search may spend "
        f"{document['budget_epochs']} of them; {document['runs']} seeds each. Regret: test error "
        "of the architecture with the best validation error seen, above the best test error of "
        f"the table ({document['best_test_error']:.2f} %), in percentage points. An architecture "
        f"drawn blindly has {document['mean_regret_of_the_table']:.2f} on average.",
        "",
    ]
    if document.get("note"):
        lines += [f"What the table is: {document['note']}", ""]
    half = len(document["epochs"]) // 2
    lines += [
        f"| algorithm | after {document['epochs'][half]} epochs, median | after "
        f"{document['epochs'][-1]} epochs, median (quartiles) | mean | found the best | trials |",
        "|---|---|---|---|---|---|",
    ]
    for name, found in document["algorithms"].items():
        lines.append(
            f"| {name} | {found['median'][half]:.2f} | {found['median'][-1]:.2f} "
            f"({found['lower_quartile'][-1]:.2f} to {found['upper_quartile'][-1]:.2f}) | "
            f"{found['mean_final']:.2f} | {found['found_the_best']} of {document['runs']} | "
            f"{found['trials']:g} |"
        )
    gradient = document["gradient"]
    for found in gradient["strategies"]:
        quartiles = f" ({found['lower_quartile']:.2f} to {found['upper_quartile']:.2f})"
        lines.append(
            f"| {found['strategy']}, with gradients | | {found['median']:.2f}"
            f"{quartiles if found['searches'] > 1 else ''} | {found['mean']:.2f} | "
            f"{found['found_the_best']} of {found['searches']} | 1 |"
        )
    if gradient["available"]:
        lines += [
            "",
            "A gradient search trains a supernet, which is not in the table: its row says what it "
            "found, not what it spent, and in the picture it is a line. Its results are among the "
            "architectures of the table, for the other algorithms too.",
        ]
    else:
        lines += ["", f"Gradient search: not available here, {gradient['why']}."]
    lines += ["", "![regret](regret.png)", "", "Made by:", "", f"    {document['command']}", ""]
    about = document["environment"]
    lines.append(
        f"in {document['seconds']:.0f} s; seeds 0 to {document['runs'] - 1}, commit "
        f"{about['commit']}, {about['machine']}."
    )
    return "\n".join(lines) + "\n"
