"""Takes the first trials of a random search as random points of the space within its budgets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from nas_encoder.errors import DataError
from nas_encoder.genotype import Genotype
from nas_encoder.search.folder import open_folder
from nas_encoder.search.records import TrialRecord
from nas_encoder.spaces import get_space
from tools.scripts import command


def draws(space: str, trials: Iterable[TrialRecord], count: int) -> list[Genotype]:
    """Return the genotypes of the first ``count`` complete trials, in the order they were drawn.

    Raises:
        DataError: There are fewer.
    """
    complete = sorted((t for t in trials if t.complete), key=lambda trial: trial.number)
    if len(complete) < count:
        rule = f"{count} random genotypes are wanted, the search has {len(complete)} trials"
        raise DataError("random points", [f"{rule}; raise --trials or lower --draws"])
    family = get_space(space)
    return [
        family.decode(list(trial.vector)).renamed(f"draw-{place}", kind="sampled")
        for place, trial in enumerate(complete[:count], 1)
    ]


def save(genotypes: Sequence[Genotype], folder: Path) -> None:
    """Write ``draw-1.yaml`` and so on."""
    folder.mkdir(parents=True, exist_ok=True)
    for genotype in genotypes:
        genotype.save(folder / f"{genotype.name}.yaml")


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--run", type=Path, required=True, help="run folder of the random search")
    add("--space", required=True)
    add("--count", type=int, required=True)
    add("--output", type=Path, required=True, help="folder for the genotypes")
    args = parser.parse_args(arguments)
    found = draws(args.space, open_folder(args.run).records(TrialRecord), args.count)
    save(found, args.output)
    print(f"{args.output}: {len(found)} genotypes")


if __name__ == "__main__":
    sys.exit(main())
