"""What to run after a search, as commands to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nas_encoder.genotype import Genotype
from nas_encoder.search.gradient.findings import is_cheap
from nas_encoder.spaces.cells.architecture import CellArchitecture

if TYPE_CHECKING:
    from nas_encoder.search.report.build import Report

Step = tuple[str, str]


def next_steps(report: Report) -> list[Step]:
    """Return (what it is for, what to type) for each step, the most useful first."""
    return list(_finished(report) if report.finished else _unfinished(report))


def search_command(report: Report, output: str, *options: str) -> str:
    """Return the command of the same search into a folder."""
    words = _search_words(report.folder.path, report.run)
    return shlex.join([*words, "--output", output, *options])


def resume_seeds(path: Path, run: Mapping[str, Any]) -> str:
    """Return the command that goes on with the searches of several seeds."""
    return shlex.join([*_search_words(path, run), "--output", str(path), "--resume"])


def train_steps(path: Path, genotype: Genotype, sizes: tuple[int, int]) -> Iterator[Step]:
    """Yield how to look at a result and how to train it.

    Args:
        path: The run folder.
        genotype: In it.
        sizes: Layers and channels of a network of cells.
    """
    yield (
        "Look at the genotype and at what the network costs:",
        f"nas-encoder show {shlex.quote(str(path))}/genotype.yaml --plot cells.svg",
    )
    options = ""
    if isinstance(genotype.architecture, CellArchitecture):
        options = f"\n    layers: {sizes[0]}\n    channels: {sizes[1]}"
    yield (
        "Train it: in the training config of an ESPnet2 recipe,",
        f"encoder: nas\nencoder_conf:\n    genotype: {path}/genotype.yaml{options}",
    )


def _search_words(path: Path, run: Mapping[str, Any]) -> list[str]:
    words = ["nas-encoder", "search", "--config", f"{path}/config.yaml"]
    words += ["--train", str(run.get("train"))]
    if run.get("valid") is not None:
        words += ["--valid", str(run["valid"])]
    return words


def _unfinished(report: Report) -> Iterator[Step]:
    seed = str(report.run.get("seed") or 0)
    yield (
        "Go on with the search:",
        search_command(report, str(report.folder.path), "--seed", seed, "--resume"),
    )


def _finished(report: Report) -> Iterator[Step]:
    path, seed = str(report.folder.path), int(report.run.get("seed") or 0)
    kinds = {finding.kind for finding in report.findings()}
    if kinds & {"uniform", "edges", "unlearned"}:
        rate = report.config.architecture.lr
        epochs = [
            f"stages.{index}.epochs={2 * stage.epochs}"
            for index, stage in enumerate(report.config.stages)
        ]
        changes = [f"architecture.lr={4 * rate:g}", *epochs]
        options = [word for change in changes for word in ("--set", change)]
        yield (
            "The choice is close to chance (see above): search longer, with a larger rate, before "
            "anything is trained:",
            search_command(report, f"{path}_longer", "--seed", str(seed), *options),
        )
    if "cheap" in kinds:
        yield (
            "Many edges are pooling or skip connections: derive within stricter limits,",
            shlex.join(
                ["nas-encoder", "derive", path]
                + [w for op in _cheap(report) for w in ("--at-most", f"{op}=1")]
                + ["--output", "limited.yaml"]
            ),
        )
    if report.exceeded():
        within = _within_budgets(report)
        if within is not None:
            stage, epoch = within
            yield (
                "The budget is exceeded: an earlier epoch of the last stage keeps it,",
                shlex.join(
                    ["nas-encoder", "derive", path, "--stage", str(stage), "--epoch", str(epoch)]
                    + ["--output", "within_budget.yaml"]
                ),
            )
        weight = report.config.objective.weight
        options = ["--set", f"objective.weight={4 * max(weight, 0.25):g}"]
        yield (
            "Or search with a stronger pull towards the budget:",
            search_command(report, f"{path}_budget", "--seed", str(seed), *options),
        )
    if report.genotype is not None:
        sizes = report.config.objective.cell_size
        yield from train_steps(report.folder.path, report.genotype, sizes)
    yield (
        "See how much of the result is chance: search with other seeds and compare, and train a "
        "random genotype of the same space beside the one found:",
        search_command(report, f"{path}_seed{seed + 1}", "--seed", str(seed + 1)),
    )


def _cheap(report: Report) -> list[str]:
    return [operation for operation in report.operations if is_cheap(operation)]


def _within_budgets(report: Report) -> tuple[int, int] | None:
    """Return (stage, epoch) of the last epoch of the last searching stage within all budgets."""
    rows = report.choosing()
    for row in reversed([row for row in rows if row.stage == rows[-1].stage]):
        if row.costs and not any(cost.exceeded for cost in row.costs.values()):
            return row.place
    return None
