"""Counts what is used of the recorded prompts, and what is left out, and why."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.common.provenance import commit
from nas_encoder.data import open_cuts
from nas_encoder.data.manifests import speaker_of, text_of
from nas_encoder.data.prompts import VOICES, collect
from nas_encoder.errors import DataError
from tools.results.document import write_files
from tools.scripts import command

_LONG = 10.24  # seconds: 1024 frames, the longest utterance of a search by default


def summary(corpus: Path, prepared: Path) -> dict[str, Any]:
    """Return the counts, in plain types.

    Args:
        corpus: Folder of ``tools.prompts.fetch``.
        prepared: What ``nas-encoder data prepare`` made of it.

    Raises:
        DataError: A folder is not what it should be, or one was not made of the other.
    """
    found = collect(corpus)
    splits = {split: open_cuts(prepared, split=split) for split in found.splits}
    for split, prompts in found.splits.items():
        if {cut.id for cut in splits[split]} != {prompt.recording.id for prompt in prompts}:
            problem = f"split '{split}' is not what is made of {corpus} now; prepare it again"
            raise DataError(str(prepared), [problem])
    return {
        "splits": {split: _counts(cuts) for split, cuts in splits.items()},
        "left_out": found.left_out,
        "corpus": json.loads((corpus / "corpus.json").read_text(encoding="utf-8")),
    }


def _counts(cuts: Iterable[Any]) -> dict[str, Any]:
    """Return voice -> counts, in the order of VOICES, and the sum as ``all``."""
    groups: dict[str, list[Any]] = {voice.folder: [] for voice in VOICES}
    for cut in cuts:
        groups[str(speaker_of(cut))].append(cut)
    groups["all"] = [cut for members in groups.values() for cut in members]
    return {
        voice: {
            "utterances": len(members),
            "texts": len({text_of(cut) for cut in members}),
            "minutes": round(sum(cut.duration for cut in members) / 60, 2),
            "characters": sum(len(text_of(cut)) for cut in members),
            "long": sum(cut.duration > _LONG for cut in members),
        }
        for voice, members in groups.items()
        if members
    }


def paragraphs(counts: Mapping[str, Any]) -> list[str]:
    """Return the counts as the parts of a Markdown text."""
    rows = [
        [split, voice, *map(str, row.values())]
        for split, voices in counts["splits"].items()
        for voice, row in voices.items()
    ]
    head = ["split", "voice", "utterances", "texts", "minutes", "characters", f"over {_LONG} s"]
    left_out = counts["left_out"]
    reasons = list(dict.fromkeys(reason for found in left_out.values() for reason in found))
    losses = [
        [reason, *(str(len(found.get(reason, ()))) for found in left_out.values())]
        for reason in reasons
    ]
    return [
        "# Recorded prompts: what is used",
        _table(head, rows),
        "## Left out\n\nPrompts by reason and voice; `results.json` has their names. With those "
        "that are used, and without those that have no recording, they are all files.",
        _table(["reason", *left_out], losses),
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---", *("---:" for _ in head[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog="summary", description=__doc__)
    add = parser.add_argument
    add("--corpus", type=Path, required=True, help="folder of tools.prompts.fetch")
    add("--prepared", type=Path, required=True, help="folder of nas-encoder data prepare")
    add("--output", type=Path, required=True, help="receives RESULTS.md and results.json")
    add("--command", required=True, help="what made all this")
    args = parser.parse_args(arguments)
    counts = summary(args.corpus, args.prepared)
    versions = Counter(one["version"] for one in counts["corpus"]["packages"].values())
    origin = {
        "commit": commit(),
        "command": f"`{args.command}`",
        "packages": ", ".join(f"{count} of version {name}" for name, count in versions.items()),
        "SHA-256 of all files": counts["corpus"]["sha256"],
    }
    args.output.mkdir(parents=True, exist_ok=True)
    write_files(args.output, paragraphs(counts), origin, counts)


if __name__ == "__main__":
    sys.exit(main())
