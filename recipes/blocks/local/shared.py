"""Scores random points with the weights of a one-shot search: of its own part, and of all.

Writes ``shared-1.yaml`` and so on, random points of the supernet's part within the search's
budgets, which are then trained in full, and ``scores.json``: the errors of these with shared
weights, and of those random points of the whole space (``draw-1`` and so on) that it can hold.
"""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import open_folder
from nas_encoder.search.trials.budget import Affordable, Budget
from nas_encoder.search.trials.supernet import SupernetEvaluator
from recipes.blocks.local.draws import save
from tools.scripts import command, write_json

_ATTEMPTS = 100  # draws for each point
SCORES, PREFIX = "scores.json", "shared-"


def points(evaluator: SupernetEvaluator, count: int, seed: int) -> list[Genotype]:
    """Draw different genotypes of a supernet's part, within the budgets of its search.

    Raises:
        ConfigError: Hardly any is within, or the part has fewer.
    """
    budget = Budget(evaluator.config.objective, evaluator.costs)
    space, rng = Affordable(evaluator.space, budget), random.Random(seed)
    found: dict[str, Genotype] = {}
    for _ in range(_ATTEMPTS * count):
        if len(found) == count:
            break
        genotype = space.sample(rng)
        budget.require_hope()
        if not budget.excess(genotype):
            found.setdefault(genotype.hash, genotype)
    if len(found) < count:
        rule = f"has {len(found)} genotypes within the budgets, {count} are wanted"
        raise ConfigError("the supernet's part", [f"{rule}; lower --shared_draws"])
    return [
        own.renamed(f"{PREFIX}{place}", kind="sampled")
        for place, own in enumerate(found.values(), 1)
    ]


def scores(
    evaluator: SupernetEvaluator, own: list[Genotype], others: Mapping[str, Genotype]
) -> dict[str, Any]:
    """Return the errors with shared weights, in %, by name; of ``others`` those it can hold."""
    held = {name: found for name, found in others.items() if evaluator.nearest(found) is found}
    named = {genotype.name: genotype for genotype in own} | held
    costs = {name: evaluator.costs(found) for name, found in named.items()}
    errors = {name: next(iter(evaluator.errors(found))) for name, found in named.items()}
    return {"errors": errors, "costs": costs, "others": len(others), "held": len(held)}


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--run", type=Path, required=True, help="run folder of the one-shot search")
    add("--count", type=int, required=True, help="random points of its part")
    add("--others", type=Path, nargs="*", default=[], help="random points of the whole space")
    add("--output", type=Path, required=True, help="folder for the genotypes and the scores")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    folder = open_folder(args.run)
    config, run = folder.config(TrialsConfig), folder.run()
    if config.supernet is None:
        raise ConfigError(str(args.run), ["is of a search without a supernet"])
    data = (run["train"], run["valid"], run["seed"])
    evaluator = SupernetEvaluator(config.supernet, config, *data)
    evaluator.prepare(folder)  # finds it trained
    own = points(evaluator, args.count, run["seed"])
    save(own, args.output)
    found = scores(evaluator, own, {path.stem: load_genotype(path) for path in args.others})
    write_json(args.output / SCORES, found)
    print(f"{args.output}: {len(own)} genotypes; {found['held']} of {found['others']} others held")


if __name__ == "__main__":
    sys.exit(main())
