"""What to run after a search, as commands to copy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from typing import TYPE_CHECKING

from nas_encoder.genotype import CellArchitecture

if TYPE_CHECKING:
    from nas_encoder.search.report import Report

Step = tuple[str, str]


def next_steps(report: Report) -> list[Step]:
    """Return (what it is for, what to type) for each step, the most useful first."""
    return list(_finished(report) if report.finished else _unfinished(report))


def search_command(report: Report, output: str, *options: str) -> str:
    """Return the command of the same search into a folder."""
    words = ["nas-encoder", "search", "--config", f"{report.folder.path}/config.yaml"]
    words += ["--train", str(report.run.get("train"))]
    if report.run.get("valid") is not None:
        words += ["--valid", str(report.run["valid"])]
    return shlex.join([*words, "--output", output, *options])


def _unfinished(report: Report) -> Iterator[Step]:
    seed = str(report.run.get("seed") or 0)
    yield (
        "Go on with the search:",
        search_command(report, str(report.folder.path), "--seed", seed, "--resume"),
    )


def _finished(report: Report) -> Iterator[Step]:
    path, seed = str(report.folder.path), int(report.run.get("seed") or 0)
    kinds = {finding.kind for finding in report.findings()}
    if kinds & {"uniform", "unlearned"}:
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
    yield (
        "Look at the genotype and at what the network costs:",
        f"nas-encoder show {shlex.quote(path)}/genotype.yaml --plot cells.svg",
    )
    genotype = report.genotype
    if genotype is None or isinstance(genotype.architecture, CellArchitecture):
        objective = report.config.objective
        yield (
            "Train it: in the training config of an ESPnet2 recipe,",
            f"encoder: nas\nencoder_conf:\n    genotype: {path}/genotype.yaml\n"
            f"    channels: {objective.channels}\n    layers: {objective.layers}",
        )
    yield (
        "See how much of the result is chance: search with other seeds and compare, and train a "
        "random genotype of the same space beside the one found:",
        search_command(report, f"{path}_seed{seed + 1}", "--seed", str(seed + 1)),
    )


def _cheap(report: Report) -> list[str]:
    from nas_encoder.search.collapse import is_cheap

    return [operation for operation in report.operations if is_cheap(operation)]


def _within_budgets(report: Report) -> tuple[int, int] | None:
    """Return (stage, epoch) of the last epoch of the last searching stage within all budgets."""
    rows = [row for row in report.rows if row.get("costs") and row.get("probabilities")]
    rows = [row for row in rows if row["stage"] == rows[-1]["stage"]]
    for row in reversed(rows):
        if all(
            cost["derived"] <= cost["budget"]
            for cost in row["costs"].values()
            if cost.get("budget") is not None
        ):
            return row["stage"], row["epoch"]
    return None
