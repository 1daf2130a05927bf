"""Chooses the peak learning rate with the lowest error on validation data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.scripts import command, write_json


def choose(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the ``peak`` of the best training, on a tie the lowest, and all errors."""
    best = min(results, key=lambda result: (result["valid_error"], result["peak"]))
    peaks = [result["peak"] for result in results]
    return {
        "peak": best["peak"],
        "errors": {f"{result['peak']:g}": result["valid_error"] for result in results},
        # A better rate may lie beyond an end of the grid.
        "at_the_end": len(peaks) > 1 and best["peak"] in (min(peaks), max(peaks)),
    }


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="result.json of each rate")
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    found = choose([json.loads(path.read_text(encoding="utf-8")) for path in args.results])
    write_json(args.output, found)
    print(f"{args.output}: {found['peak']:g} of {found['errors']}")


if __name__ == "__main__":
    sys.exit(main())
