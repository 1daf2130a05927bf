"""Writes comparisons: RESULTS.md for people, results.json for machines, the picture."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError
from tools.results.bootstrap import RESAMPLES
from tools.results.comparison import Comparison
from tools.results.plot import plot

_READING = f"""\
CER counts the spaces between words. Brackets: 95 % bootstrap interval over test utterances
({RESAMPLES} resamples; for differences both systems on the same resamples). The intervals do not
cover the choice of the training's seed or of the speakers, and every network was trained once.
MACs: multiply-adds of the encoder for 10 s of features. RTF: time of the encoder over duration
for 10 s of features, one thread, median of repeats that take turns. Training: CPU seconds of all
epochs with their validation, one thread, without Python's start. Peak memory: largest resident
set of the training process, libraries included."""


def markdown(
    heading: str,
    notes: Sequence[str],
    comparisons: Sequence[Comparison],
    facts: Mapping[str, Any],
    picture: str,
) -> str:
    """Return the document.

    Args:
        heading: First line.
        notes: Paragraphs under it.
        comparisons: A section each.
        facts: What the numbers depend on (seed, commit, machine, command).
        picture: Name of the picture beside the document.
    """
    parts = [f"# {heading}", *notes]
    for item in comparisons:
        parts += [f"## {item.title}", item.table()]
        parts.append("\n".join(f"- {sentence}" for sentence in item.sentences()))
    parts += [f"![CER by encoder and over training time]({picture})", "## How to read it", _READING]
    rows = "\n".join(f"- {name}: {value}" for name, value in facts.items() if value is not None)
    parts += ["## Where it comes from", rows]
    return "\n\n".join(parts) + "\n"


def write_results(
    folder: Path,
    heading: str,
    notes: Sequence[str],
    comparisons: Sequence[Comparison],
    facts: Mapping[str, Any],
) -> str:
    """Write ``RESULTS.md``, ``results.json``, ``results.png`` and ``results.svg``.

    Args:
        folder: Where to write; made if missing.
        heading: Heading of the document and the picture.
        notes: Paragraphs below the heading.
        comparisons: A section each.
        facts: What the numbers depend on.

    Returns:
        The Markdown document.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plot(comparisons, heading, [folder / "results.png", folder / "results.svg"])
    document = {
        "heading": heading,
        "notes": list(notes),
        "facts": dict(facts),
        "comparisons": [item.to_dict() for item in comparisons],
    }
    text = markdown(heading, notes, comparisons, facts, "results.png")
    data = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_atomically(folder / "results.json", data.encode(), DataError)
    write_atomically(folder / "RESULTS.md", text.encode(), DataError)
    return text
