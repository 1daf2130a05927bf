"""Writes comparisons: RESULTS.md for people, results.json for machines, the picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError
from tools.results.bootstrap import RESAMPLES
from tools.results.comparison import Comparison
from tools.results.plot import plot
from tools.scripts import write_json

_READING = f"""\
CER counts the spaces between words. Brackets: 95 % bootstrap interval over test utterances
({RESAMPLES} resamples; for differences both systems on the same resamples). The intervals do not
cover the choice of the training's seed or of the speakers, and every network was trained once.
MACs: multiply-adds of the encoder for 10 s of features. RTF: time of the encoder over duration
for 10 s of features, one thread, median of repeats that take turns. Training: CPU seconds of all
epochs with their validation, one thread, without Python's start. Peak memory: largest resident
set of the training process, libraries included."""


def corpus_sentence(corpus: Mapping[str, Any]) -> str:
    """Return a sentence on a synthetic corpus, given its manifest."""
    train, test = (
        next(split for name, split in corpus["splits"].items() if name.startswith(kind))
        for kind in ("train", "test")
    )
    return (
        f"**Synthetic speech** (espeak-ng), {train['utterances']} training utterances "
        f"({train['hours']:.2f} h) by {len(train['speakers'])} voices, {test['utterances']} test "
        f"utterances by {len(test['speakers'])} other voices with other sentences."
    )


def corpus_name(corpus: Mapping[str, Any]) -> str:
    """Return what identifies a synthetic corpus, given its manifest."""
    return f"synthetic, seed {corpus['seed']}, sha256 {corpus['sha256']}"


def portable(value: Any, names: Mapping[str, str]) -> Any:
    """Return plain values in which paths of this machine have names that hold on others.

    Args:
        value: Of texts, numbers, lists and mappings.
        names: Folder -> what stands for it; "" for the folder that paths are relative to.
    """
    if isinstance(value, Mapping):
        return {key: portable(item, names) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [portable(item, names) for item in value]
    if not isinstance(value, str):
        return value
    for folder in sorted(names, key=len, reverse=True):
        name, tail = names[folder], r"\1" if names[folder] else ""
        pattern = rf"(?<![^\s='\":]){re.escape(folder)}(/|(?![^\s'\"]))"
        value = re.sub(pattern, name + tail, value)
    return value


def write_files(
    folder: Path, parts: Sequence[str], origin: Mapping[str, Any], document: Mapping[str, Any]
) -> str:
    """Write ``RESULTS.md`` and the data ``results.json``; return the text.

    Args:
        folder: Where to write; made if missing.
        parts: Paragraphs of the text.
        origin: What the numbers depend on (seed, commit, machine, command), for its end.
        document: The data.
    """
    rows = "\n".join(f"- {name}: {value}" for name, value in origin.items() if value is not None)
    text = "\n\n".join([*parts, "## Where it comes from", rows]) + "\n"
    write_json(folder / "results.json", document, ascii_only=False)
    write_atomically(folder / "RESULTS.md", text.encode(), DataError)
    return text


def write_results(
    folder: Path,
    heading: str,
    notes: Sequence[str],
    comparisons: Sequence[Comparison],
    facts: Mapping[str, Any],
) -> str:
    """Write ``RESULTS.md``, ``results.json``, ``results.png`` and ``results.svg``; return the text.

    Below the heading and the notes there is a section for each comparison.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plot(comparisons, heading, [folder / "results.png", folder / "results.svg"])
    document = {
        "heading": heading,
        "notes": list(notes),
        "facts": dict(facts),
        "comparisons": [item.to_dict() for item in comparisons],
    }
    parts = [f"# {heading}", *notes]
    for item in comparisons:
        parts += [f"## {item.title}", item.table()]
        parts.append("\n".join(f"- {pair.sentence()}" for pair in item.pairs))
    parts += [
        "![CER by encoder and over training time](results.png)",
        "## How to read it",
        _READING,
    ]
    return write_files(folder, parts, facts, document)
