"""The report of a gradient search."""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from nas_encoder.errors import NasEncoderError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import TITLES, readable
from nas_encoder.search.config.gradient import SearchConfig, dump
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.findings import Finding, findings
from nas_encoder.search.gradient.rederive import rederive
from nas_encoder.search.records import Cost, EpochRecord
from nas_encoder.search.report.edges import edge_courses, edge_map
from nas_encoder.search.report.next_steps import (
    Step,
    resume_command,
    search_command,
    show_step,
    train_step,
)
from nas_encoder.search.report.page import Page, Section, duration, number, provenance_section
from nas_encoder.search.report.pictures import (
    compared_curves,
    costs,
    curves,
    genotype_section,
    operation_shares,
    to_png,
)
from nas_encoder.spaces import get_space
from nas_encoder.spaces.picture import draw


class GradientReport:
    """The report of a gradient search.

    Raises:
        CheckpointError: A file in its folder is damaged.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run = folder.run()
        self.config = folder.config(SearchConfig)
        self.epochs = folder.records(EpochRecord)
        # Warm-up and retraining choose nothing.
        self.searching = [epoch for epoch in self.epochs if epoch.searching]
        self.space = get_space(self.config.space)
        result = folder.result()
        self.finished = result is not None
        self.genotype = result
        if result is None and self.epochs:
            self.genotype = folder.genotype(*self.epochs[-1].place)

    @property
    def seconds(self) -> float:
        """Time spent so far."""
        return sum(epoch.seconds for epoch in self.epochs)

    def figures(self) -> dict[str, object]:
        """Return what the searches of several seeds are compared by."""
        last = self.epochs[-1] if self.epochs else None
        return {
            "epochs": f"{len(self.epochs)}" + ("" if self.finished else " so far"),
            "token error rate, %": number(last.valid_ter if last else None, 1),
            "validation loss": number(last.valid_loss if last else None, 3),
            **{TITLES[n]: readable(n, cost.derived) for n, cost in self.last_costs().items()},
        }

    @staticmethod
    def compare(reports: Mapping[int, GradientReport]) -> tuple[str, list[Section]]:
        """Return what the figures of several seeds are of, and pictures of their searches."""
        epochs = {f"seed {seed}": r.epochs for seed, r in reports.items() if r.epochs}
        trained = any(epoch.phase == "retrain" for own in epochs.values() for epoch in own)
        what = (
            "the derived network, trained from scratch"
            if trained
            else "the supernet (no derived network was trained: set 'selection' for that)"
        )
        return what, [compared_curves(epochs)] if epochs else []

    def page(self) -> Page:
        """Return the page."""
        total = sum(stage.epochs for stage in self.config.stages)
        seconds = duration(self.seconds)
        state = "finished" if self.finished else "not finished"
        # A stage may end early, so a finished search may have fewer epochs.
        return Page(
            f"Search of {self.config.name}",
            f"{self.config.strategy} in the space {self.config.space}, seed "
            f"{self.run.get('seed')}: {state}, {len(self.epochs)} of {total} epochs in {seconds}",
            self.warnings(),
            self._sections(),
        )

    def warnings(self) -> list[str]:
        """Return the warnings to read before trusting the genotype."""
        found = []
        if not self.finished:
            found.append("The search is not finished; this is its state so far.")
        if not self.epochs:
            return [*found, "No epoch is finished yet."]
        return [*found, *self.doubts()]

    def doubts(self) -> list[str]:
        """Return the warnings about what was found."""
        return [*(finding.text for finding in self.findings()), *self.exceeded()]

    def findings(self) -> list[Finding]:
        """Return the findings about the last epoch that chose operations."""
        if not self.epochs:
            return []
        last = self.searching[-1] if self.searching else self.epochs[-1]
        found = findings(last, self.genotype, self.space)
        if self.epochs[-1] is not last:
            # The network trained last shows whether anything was learned.
            found = [finding for finding in found if finding.kind != "unlearned"]
            after = findings(self.epochs[-1], None, self.space)
            found += [finding for finding in after if finding.kind == "unlearned"]
        return found

    def exceeded(self) -> list[str]:
        """Return a sentence for each budget that the genotype exceeds."""
        return [
            f"The genotype costs {readable(name, cost.derived)} of {TITLES[name]}, more than the "
            f"budget of {readable(name, cost.budget)}. A larger objective.weight or more epochs "
            "may bring it within."
            for name, cost in self.last_costs().items()
            if cost.budget is not None and cost.exceeded
        ]

    def last_costs(self) -> Mapping[str, Cost]:
        """Return the costs of the last genotype, by quantity; empty if unknown."""
        return (self.epochs[-1].costs or {}) if self.epochs else {}

    def _sections(self) -> Iterator[Section]:
        if self.genotype is not None:
            yield genotype_section(
                f"Genotype {self.genotype.name}"
                if self.finished
                else f"Genotype so far {self.genotype.name}",
                self.genotype,
                f"Hash {self.genotype.hash}.",
                head=("", "operations"),
                rows=[
                    (
                        self.space.kinds[kind].title,
                        ", ".join(
                            f"{count} {op}"
                            for op, count in Counter(op for _, op in own).most_common()
                        ),
                    )
                    for kind, own in self.space.chosen(self.genotype.architecture).items()
                ],
            )
        if self.epochs:
            yield from self._costs()
            yield curves(self.epochs, self.space)
        if self.searching:
            yield operation_shares(self.searching, self.space)
            for kind in self.searching[0].probabilities:
                yield edge_courses(self.searching, kind, self.space, self.genotype)
            yield from self._stages()
        if self.epochs:
            yield self._table()
        yield Section("What to run next", steps=list(self.next_steps()))
        yield provenance_section(self.run)
        yield Section("Configuration", text=dump(self.config))

    def next_steps(self) -> Iterator[Step]:
        """Yield what to do next."""
        path = self.folder.path
        if self.genotype is None or not self.finished:
            yield "Resume the search:", resume_command(path, self.run)
            return
        config, seed = self.config, int(self.run.get("seed") or 0)

        def again(suffix: str, seed: int, *changes: str) -> str:
            settings = [word for change in changes for word in ("--set", change)]
            output = f"{path}_{suffix}"
            return search_command(path, self.run, output, "--seed", str(seed), *settings)

        def derive(output: str, *options: str) -> str:
            return shlex.join(["nas-encoder", "derive", str(path), *options, "--output", output])

        doubts = {finding.kind for finding in self.findings()}
        longer = [f"stages.{i}.epochs={2 * s.epochs}" for i, s in enumerate(config.stages)]
        if {"uniform", "edges"} & doubts:
            yield (
                "The choice is close to chance (see above): search longer, with a larger learning "
                "rate of the architecture, before training anything:",
                again("longer", seed, f"architecture.lr={4 * config.architecture.lr:g}", *longer),
            )
        elif "unlearned" in doubts:
            yield (
                "The network has hardly learned the task (see above): search longer, before "
                "training anything:",
                again("longer", seed, *longer),
            )
        if "cheap" in doubts:
            cheap = [finding.where for finding in self.findings() if finding.kind == "cheap"]
            if limits := self._stricter_limits(self.genotype, cheap):
                options = [w for op, n in limits.items() for w in ("--at-most", f"{op}={n}")]
                yield (
                    "Many operations have no weights: derive within stricter limits,",
                    derive("limited.yaml", *options),
                )
            yield (
                "Or search with a longer warm-up, in which operations with weights learn:"
                if limits
                else "Many operations have no weights: search with a longer warm-up, in which the "
                "others learn:",
                again("warmup", seed, *self._longer_warm_up()),
            )
        if self.exceeded():
            within = self._within_budgets()
            if within is not None:
                stage, epoch = map(str, within.place)
                yield (
                    "The budget is exceeded: an earlier epoch of the last stage is within it,",
                    derive("within_budget.yaml", "--stage", stage, "--epoch", epoch),
                )
            weight = 4 * max(config.objective.weight, 0.25)
            yield (
                "Or search with a stronger pull towards the budget:",
                again("budget", seed, f"objective.weight={weight:g}"),
            )
        yield show_step(path)
        yield self.train_step(path)
        others = ["--seeds", str(seed + 1), str(seed + 2)]
        yield (
            "See how much of the result is chance: search with other seeds, whose report compares "
            "them,",
            search_command(path, self.run, f"{path}_seeds", *others),
        )
        draw = f"get_space('{config.space}').sample(random.Random(0)).save('random.yaml')"
        code = f"import random; from nas_encoder.spaces import get_space; {draw}"
        yield (
            "and train a random genotype of the same space beside the one found:",
            shlex.join(["python", "-c", code]),
        )

    def _stricter_limits(self, genotype: Genotype, kinds: Collection[str]) -> dict[str, int]:
        """Return limits that leave fewer operations without weights; empty if there are none.

        ``kinds`` are those of choices that have too many of them.
        """
        space, given = self.space, self.config.regularization.at_most
        limited = [kind for kind in kinds if space.kinds[kind].limited]
        weightless = [op for op in space.operations if op in space.weightless]
        limits = {**given, **{op: min(1, given.get(op, 1)) for op in weightless}}

        def count(one: Genotype) -> int:
            chosen = space.chosen(one.architecture)
            return sum(op in weightless for kind in limited for _, op in chosen[kind])

        try:
            fewer = count(rederive(self.folder, at_most=limits))
        except NasEncoderError:  # what is left on the edges does not satisfy them
            return {}
        return limits if fewer < count(genotype) else {}

    def _longer_warm_up(self) -> Iterator[str]:
        """Yield the settings that double the warm-up, and leave as many epochs after it."""
        for i, stage in enumerate(self.config.stages):
            more = stage.warmup_epochs or max(1, stage.epochs // 3)
            if stage.phase == "search":
                yield f"stages.{i}.warmup_epochs={stage.warmup_epochs + more}"
                yield f"stages.{i}.epochs={stage.epochs + more}"

    def train_step(self, path: Path) -> Step:
        """Return the step that trains the result in ``path``."""
        wanted = self.config.objective
        return train_step(path, self.space.target_sizes(wanted.layers, wanted.channels))

    def _within_budgets(self) -> EpochRecord | None:
        """Return the last epoch of the last stage within all budgets."""
        for epoch in reversed([e for e in self.searching if e.stage == self.searching[-1].stage]):
            if epoch.costs and not any(cost.exceeded for cost in epoch.costs.values()):
                return epoch
        return None

    def _costs(self) -> Iterator[Section]:
        picture = costs(self.epochs)
        if picture is None:
            return
        objective = self.config.objective
        size = f"{objective.seconds:g} s of speech"
        sizes = self.space.target_sizes(objective.layers, objective.channels)
        size = ", ".join([*(f"{value} {name}" for name, value in sizes.items()), size])
        yield replace(
            picture,
            note=f"{picture.note} {size}.",
            head=("", "genotype", "budget", "share of the budget"),
            rows=[
                (
                    TITLES[name],
                    readable(name, cost.derived),
                    cost.budget and readable(name, cost.budget),
                    cost.budget and f"{100 * cost.derived / cost.budget:.1f} %",
                )
                for name, cost in self.last_costs().items()
            ],
        )

    def _stages(self) -> Iterator[Section]:
        """Yield the final genotype and probabilities of each stage."""
        last = {epoch.stage: epoch for epoch in self.searching}
        for epoch in last.values():
            genotype = self.folder.genotype(*epoch.place)
            after = f"after epoch {epoch.epoch} of stage {epoch.stage}"
            if genotype is not None and genotype != self.genotype:
                picture = to_png(draw(genotype))
                yield Section(f"Derived {after}", png=picture, alt=f"what is derived {after}")
            yield edge_map(epoch, self.space, genotype, f"Edges {after}")

    def _table(self) -> Section:
        kinds = list(self.epochs[0].probabilities)
        rows: list[tuple[object, ...]] = []
        before: Genotype | None = None
        for epoch in self.epochs:
            genotype = self.folder.genotype(*epoch.place)
            entropy = map(epoch.relative_entropy, kinds)
            rows.append(
                (
                    f"{epoch.stage} {epoch.phase}",
                    epoch.epoch,
                    number(epoch.train_loss, 3),
                    number(epoch.valid_loss, 3),
                    number(epoch.valid_ter, 1),
                    ", ".join(f"{100 * e:.1f}" for e in entropy if e is not None),
                    epoch.genotype,
                    before and genotype and shared_choices(genotype, before)[1],
                    duration(epoch.seconds),
                )
            )
            before = genotype
        return Section(
            "Epochs",
            "Changed choices: edges, blocks, nodes or skips that differ from the genotype of the "
            "epoch before.",
            head=(
                "stage",
                "epoch",
                "training loss",
                "validation loss",
                "token error rate, %",
                f"entropy, % of uniform ({', '.join(kinds)})",
                "genotype",
                "changed choices",
                "time",
            ),
            rows=rows,
        )


def choices_of(genotype: Genotype) -> set[tuple[str, int, str]]:
    """Return the choices of a genotype: (kind, index of the choice, candidate)."""
    chosen = get_space(genotype.space).chosen(genotype.architecture)
    return {(kind, *choice) for kind, own in chosen.items() for choice in own}


def shared_choices(first: Genotype, second: Genotype) -> tuple[str, str]:
    """Return how many choices two genotypes share, and how many of the first differ."""
    mine, other = choices_of(first), choices_of(second)
    return f"{len(mine & other)} of {len(mine)}", f"{len(mine - other)} of {len(mine)}"
