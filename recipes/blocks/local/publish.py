"""Copies results into the recipe's folder, and into README which encoder to take for which budget.

    python -m recipes.blocks.local.publish --results EXPDIR/results

writes ``recipes/blocks/results`` and what stands between the two marks in README.md: the figure,
and a table of the encoders that no other one beats in both latency and error. Errors of different
corpora are made comparable by dividing by that of the best peer as shipped there; encoders that
were not trained on all corpora are left out.

Of a run of a tree that is no commit of this repository, ``--base COMMIT --changes PATCH`` says what
it was: PATCH, what the tree changed since COMMIT (``git diff``), is published beside the results,
whose commit is named after both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError
from nas_encoder.genotype.publishing import own_paths
from recipes.blocks.local.encoders import PEER
from tools.results.front import front as front_of
from tools.results.page import ROOT, path_from, publish
from tools.scripts import command

RECIPE = Path(__file__).resolve().parents[1]
NAME = "which encoder"  # of the marks
CHANGES = "changes.patch"


@dataclass(frozen=True)
class Summary:
    """An encoder over all corpora.

    Attributes:
        title: Its name in tables.
        ms: Mean latency of 10 s.
        relative: Mean of its error over that of the best peer as shipped.
        errors: Its error on each corpus, in %.
        parameters: Mean of them.
    """

    title: str
    ms: float
    relative: float
    errors: Sequence[float]
    parameters: float


def summaries(sections: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """Return the encoders that were trained for equal time on every corpus, the fastest first.

    Raises:
        DataError: A corpus has no peer as shipped, or there is none at all.
    """
    timed = [section for section in sections if section["condition"] == "time"]
    found: dict[str, list[tuple[Mapping[str, Any], float]]] = {}
    for section in timed:
        shipped = [float(row["error"]) for row in section["rows"] if row["role"] == PEER]
        if not shipped or min(shipped) <= 0:
            raise DataError(
                str(section["corpus"]), ["has no peer as shipped with an error above 0"]
            )
        for row in section["rows"]:
            found.setdefault(row["name"], []).append((row, float(row["error"]) / min(shipped)))
    if not timed:
        raise DataError("results", ["hold no trainings of equal time"])
    everywhere = [rows for rows in found.values() if len(rows) == len(timed)]
    return sorted(
        (
            Summary(
                title=str(rows[0][0]["title"]),
                ms=statistics.fmean(float(row["latency_ms"]) for row, _ in rows),
                relative=statistics.fmean(relative for _, relative in rows),
                errors=[float(row["error"]) for row, _ in rows],
                parameters=statistics.fmean(float(row["parameters"]) for row, _ in rows),
            )
            for rows in everywhere
        ),
        key=lambda own: own.ms,
    )


def front(encoders: Sequence[Summary]) -> list[Summary]:
    """Return those that no other one beats in both error and latency, the fastest first."""
    return front_of(encoders, lambda own: own.ms, lambda own: own.relative)


def text(document: Mapping[str, Any], folder: str) -> str:
    """Return the part of README, in Markdown; ``folder`` has the figure."""
    sections, facts = document["sections"], document["facts"]
    corpora = [str(s["corpus"]) for s in sections if s["condition"] == "time"]
    heads = ["10 s of speech may take", "take", "parameters", *corpora]
    lines = ["| " + " | ".join([*heads, "errors, mean"]) + " |", "|---" * (len(heads) + 1) + "|"]
    for own in front(summaries(sections)):
        errors = [f"{error:.1f} %" for error in own.errors]
        size = f"{own.parameters / 1e6:.2f} M"
        cells = [f"{own.ms:.1f} ms", own.title, size, *errors, f"{own.relative:.2f}"]
        lines.append("| " + " | ".join(cells) + " |")
    seeds = len(str(facts["seeds"]).split())
    return "\n".join(
        [
            f"![Error against latency of all encoders]({folder}/results.png)",
            "",
            *lines,
            "",
            f"Test errors after {document['options']['seconds']} CPU seconds of training, seeds: "
            f"{seeds}, latency on one CPU thread; the mean is of errors divided by those of the "
            f"best peer as shipped. Small encoders, small and partly **synthetic** corpora; commit "
            f"{facts['commit']}. [All numbers, tests and limits]({folder}/RESULTS.md).",
        ]
    )


def _named(base: str) -> str:
    """Return how a commit with changes is called."""
    git = ("git", "-C", str(ROOT), "merge-base", "--is-ancestor", base, "HEAD")
    if subprocess.run(git, capture_output=True, check=False).returncode:
        raise DataError("publish", [f"--base: must be a commit of this branch, got {base!r}"])
    return f"{base} with {CHANGES}"


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--results", type=Path, required=True, help="EXPDIR/results of a whole run")
    add("--output", type=Path, default=RECIPE / "results", help="folder (default: the recipe's)")
    add(
        "--readme",
        type=Path,
        default=ROOT / "README.md",
        help="page with the two marks (default: README.md)",
    )
    add("--base", metavar="COMMIT", help="of this repository, that the run's tree was made from")
    add("--changes", type=Path, metavar="PATCH", help="what that tree changed")
    args = parser.parse_args(arguments)
    if (args.base is None) != (args.changes is None):
        raise DataError("publish", ["--base and --changes go together"])
    if args.changes is not None and not args.changes.is_file():
        raise DataError(str(args.changes), ["is not there; make it with: git diff COMMIT"])
    path = args.results / "results.json"
    if not path.is_file():
        raise DataError(str(path), ["is not there; run the recipe first"])
    document = json.loads(path.read_text(encoding="utf-8"))
    typed = str(document["facts"]["command"]).split()
    if paths := own_paths({**document, "command": typed}):
        raise DataError(str(path), paths)
    known = str(document["facts"]["commit"])
    if args.base is not None:
        document["facts"]["commit"] = _named(args.base)
        patch = args.changes.read_text(encoding="utf-8")
    part = text(document, path_from(args.readme, args.output))
    publish(args.results, args.output, args.readme, NAME, part)
    (args.output / CHANGES).unlink(missing_ok=True)  # of other results
    if args.base is not None:
        for name in ("RESULTS.md", "results.json"):
            page = args.output / name
            found = page.read_text(encoding="utf-8").replace(known, document["facts"]["commit"])
            write_atomically(page, found.encode(), DataError)
        write_atomically(args.output / CHANGES, patch.encode(), DataError)
    print(f"{args.output}, {args.readme}")


if __name__ == "__main__":
    sys.exit(main())
