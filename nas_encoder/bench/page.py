"""A benchmark as Markdown and as a picture."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import ConfigError, MissingDependencyError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Okabe and Ito's palette, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00")
_UNKNOWN = {"ms": math.nan, "iqr_ms": math.nan}  # no bar
_BUSY = 1.1  # load per core above which other work disturbed the clock
_LONGEST = 32  # characters of a label in a picture
_SHOWN = 4  # lengths of utterances that are listed


def aligned(rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that reads as plain text too; numbers are to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = []
    for first, *others in (rows[0], rule, *rows[1:]):
        right = (cell.rjust(width) for cell, width in zip(others, widths[1:], strict=True))
        lines.append("| " + " | ".join([first.ljust(widths[0]), *right]) + " |")
    return "\n".join(lines)


def count(value: float | None) -> str:
    """Return a count with a unit that keeps three digits; a dash if it is not known."""
    if value is None:
        return "-"
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g} {unit}"
    return f"{value:.3g}"


def shorten(label: str) -> str:
    """Return a label that leaves room for a picture."""
    return label if len(label) <= _LONGEST else f"{label[: _LONGEST - 4]} ..."


def markdown(document: Mapping[str, Any]) -> str:
    """Return the table of a benchmark, how it was measured, and how to read it."""
    settings, rows = document["settings"], document["networks"]
    columns = _columns(document)
    table = [
        ["encoder", *columns],
        *(
            [row["label"].replace("|", "\\|"), *(of(row) for of in columns.values())]
            for row in rows
        ),
    ]
    here = document["environment"]
    where = here["gpu"] if settings["device"] == "cuda" else here["machine"]
    origin = [
        f"- {_speech(document)}, {settings['precision']}, random input, {where}, torch "
        f"{here['torch']}, commit {here['commit'] or here['version']}, seed {settings['seed']}.",
        f"- Medians of at least {settings['repeats']} rounds in which all encoders take turns; "
        f"brackets: distance of the quartiles. x: the median of the ratios to "
        f"{document['reference']} in each round.",
        "- RTF: time over the speech of the whole batch. MACs: of the longest utterance. "
        "Step: forward and backward of the encoder alone, without optimizer.",
        "- Memory: most that tensors hold at a time, weights included.",
    ]
    notes = [f"- {row['label']}: {row['note']}." for row in rows if row["note"]]
    notes += _features(rows)
    if document["load"] > _BUSY:
        notes.append(
            f"- **The machine was busy**: {document['load']:.1f} processes for each core. Ratios "
            "suffer less than times."
        )
    return "\n\n".join([aligned(table), "\n".join([*origin, *notes])]) + "\n"


def _features(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Say which encoders see which features, if not all see the same."""
    found: dict[str, list[str]] = {}
    for row in rows:
        kind = f"{row['features']} features" if row["features"] else "samples"
        found.setdefault(f"{kind} every {1000 * row['frame_shift']:.3g} ms", []).append(
            row["label"]
        )
    each = "; ".join(f"{kind}: {', '.join(labels)}" for kind, labels in found.items())
    return [f"- Inputs differ. {each}."] if len(found) > 1 else []


def _columns(document: Mapping[str, Any]) -> dict[str, Callable[[Mapping[str, Any]], str]]:
    """Return the columns after the first: title -> the cell of a row."""
    settings, rows = document["settings"], document["networks"]
    found: dict[str, Callable[[Mapping[str, Any]], str]] = {
        "parameters": lambda row: count(row["parameters"]),
        "MACs": lambda row: count(row["macs"]),
    }
    for what, step in (("inference", ""), ("step", "step ")):
        if not any(row[what] for row in rows):
            continue
        for threads in map(str, settings["threads"]):
            at = "" if settings["device"] == "cuda" else f", {threads} thr."
            found[f"{step}ms{at}"] = partial(_cell, what, threads, _ms)
            if what == "inference":
                found[f"RTF{at}"] = partial(_cell, what, threads, _rtf)
            found[f"{step}x{at}"] = partial(_cell, what, threads, _ratio)
        found[f"{step}MiB"] = partial(_memory, what)
    return found


