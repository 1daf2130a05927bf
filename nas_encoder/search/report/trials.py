"""The report of a search by trials: history, front, genotype; made only from the run folder."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import yaml

from nas_encoder.network.budgets import TITLES, UNITS, readable
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import TrialRecord, best_of, front_of, training_time
from nas_encoder.search.report.next_steps import (
    Step,
    inherit_step,
    resume_command,
    show_step,
    train_step,
)
from nas_encoder.search.report.page import Page, Section, duration, number, provenance_section
from nas_encoder.search.report.pictures import COLOURS, finish, genotype_section, new_panels, to_png
from nas_encoder.search.report.scores import scores_section
from nas_encoder.search.report.supernet import supernet_section
from nas_encoder.search.strategies import COSTS, ERROR
from nas_encoder.search.trials.run import compared
from nas_encoder.training.holding import STUDY

logger = logging.getLogger(__name__)

_MOST = 200  # rows in the table of trials
_DONE, _PRUNED, _BEST = "#0072b2", "#9a9a9a", "#d55e00"


class TrialsReport:
    """The report of a search by trials.

    Raises:
        CheckpointError: A file in its folder is damaged.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run = folder.run()
        self.config = folder.config(TrialsConfig)
        self.trials = folder.records(TrialRecord)
        self.genotype = folder.result()
        self.complete = [trial for trial in self.trials if trial.complete]

    @property
    def finished(self) -> bool:
        """Whether the study has all its trials; one that is made longer has a result before."""
        wanted = self.config.trials
        trained = training_time(
            (own.genotype, own.complete, own.training_seconds or 0.0) for own in self.trials
        )
        enough = wanted.seconds is not None and trained >= wanted.seconds
        return self.genotype is not None and (enough or len(self.trials) >= wanted.count)

    @property
    def seconds(self) -> float:
        """Time spent so far by all workers, without trainings of finalists."""
        return sum(trial.seconds for trial in self.trials)

    @property
    def refused(self) -> int:
        """How many genotypes outside the budgets were drawn or proposed, and not trained."""
        return sum(trial.refused or 0 for trial in self.trials)

    def figures(self) -> dict[str, object]:
        """Return what the searches of several seeds are compared by."""
        found: dict[str, object] = {
            "trials": f"{len(self.trials)}" + ("" if self.finished else " so far")
        }
        if self.complete:
            best = best_of(self.trials)
            values = {ERROR: best.final, **best.costs}
            found |= {_title(name): _figure(name, value) for name, value in values.items()}
        return found

    @staticmethod
    def compare(reports: Mapping[int, TrialsReport]) -> tuple[str, list[Section]]:
        """Return what the figures of several seeds are of, and pictures of their searches."""
        done = {seed: report for seed, report in reports.items() if report.complete}
        pictures: list[Section] = []
        if done:
            names = next(iter(done.values())).config.objectives
            if len(names) > 1:
                pictures += front_sections(
                    [trial for report in done.values() for trial in report.trials],
                    names,
                    {id(trial): seed for seed, own in done.items() for trial in own.trials},
                )
            pictures.append(compared_histories({seed: own.trials for seed, own in done.items()}))
        return "the network of each seed's best trial", pictures

    def page(self) -> Page:
        """Return the page."""
        epochs = sum(trial.epochs for trial in self.trials)
        each = self.config.training.seconds if self.config.supernet is None else None
        state = "finished" if self.finished else "not finished"
        pruned, limit = len(self.trials) - len(self.complete), self.config.trials.seconds
        wanted = f"of {self.config.trials.count} trials"
        if limit is not None:
            wanted = f"trials in {limit:g} s of training"
        return Page(
            f"Search of {self.config.name}",
            f"{self.config.strategy} in the space {self.config.space}, seed {self.run['seed']}: "
            f"{state}, {len(self.trials)} {wanted} ({pruned} pruned), "
            f"{epochs} epochs in {duration(self.seconds)} of all workers"
            + (f", each trained for {each:g} s" if each is not None else "")
            + (f", {self.refused} genotypes outside the budgets" if self.refused else ""),
            self._warnings(),
            self._sections(),
        )

    def _warnings(self) -> Iterator[str]:
        if not self.finished:
            yield "The search is not finished; this is its state so far."
        if not self.complete:
            yield "No trial is complete yet."
        if self.run.get("study") == STUDY and not (self.folder.path / STUDY).is_file():
            text = f"{STUDY} is missing: without it the search cannot be resumed or made longer."
            logger.warning("%s: %s", self.folder.path, text)
            yield text
        yield from self.doubts()

    def doubts(self) -> list[str]:
        """Return the warnings about what was found."""
        errors = {trial.error for trial in self.complete}
        if len(self.complete) > 1 and len(errors) == 1:
            return ["All complete trials have the same error: the search cannot distinguish them."]
        if not errors or min(errors) <= 95:
            return []
        length = "epochs" if self.config.training.seconds is None else "seconds"
        remedy = (
            f"Raise training.{length}, change training.lr, or search with more data."
            if self.config.table is None
            else "The table's trainings are too short to compare architectures by."
        )
        best = f"The best error is {min(errors):.1f} %: no network has learned anything yet."
        return [f"{best} {remedy}"]

    def _sections(self) -> Iterator[Section]:
        if self.genotype is not None:
            about = self.genotype.provenance
            error, given = about["validation"]["token_error_rate"], about.get("initial")
            note = f"Hash {self.genotype.hash}, error {error:.2f} %."
            if given is not None:
                note += f" It is '{given}', with which the search began: it found nothing better."
            yield genotype_section(f"Genotype {self.genotype.name}", self.genotype, note)
        if self.config.objective.limited and self.trials:
            yield self._budgets()
        shared = supernet_section(self.folder) if self.config.supernet is not None else None
        if shared is not None:
            yield shared
        if len(self.config.objectives) > 1 and self.complete:
            yield from front_sections(self.trials, self.config.objectives)
        if self.complete:
            yield history_picture(self.trials)
        if any(len(trial.errors) > 1 for trial in self.trials):
            training = self.config.training
            if training.seconds is None or self.config.supernet is not None:
                yield curves_picture(self.trials)
            else:
                points = [share * training.seconds for share in training.evaluate_at]
                yield timed_picture(self.trials, points)
        yield scores_section(compared(self.config, self.trials), self.trials)
        if self.trials:
            yield self._table()
        yield Section("What to run next", steps=list(self._next()))
        yield provenance_section(self.run)
        text = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
        yield Section("Configuration", text=text)

    def _budgets(self) -> Section:
        limits, best = self.config.objective, best_of(self.trials) if self.complete else None
        share = self.refused / (self.refused + len(self.trials))
        return Section(
            "Budgets",
            f"{self.refused} genotypes that were drawn or proposed ({100 * share:.0f} % of all) "
            "are outside and were not trained; they do not count as trials. Costs are those of "
            "the trials' own encoders.",
            head=("cost", "budget", "of the best trial", "least", "most"),
            rows=[
                (
                    TITLES[name],
                    limits.told(name),
                    best and readable(name, best.value(name)),
                    readable(name, min(trial.value(name) for trial in self.trials)),
                    readable(name, max(trial.value(name) for trial in self.trials)),
                )
                for name in limits.limited
            ],
        )

    def _table(self) -> Section:
        costs = [name for name in COSTS if any(name in trial.costs for trial in self.trials)]
        ranked = sorted(self.trials, key=lambda trial: (not trial.complete, trial.error))
        text = "The best first; pruned ones, whose errors are of fewer epochs, last."
        if len(ranked) > _MOST:
            text += f" {len(ranked) - _MOST} more are in metrics.jsonl."
        return Section(
            "Trials",
            text,
            head=(
                *("trial", "state", "genotype", "given as", "error, %", "epochs", "training, s"),
                *("trained alone, %", "time", *map(_title, costs)),
            ),
            rows=[
                (
                    trial.trial,
                    trial.state,
                    trial.genotype,
                    trial.initial,
                    number(trial.error, 2),
                    trial.epochs,
                    number(trial.training_seconds, 1),
                    number(trial.final if trial.trained else None, 2),
                    duration(trial.seconds),
                    *(_figure(name, trial.costs.get(name)) for name in costs),
                )
                for trial in ranked[:_MOST]
            ],
        )

    def _next(self) -> Iterator[Step]:
        folder, count = self.folder.path, self.config.trials.count
        options: list[str] = []
        inside = self.run.get("study") == STUDY or (folder / STUDY).is_file()
        if not inside and self.config.trials.storage is None:
            options = ["--storage", "URL"]  # it was given on the command line
        if self.finished:
            yield show_step(folder)
            yield self.train_step(folder)
            if self.config.supernet is not None and self.genotype is not None:
                yield inherit_step(folder)
            if len(self.trials) >= count:
                options += ["--set", f"trials.count={2 * count}"]
            if (limit := self.config.trials.seconds) is not None:
                options += ["--set", f"trials.seconds={2 * limit:g}"]
            yield (
                "Make the study longer; it goes on where it ended:",
                resume_command(folder, self.run, *options),
            )
        else:
            command = resume_command(folder, self.run, *options)
            yield "Resume the search, or add a worker:", command
        if (folder / STUDY).is_file():
            yield (
                "Browse all trials with optuna-dashboard (pip install optuna-dashboard):",
                f"optuna-dashboard {shlex.quote(self.folder.study_url)}",
            )

    def train_step(self, path: Path) -> Step:
        """Return the step that trains the result in ``path``."""
        return train_step(path, self.config.network)


