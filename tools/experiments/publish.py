"""Copies a comparison's results into its recipe's folder, and the table into README.

    python -m tools.experiments.publish --recipe recipes/mini/espnet

takes ``exp/results`` of the recipe and shows, between the marks of ``--name`` in README.md, every
encoder's character error rates, its cost, and in words what the searched one won and lost.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError
from tools.results.page import ROOT, path_from, publish
from tools.scripts import command


def table(document: Mapping[str, Any], folder: str) -> str:
    """Return the part of a page, in Markdown.

    Args:
        document: Content of ``results.json``.
        folder: Where the results are, as links of the page name it.
    """
    comparisons = document["comparisons"]
    names = [str(item["title"]).partition(" (")[0].lower() for item in comparisons]
    heads = ["encoder", *names, "training, of the last", "MACs for 10 s"]
    lines = ["| " + " | ".join(heads) + " |", "|---" * len(heads) + "|"]
    for rows in zip(*(item["systems"] for item in comparisons), strict=True):
        own = rows[-1]
        cells = [own["name"], *map(_rate, rows)]
        cells += [f"{own['training_seconds']:.0f} s", f"{own['macs_10s'] / 1e6:.0f} M"]
        lines.append("| " + " | ".join(cells) + " |")
    verdicts = [note for note in document["notes"] if note.startswith("**Equal")]
    facts = document["facts"]
    return "\n".join(
        [
            "CER in %, with 95 % bootstrap intervals:",
            "",
            *lines,
            "",
            *(f"- {verdict}" for verdict in verdicts),
            "",
            f"One search and one training each, seed {facts['seed']}, commit {facts['commit']}, "
            f"{facts['machine']}. [The full table]({folder}/RESULTS.md).",
        ]
    )


def _rate(system: Mapping[str, Any]) -> str:
    cer = {key: 100 * float(system["cer"][key]) for key in ("estimate", "low", "high")}
    return f"{cer['estimate']:.1f} [{cer['low']:.1f}, {cer['high']:.1f}]"


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    add = parser.add_argument
    add("--recipe", type=Path, required=True, help="its folder, whose results/ is written")
    add("--results", type=Path, help="of a whole run (default: exp/results of the recipe)")
    add("--page", type=Path, default=ROOT / "README.md", help="with the marks (default: README.md)")
    add("--name", default="demo", help="of the marks (default: demo)")
    args = parser.parse_args(arguments)
    results, output = args.results or args.recipe / "exp" / "results", args.recipe / "results"
    path = results / "results.json"
    if not path.is_file():
        raise DataError(str(path), ["is not there; run the recipe first"])
    document = json.loads(path.read_text(encoding="utf-8"))
    part = table(document, path_from(args.page, output))
    publish(results, output, args.page, args.name, part)
    print(f"{output}, {args.page}")


if __name__ == "__main__":
    sys.exit(main())