def _cell(
    what: str, threads: str, show: Callable[[Mapping[str, Any]], str], row: Mapping[str, Any]
) -> str:
    found = row[what].get(threads)
    return "-" if found is None else show(found)


def _memory(what: str, row: Mapping[str, Any]) -> str:
    found = row["memory_mib"][what]
    return "-" if found is None else f"{found:.3g}"


def _ms(found: Mapping[str, Any]) -> str:
    return f"{found['ms']:.4g} [{found['iqr_ms']:.2g}]"


def _rtf(found: Mapping[str, Any]) -> str:
    return f"{found['rtf']:.3g}"


def _ratio(found: Mapping[str, Any]) -> str:
    return "-" if found["ratio"] is None else f"{found['ratio']:.2f}"


def _speech(document: Mapping[str, Any]) -> str:
    settings = document["settings"]
    utterances = len(document["networks"][0]["lengths"])
    if settings["frames"] is not None:
        return f"Batch of {utterances}: {settings['frames']} frames each"
    lengths = settings["speech"]
    more = f" ... ({len(lengths)} lengths)" if len(lengths) > _SHOWN else ""
    shown = ", ".join(f"{length:g}" for length in lengths[:_SHOWN])
    return f"Batch of {utterances}: {shown}{more} s of speech"


def figure_class() -> type[Figure]:
    """Return what pictures are drawn with; MissingDependencyError if it is not installed."""
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingDependencyError("matplotlib", "plot", "the plot of a benchmark") from error
    return Figure


def plot(document: Mapping[str, Any], paths: Sequence[Path]) -> None:
    """Draw bars: time of inference and of a training step by threads, and memory.

    Suffixes of ``paths`` choose the formats.

    Raises:
        ConfigError: A file cannot be written.
        MissingDependencyError: matplotlib is not installed.
    """
    rows, settings = document["networks"], document["settings"]
    panels = [(w, t) for w, t in (("inference", "inference"), ("step", "training step"))
              if any(row[w] for row in rows)]  # fmt: skip
    figure = figure_class()(
        figsize=(4.2 * (len(panels) + 1), 1.2 + 0.45 * len(rows)), layout="constrained"
    )
    axes = figure.subplots(1, len(panels) + 1, sharey=True)
    places, series = range(len(rows)), list(map(str, settings["threads"]))
    for panel, (what, title) in zip(axes, panels, strict=False):
        for number, threads in enumerate(series):
            height = 0.8 / len(series)
            own = [row[what].get(threads) or _UNKNOWN for row in rows]
            panel.barh(
                [place + (number - (len(series) - 1) / 2) * height for place in places],
                [found["ms"] for found in own],
                height,
                xerr=[found["iqr_ms"] / 2 for found in own],
                color=COLOURS[number % len(COLOURS)],
                label="GPU" if settings["device"] == "cuda" else f"threads: {threads}",
            )
        panel.set_title(f"{title}, ms", fontsize=10)
        panel.legend(frameon=False, fontsize=8)
    memory = [row["memory_mib"]["inference"] or math.nan for row in rows]
    axes[-1].barh(places, memory, 0.6, color=COLOURS[2])
    axes[-1].set_title("memory of inference, MiB", fontsize=10)
    axes[0].set_yticks(places, [shorten(row["label"]) for row in rows], fontsize=8)
    axes[0].invert_yaxis()
    for panel in axes:
        panel.set_xlim(left=0)
        panel.grid(axis="x", alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_speech(document), fontsize=10)
    for path in paths:
        drawn = io.BytesIO()
        figure.savefig(drawn, format=path.suffix[1:], dpi=150)
        write_atomically(path, drawn.getvalue(), ConfigError)