def front_sections(
    trials: Sequence[TrialRecord], names: Sequence[str], seeds: Mapping[int, int] | None = None
) -> list[Section]:
    """Draw and list the front of some trials; of several searches, with ``id`` -> seed."""
    complete, front = [trial for trial in trials if trial.complete], front_of(trials)
    pictures = [front_picture(complete, front, name) for name in names if name != ERROR]
    table = replace(
        pictures[-1],
        head=("", *(["seed"] if seeds else []), "trial", "genotype", *map(_title, names)),
        rows=[
            (
                place,
                *([seeds[id(trial)]] if seeds else []),
                trial.trial,
                trial.genotype,
                *(_figure(name, trial.value(name)) for name in names),
            )
            for place, trial in enumerate(front, 1)
        ],
    )
    return [*pictures[:-1], table]


def best_so_far(trials: Sequence[TrialRecord]) -> list[float]:
    """Return the lowest error of a complete trial after each trial; NaN before the first."""
    errors = [trial.error if trial.complete else float("inf") for trial in trials]
    return [e if e < float("inf") else float("nan") for e in accumulate(errors, min)]


def compared_histories(searches: Mapping[int, Sequence[TrialRecord]]) -> Section:
    """Draw the best error so far of several seeds."""
    figure, (axes,) = new_panels(3.2, "lowest error so far, %")
    for place, (seed, trials) in enumerate(searches.items()):
        colour = COLOURS[1 + (3 * place) % (len(COLOURS) - 1)]
        course = best_so_far(trials)
        axes.step(
            range(1, len(trials) + 1), course, where="post", color=colour, label=f"seed {seed}"
        )
    finish(axes, "trial, in the order in which they were finished", whole=True)
    return Section(
        "Search histories",
        "The lowest token error rate so far on the validation data, by seed.",
        to_png(figure),
    )


