"""What to run after a search, as commands to copy."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.search.config.sections import ArchitectureConfig, StrategyConfig
from nas_encoder.search.records import EpochRecord
from nas_encoder.spaces import get_space
from nas_encoder.spaces.base import LIMITS

Step = tuple[str, str]  # purpose, command


def search_command(path: Path, run: Mapping[str, Any], output: object, *options: str) -> str:
    """Return the command that repeats a run folder's search into another folder."""
    words = ["nas-encoder", "search", "--config", f"{path}/config.yaml"]
    for name in ("train", "valid"):
        if run.get(name) is not None:
            words += [f"--{name}", str(run[name])]
    return shlex.join([*words, "--output", str(output), *options])


def resume_command(path: Path, run: Mapping[str, Any]) -> str:
    """Return the command that resumes the search in a run folder."""
    seed = ["--seed", str(run["seed"])] if "seed" in run else []
    return search_command(path, run, path, *seed, "--resume")


def show_step(path: Path) -> Step:
    """Return the step that shows the result of a search."""
    return (
        "Look at the genotype and at what the network costs:",
        f"nas-encoder show {shlex.quote(str(path))}/genotype.yaml --plot cells.svg",
    )


def train_step(path: Path, space: str, wanted: ObjectiveConfig) -> Step:
    """Return the step that trains the result of a search, in the wanted size."""
    sizes = get_space(space).target_sizes(wanted.layers, wanted.channels)
    options = "".join(f"\n    {name}: {value}" for name, value in sizes.items())
    return (
        "Train it: in the training config of an ESPnet2 recipe,",
        f"encoder: nas\nencoder_conf:\n    genotype: {path}/genotype.yaml{options}",
    )


def steps_of_search(
    path: Path,
    run: Mapping[str, Any],
    config: StrategyConfig,
    architecture: ArchitectureConfig,
    wanted: ObjectiveConfig,
    searching: Sequence[EpochRecord],
    doubts: Collection[str],
    genotype: Genotype,
) -> Iterator[Step]:
    """Yield the steps after a finished search, the most useful first.

    Args:
        path: The run folder.
        run: The content of run.yaml.
        config: The searched space and the strategy.
        architecture: Optimizer of the architecture.
        wanted: The budgets, and the size of the network.
        searching: The epochs that chose operations.
        doubts: Kinds of findings about the last of them; ``budget`` if one is exceeded.
        genotype: The result.
    """
    seed = int(run.get("seed") or 0)

    def again(suffix: str, seed: int, *changes: str) -> str:
        settings = [word for change in changes for word in ("--set", change)]
        return search_command(path, run, f"{path}_{suffix}", "--seed", str(seed), *settings)

    def derive(output: str, *options: str) -> str:
        words = ["nas-encoder", "derive", str(path), *options, "--output", output]
        return shlex.join(words)

    if {"uniform", "edges", "unlearned"} & set(doubts):
        longer = [f"stages.{i}.epochs={2 * stage.epochs}" for i, stage in enumerate(config.stages)]
        yield (
            "The choice is close to chance (see above): search longer, with a larger learning "
            "rate of the architecture, before training anything:",
            again("longer", seed, f"architecture.lr={4 * architecture.lr:g}", *longer),
        )
    space = get_space(config.space)
    if "cheap" in doubts and LIMITS in space.features:
        cheap = [op for op in space.operations if op in space.weightless]
        yield (
            "Many operations have no weights: derive within stricter limits,",
            derive("limited.yaml", *(w for op in cheap for w in ("--at-most", f"{op}=1"))),
        )
    if "budget" in doubts:
        within = _within_budgets(searching)
        if within is not None:
            stage, epoch = map(str, within)
            yield (
                "The budget is exceeded: an earlier epoch of the last stage is within it,",
                derive("within_budget.yaml", "--stage", stage, "--epoch", epoch),
            )
        weight = 4 * max(wanted.weight, 0.25)
        yield (
            "Or search with a stronger pull towards the budget:",
            again("budget", seed, f"objective.weight={weight:g}"),
        )
    yield show_step(path)
    yield train_step(path, config.space, wanted)
    yield (
        "See how much of the result is chance: search with other seeds and compare, and train a "
        "random genotype of the same space beside the one found:",
        again(f"seed{seed + 1}", seed + 1),
    )


def _within_budgets(epochs: Sequence[EpochRecord]) -> tuple[int, int] | None:
    """Return (stage, epoch) of the last epoch of the last stage within all budgets."""
    for epoch in reversed([e for e in epochs if e.stage == epochs[-1].stage]):
        if epoch.costs and not any(cost.exceeded for cost in epoch.costs.values()):
            return epoch.place
    return None
