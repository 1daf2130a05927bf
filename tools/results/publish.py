"""Copies the results of a corpus's recipe into its folder, for others to read.

    python -m tools.results.publish --recipe recipes/timit/espnet

takes ``exp/results`` and writes ``RESULTS.md``, the figures that it shows and ``results.json``
beside ``run.sh``. Results that nobody could get again are refused: of a tiny run, of files that no
commit holds, without seed, machine and command, or with paths of this machine (name the corpus from
the recipe's folder).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError
from nas_encoder.genotype.publishing import own_paths
from tools.scripts import command

FILES = ("RESULTS.md", "results.json")
_FIGURE = re.compile(r"!\[[^\]]*\]\(([\w.-]+)\)")
NEEDED = ("seed", "commit", "machine", "command")


def problems_of(document: Mapping[str, Any], page: str) -> list[str]:
    """Return why results are not to be published.

    Args:
        document: Content of ``results.json``, with its ``origin``.
        page: ``RESULTS.md``.
    """
    origin = document.get("origin", {})
    lines = [
        f"origin.{key}: is missing, so nobody could get these results again"
        for key in NEEDED
        if origin.get(key) in (None, "")
    ]
    lines += [
        f"origin.{key}: must be in RESULTS.md too, which has not '{origin[key]}'"
        for key in NEEDED
        if key in origin and f"- {key}: {origin[key]}" not in page
    ]
    if str(origin.get("commit", "")).endswith("-dirty"):
        rule = "says that files differed from it; commit them, and run it again"
        lines.append(f"origin.commit: {origin['commit']} {rule}")
    words = str(origin.get("command", "")).split()
    lines += own_paths({**document, "command": words})
    if document.get("tiny", True):
        lines.append("tiny: networks of a test; run it without --tiny")
    return lines


def publish(results: Path, recipe: Path) -> list[Path]:
    """Copy the results; return the files.

    Raises:
        DataError: A file is missing or cannot be read, or the results are not to be published.
    """
    missing = [name for name in FILES if not (results / name).is_file()]
    if missing:
        raise DataError(str(results), [f"lacks {', '.join(missing)}; run the recipe first"])
    contents = {name: (results / name).read_bytes() for name in FILES}
    try:
        document = json.loads(contents["results.json"])
    except ValueError as error:
        raise DataError(str(results / "results.json"), [f"is damaged: {error}"]) from None
    page = contents["RESULTS.md"].decode("utf-8", "replace")
    if problems := problems_of(document, page):
        raise DataError(f"{results} is not for others", problems)
    figures = list(dict.fromkeys(_FIGURE.findall(page)))
    if missing := [name for name in figures if not (results / name).is_file()]:
        raise DataError(str(results), [f"lacks {', '.join(missing)}, which RESULTS.md shows"])
    contents |= {name: (results / name).read_bytes() for name in figures}
    for name, content in contents.items():
        write_atomically(recipe / name, content, DataError)
    return [recipe / name for name in contents]


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--recipe", type=Path, required=True, help="its folder")
    parser.add_argument("--results", type=Path, help="(default: exp/results of the recipe)")
    args = parser.parse_args(arguments)
    print(*publish(args.results or args.recipe / "exp" / "results", args.recipe), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
