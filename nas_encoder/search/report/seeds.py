"""The report of a search with several seeds: their agreement, and the best one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations
from statistics import fmean

from nas_encoder.errors import CheckpointError
from nas_encoder.network.budgets import TITLES, readable
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.report.gradient import GradientReport, choices_of, shared_choices
from nas_encoder.search.report.next_steps import resume_command, show_step, train_step
from nas_encoder.search.report.page import Page, Section, duration, number, provenance_section
from nas_encoder.search.report.pictures import compared_curves, genotype_section, to_png
from nas_encoder.spaces import get_space
from nas_encoder.spaces.picture import draw


class SeedsReport:
    """Searches that differ only in their seed, each in its own folder.

    Raises:
        CheckpointError: A file in one of the folders is damaged.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run = folder.run()
        seeds = self.run.get("seeds")
        if not isinstance(seeds, list) or not seeds:
            raise CheckpointError(str(folder.path / "run.yaml"), ["seeds: must be a list"])
        begun = {seed: folder.seed_path(seed) for seed in seeds}
        self.seeds: list[int] = seeds
        self.reports = {
            seed: GradientReport(RunFolder(path))
            for seed, path in begun.items()
            if (path / "run.yaml").is_file()
        }
        self.genotype = folder.result()

    def page(self) -> Page:
        """Return the page."""
        reports = self.reports.values()
        name = next((report.config.name for report in reports), "nothing yet")
        done = sum(report.finished for report in reports)
        seconds = duration(sum(epoch.seconds for report in reports for epoch in report.epochs))
        state = "finished" if self.genotype is not None else "not finished"
        return Page(
            f"Search of {name} with {len(self.seeds)} seeds",
            f"{state}: {done} of {len(self.seeds)} searches in {seconds}",
            self._warnings(),
            self._sections(),
        )

    def _warnings(self) -> Iterator[str]:
        if self.genotype is None:
            yield "Not all seeds are finished; this is the state so far."
        for seed, report in self.reports.items():
            for text in (*(finding.text for finding in report.findings()), *report.exceeded()):
                yield f"Seed {seed}: {text}"

    def _sections(self) -> Iterator[Section]:
        if self.genotype is not None:
            yield genotype_section(
                f"Genotype {self.genotype.name}",
                self.genotype,
                f"Of seed {self.genotype.provenance.get('seed')}, the lowest token error rate on "
                f"the validation data. Hash {self.genotype.hash}.",
            )
        yield self._candidates()
        yield from self._agreement()
        recorded = {f"seed {seed}": r.epochs for seed, r in self.reports.items() if r.epochs}
        if recorded:
            yield compared_curves(recorded)
        for seed, report in self.reports.items():
            if report.genotype is not None and report.genotype != self.genotype:
                yield Section(
                    f"Seed {seed}" + ("" if report.finished else " so far"),
                    png=to_png(draw(report.genotype)),
                    alt=f"the genotype of seed {seed}",
                )
        yield Section("What to run next", steps=self._next())
        yield provenance_section(self.run)

    def _candidates(self) -> Section:
        reports = self.reports.values()
        names = list(dict.fromkeys(name for report in reports for name in report.last_costs()))
        rows = []
        for seed, report in self.reports.items():
            last, costs = report.epochs[-1] if report.epochs else None, report.last_costs()
            rows.append(
                (
                    seed,
                    report.genotype and report.genotype.hash,
                    f"{len(report.epochs)}" + ("" if report.finished else " so far"),
                    number(last.valid_ter if last else None, 1),
                    number(last.valid_loss if last else None, 3),
                    *(readable(n, costs[n].derived) if n in costs else "" for n in names),
                    f"seed{seed}/report.html",
                )
            )
        trained = any(epoch.phase == "retrain" for report in reports for epoch in report.epochs)
        what = (
            "the derived network, trained from scratch"
            if trained
            else "the supernet (no derived network was trained: set 'selection' for that)"
        )
        head = ["seed", "genotype", "epochs", "token error rate, %", "validation loss"]
        return Section(
            "Candidates",
            f"Validation figures of {what}. Each search has its own report.",
            head=[*head, *(TITLES[name] for name in names), "report"],
            rows=rows,
        )

    def _agreement(self) -> Iterator[Section]:
        found = {seed: r.genotype for seed, r in self.reports.items() if r.genotype is not None}
        if len(found) > 1:
            chance = _common_by_chance(next(iter(found.values())).space)
            yield Section(
                "Do the seeds agree?",
                "Choices that two seeds have in common. Two genotypes drawn at random have "
                f"{chance:.1f} in common on average.",
                head=("seeds", "same choices"),
                rows=[
                    (f"{first} and {second}", shared_choices(found[first], found[second])[0])
                    for first, second in combinations(found, 2)
                ],
            )

    def _next(self) -> list[tuple[str, str]]:
        if self.genotype is None:
            return [("Resume the searches:", resume_command(self.folder.path, self.run))]
        path, config = self.folder.path, next(iter(self.reports.values())).config
        return [show_step(path), train_step(path, config.space, config.objective)]


def _common_by_chance(name: str) -> float:
    """Return roughly how many choices two random genotypes of a space share."""
    space, rng = get_space(name), random.Random(0)
    pairs = [(choices_of(space.sample(rng)), choices_of(space.sample(rng))) for _ in range(200)]
    return fmean(len(first & second) for first, second in pairs)
