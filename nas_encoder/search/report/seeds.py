"""The report of a search with several seeds: their agreement, and the best one."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import combinations
from statistics import fmean
from typing import Any

from nas_encoder.errors import CheckpointError
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.report.gradient import GradientReport, choices_of, shared_choices
from nas_encoder.search.report.next_steps import resume_command, show_step
from nas_encoder.search.report.page import Page, Section, duration, provenance_section
from nas_encoder.search.report.pictures import genotype_section, to_png
from nas_encoder.search.report.trials import TrialsReport
from nas_encoder.spaces import get_space
from nas_encoder.spaces.picture import draw

REPORTS: dict[str, type[GradientReport] | type[TrialsReport]] = {
    "gradient": GradientReport,
    "trials": TrialsReport,
}


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
        self.seeds: list[int] = seeds
        begun = {seed: RunFolder(folder.seed_path(seed)) for seed in seeds}
        self.reports: dict[int, Any] = {
            seed: REPORTS[own.kind()](own)
            for seed, own in begun.items()
            if (own.path / "run.yaml").is_file() or own.begun()
        }
        self.genotype = folder.result()
        self.finished = self.genotype is not None and all(
            seed in self.reports and self.reports[seed].finished for seed in seeds
        )

    def page(self) -> Page:
        """Return the page."""
        reports = self.reports.values()
        name = next((report.config.name for report in reports), "nothing yet")
        done = sum(report.finished for report in reports)
        seconds = duration(sum(report.seconds for report in reports))
        state = "finished" if self.finished else "not finished"
        return Page(
            f"Search of {name} with {len(self.seeds)} seeds",
            f"{state}: {done} of {len(self.seeds)} searches in {seconds}",
            self._warnings(),
            self._sections(),
        )

    def _warnings(self) -> Iterator[str]:
        if not self.finished:
            yield "Not all seeds are finished; this is the state so far."
        for seed, report in self.reports.items():
            for text in report.doubts():
                yield f"Seed {seed}: {text}"

    def _sections(self) -> Iterator[Section]:
        if self.genotype is not None:
            yield genotype_section(
                f"Genotype {self.genotype.name}",
                self.genotype,
                f"Of seed {self.genotype.provenance.get('seed')}, the lowest token error rate on "
                f"the validation data. Hash {self.genotype.hash}.",
            )
        if self.reports:
            what, pictures = next(iter(self.reports.values())).compare(self.reports)
            yield self._candidates(what)
            yield from self._agreement()
            yield from pictures
        for seed, report in self.reports.items():
            if report.genotype is not None and report.genotype != self.genotype:
                yield Section(
                    f"Seed {seed}" + ("" if report.finished else " so far"),
                    png=to_png(draw(report.genotype)),
                    alt=f"the genotype of seed {seed}",
                )
        yield Section("What to run next", steps=self._next())
        yield provenance_section(self.run)

    def _candidates(self, what: str) -> Section:
        figures = {seed: report.figures() for seed, report in self.reports.items()}
        names = list(dict.fromkeys(name for own in figures.values() for name in own))
        return Section(
            "Candidates",
            f"Validation figures of {what}. Each search has its own report.",
            head=["seed", "genotype", *names, "report"],
            rows=[
                (
                    seed,
                    self.reports[seed].genotype and self.reports[seed].genotype.hash,
                    *map(own.get, names),
                    f"seed{seed}/report.html",
                )
                for seed, own in figures.items()
            ],
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
        path = self.folder.path
        if not self.finished:
            return [("Resume the searches:", resume_command(path, self.run))]
        return [show_step(path), next(iter(self.reports.values())).train_step(path)]


def _common_by_chance(name: str) -> float:
    """Return roughly how many choices two random genotypes of a space share."""
    space, rng = get_space(name), random.Random(0)
    pairs = [(choices_of(space.sample(rng)), choices_of(space.sample(rng))) for _ in range(200)]
    return fmean(len(first & second) for first, second in pairs)
