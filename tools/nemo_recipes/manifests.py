"""Takes manifests of NeMo's get_librispeech_data.py or get_aishell_data.py as a recipe's data.

They are read as NeMo reads them, audio included, compared with the published sizes of the corpus,
and written again with the names of the utterances. Nothing else of them changes.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.data import open_cuts
from nas_encoder.data.corpora.counts import PUBLISHED
from nas_encoder.data.export import write_nemo_manifest
from nas_encoder.errors import DataError
from tools.scripts import command, write_json

HOURS = 0.02  # by which a part may differ from its published length
FIELDS = ("audio_filepath", "duration", "text", "utt_id")


def read_manifest(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a manifest that data preparation wrote.

    Raises:
        DataError: It cannot be read, or a line lacks a field or begins inside its audio file:
            NeMo's ``transcribe`` takes whole files.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
        rows: list[dict[str, Any]] = [json.loads(line) for line in lines]
    except (OSError, ValueError) as error:
        raise DataError(str(path), [f"cannot be read: {error}"]) from None
    problems = [] if rows else ["holds no utterance"]
    for number, row in enumerate(rows, 1):
        if missing := [field for field in FIELDS if field not in row]:
            problems.append(f"line {number}: has no {', '.join(missing)}")
        if row.get("offset"):
            problems.append(f"line {number}: 'offset' must be 0; cut the audio into files")
    if problems:
        raise DataError(str(path), problems[:10])
    return rows


def manifest_of(folder: Path, part: str) -> Path:
    """Return the manifest of a part, named as NeMo's scripts name it."""
    return folder / f"{part.replace('-', '_')}.json"


def differences(corpus: str, part: str, utterances: int, hours: float) -> list[str]:
    """Return how a part differs from the published one; nothing where that is not known."""
    expected = PUBLISHED[corpus].get(part)
    if expected is None:
        return [f"{part}: is no part of {corpus}; known: {', '.join(PUBLISHED[corpus])}"]
    found = []
    if utterances != expected.utterances:
        found.append(f"{part}: expected {expected.utterances} utterances, found {utterances}")
    if expected.hours and abs(hours - expected.hours) > max(HOURS * expected.hours, 0.06):
        found.append(f"{part}: expected {expected.hours} hours, found {hours:.2f}")
    return found


def take(
    corpus: str, folder: Path, splits: Mapping[str, Sequence[str]], output: Path, partial: bool
) -> dict[str, Any]:
    """Write the manifests of a recipe's splits; return what ``prepared.json`` holds.

    Args:
        corpus: ``aishell`` or ``librispeech``.
        folder: With NeMo's manifests.
        splits: Split -> parts of the corpus.
        output: Receives ``SPLIT.json``.
        partial: Whether to tell of differences from the published sizes instead of refusing them.

    Raises:
        DataError: A manifest or its audio is unusable, or differs from what was published.
    """
    counts: dict[str, Any] = {}
    differ: list[str] = []
    cuts: dict[str, list[Any]] = {split: [] for split in splits}
    for split, parts in splits.items():
        for part in parts:
            own = list(open_cuts(manifest_of(folder, part)))
            hours = sum(cut.duration for cut in own) / 3600
            counts[part] = {"utterances": len(own), "hours": round(hours, 4)}
            differ += differences(corpus, part, len(own), hours)
            cuts[split] += own
    if differ and not partial:
        remedy = "if a part is meant, say so with --data_args=--partial"
        raise DataError(f"manifests in {folder}", [*differ, remedy])
    for line in differ:
        print(f"differs: {line}")
    for split, own in cuts.items():
        write_nemo_manifest(own, output / f"{split}.json")
    source = "partial" if differ else "published"
    return {"corpus": corpus, "manifests": str(folder), "source": source, "parts": counts}


def named_parts(text: str) -> tuple[str, list[str]]:
    """Read a command line's ``SPLIT=PART,PART``."""
    split, sign, parts = text.partition("=")
    if not sign or not parts:
        raise argparse.ArgumentTypeError(f"must be SPLIT=PART,..., got '{text}'")
    return split, parts.split(",")


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("splits", nargs="+", type=named_parts, metavar="SPLIT=PARTS", help="by comma")
    add("--corpus", choices=("aishell", "librispeech"), required=True)
    add("--manifests", type=Path, required=True, help="folder")
    add("--partial", action="store_true", help="take other sizes than the published ones")
    add("--output", type=Path, required=True, help="folder; receives prepared.json and nemo/")
    args = parser.parse_args(arguments)
    splits = dict(args.splits)
    found = take(args.corpus, args.manifests, splits, args.output / "nemo", args.partial)
    write_json(args.output / "prepared.json", found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    sys.exit(main())
