"""Chooses the peak learning rate with the lowest error on validation data."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tools.scripts import command, write_json


def choose(results: Sequence[Mapping[str, Any]], further: bool = False) -> dict[str, Any]:
    """Return the ``peak`` of the best training, on a tie the lowest, and all errors.

    ``next`` is the rate to try before the choice is final: if ``further``, and the best lies at an
    end of the grid, twice the highest or half the lowest; else None.
    """
    best = min(results, key=lambda result: (result["valid_error"], result["peak"]))
    peaks = [result["peak"] for result in results]
    at_the_end = len(peaks) > 1 and best["peak"] in (min(peaks), max(peaks))
    beyond = best["peak"] * (2.0 if best["peak"] == max(peaks) else 0.5)
    return {
        "peak": best["peak"],
        "errors": {f"{result['peak']:g}": result["valid_error"] for result in results},
        # A better rate may lie beyond an end of the grid.
        "at_the_end": at_the_end,
        "next": beyond if at_the_end and further else None,
    }


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("results", type=Path, nargs="+", help="result.json of each rate")
    parser.add_argument(
        "--further", action="store_true", help="name a rate beyond the end, if the best lies there"
    )
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in args.results]
    found = choose(results, args.further)
    write_json(args.output, found)
    print(f"{args.output}: {found['peak']:g} of {found['errors']}")


if __name__ == "__main__":
    sys.exit(main())