def history_picture(trials: Sequence[TrialRecord]) -> Section:
    """Draw each trial's error and the best so far."""
    figure, (axes,) = new_panels(3.2, "token error rate, %")
    for state, colour in (("complete", _DONE), ("pruned", _PRUNED)):
        own = [(place, t.error) for place, t in enumerate(trials, 1) if t.state == state]
        if own:
            axes.plot(*zip(*own, strict=True), "o", ms=4, color=colour, label=state)
    given = [(place, t.error) for place, t in enumerate(trials, 1) if t.initial is not None]
    if given:
        label = "given at the start"
        axes.plot(*zip(*given, strict=True), "D", ms=8, mfc="none", color=_BEST, label=label)
    places = range(1, len(trials) + 1)
    axes.step(places, best_so_far(trials), where="post", color=_BEST, label="best so far")
    finish(axes, "trial, in the order in which they were finished", whole=True)
    return Section(
        "Search history",
        "The lowest token error rate of each trial on the validation data. Pruned trials were "
        "trained for fewer epochs.",
        to_png(figure),
    )


def curves_picture(trials: Sequence[TrialRecord]) -> Section:
    """Draw the error of each trial over its epochs."""
    figure, (axes,) = new_panels(3.2, "lowest error so far, %")
    for trial in trials:
        colour = _DONE if trial.complete else _PRUNED
        epochs = range(1, len(trial.errors) + 1)
        axes.plot(epochs, trial.errors, "-o", ms=2.5, lw=0.8, color=colour, alpha=0.6)
    finish(axes, "epoch", whole=True)
    return Section(
        "Epochs of the trials",
        "Blue: complete; grey: pruned because others were better after as many epochs.",
        to_png(figure),
    )


def timed_picture(trials: Sequence[TrialRecord], seconds: Sequence[float]) -> Section:
    """Draw the error of each trial over its time; ``seconds`` are those of its errors."""
    figure, (axes,) = new_panels(3.2, "lowest error so far, %")
    for trial in trials:
        colour = _DONE if trial.complete else _PRUNED
        known = seconds[: len(trial.errors)]
        axes.plot(known, trial.errors, "-o", ms=2.5, lw=0.8, color=colour, alpha=0.6)
    finish(axes, "seconds of training")
    return Section(
        "Time of the trials",
        "The last error of each is that at the end, the others are the lowest until then. Grey: "
        "pruned because others were better after as long.",
        to_png(figure),
    )


def front_picture(
    trials: Sequence[TrialRecord], front: Sequence[TrialRecord], cost: str
) -> Section:
    """Draw errors against a cost, and the front."""
    figure, (axes,) = new_panels(3.6, _title(ERROR))
    front = sorted(front, key=lambda trial: trial.value(cost))
    for shown, form, size, colour, label, drawn in (
        (trials, "o", 4, _PRUNED, "trials", "default"),
        (front, "-o", 5, _BEST, "Pareto front", "steps-post"),
    ):
        spent = [UNITS[cost][1] * trial.value(cost) for trial in shown]
        errors = [trial.error for trial in shown]
        axes.plot(spent, errors, form, ms=size, color=colour, label=label, drawstyle=drawn)
    finish(axes, _title(cost))
    return Section(
        f"Front: error and {TITLES[cost]}",
        "No trial is better than one of the front in one objective without being worse in "
        "another. Costs are those of the trials' own encoders.",
        to_png(figure),
    )


def _title(name: str) -> str:
    return "error, %" if name == ERROR else f"{TITLES[name]}, {UNITS[name][0]}"


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if name == ERROR else f"{UNITS[name][1] * value:.4g}"
