"""The report of a search by trials: history, front, genotype; made only from the run folder."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

import yaml

from nas_encoder.network.budgets import TITLES, UNITS
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import STUDY, RunFolder
from nas_encoder.search.records import TrialRecord, front_of
from nas_encoder.search.report.next_steps import Step, resume_command, show_step
from nas_encoder.search.report.page import Page, Section, duration, number, provenance_section
from nas_encoder.search.report.pictures import finish, genotype_section, new_panels, to_png
from nas_encoder.search.strategies import COSTS, ERROR

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

    def page(self) -> Page:
        """Return the page."""
        seconds = duration(sum(trial.seconds for trial in self.trials))
        epochs = sum(trial.epochs for trial in self.trials)
        state = "finished" if self.genotype is not None else "not finished"
        pruned = len(self.trials) - len(self.complete)
        return Page(
            f"Search of {self.config.name}",
            f"{self.config.strategy} in the space {self.config.space}, seed {self.run['seed']}: "
            f"{state}, {len(self.trials)} of {self.config.trials.count} trials ({pruned} pruned), "
            f"{epochs} epochs in {seconds} of all workers",
            self._warnings(),
            self._sections(),
        )

    def _warnings(self) -> Iterator[str]:
        if self.genotype is None:
            yield "The search is not finished; this is its state so far."
        if not self.complete:
            yield "No trial is complete yet."
            return
        errors = {trial.error for trial in self.complete}
        if len(self.complete) > 1 and len(errors) == 1:
            yield "All complete trials have the same error: the search cannot distinguish them."
        elif min(errors) > 95:
            yield (
                f"The best error is {min(errors):.1f} %: no network has learned anything yet. More "
                "epochs, another learning rate or more data would be needed."
            )

    def _sections(self) -> Iterator[Section]:
        if self.genotype is not None:
            error = self.genotype.provenance["validation"]["token_error_rate"]
            yield genotype_section(
                f"Genotype {self.genotype.name}",
                self.genotype,
                f"Hash {self.genotype.hash}, error {error:.2f} %.",
            )
        if len(self.config.objectives) > 1 and self.complete:
            yield from self._front()
        if self.complete:
            yield history_picture(self.trials)
        if any(len(trial.errors) > 1 for trial in self.trials):
            yield curves_picture(self.trials)
        if self.trials:
            yield self._table()
        yield Section("What to run next", steps=list(self._next()))
        yield provenance_section(self.run)
        text = yaml.safe_dump(self.config.to_dict(), sort_keys=False)
        yield Section("Configuration", text=text)

    def _front(self) -> Iterator[Section]:
        names, front = self.config.objectives, front_of(self.trials)
        pictures = [front_picture(self.complete, front, name) for name in names if name != ERROR]
        yield from pictures[:-1]
        yield replace(
            pictures[-1],
            head=("", "trial", "genotype", *map(_title, names)),
            rows=[
                (
                    place,
                    trial.trial,
                    trial.genotype,
                    *(_figure(name, trial.value(name)) for name in names),
                )
                for place, trial in enumerate(front, 1)
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
            head=("trial", "state", "genotype", "error, %", "epochs", "time", *map(_title, costs)),
            rows=[
                (
                    trial.trial,
                    trial.state,
                    trial.genotype,
                    number(trial.error, 2),
                    trial.epochs,
                    duration(trial.seconds),
                    *(_figure(name, trial.costs.get(name)) for name in costs),
                )
                for trial in ranked[:_MOST]
            ],
        )

    def _next(self) -> Iterator[Step]:
        folder = self.folder.path
        if self.genotype is not None:
            yield show_step(folder)
        else:
            yield "Resume the search, or add a worker:", resume_command(folder, self.run)
        if (folder / STUDY).is_file():
            yield (
                "Browse all trials with optuna-dashboard (pip install optuna-dashboard):",
                f"optuna-dashboard {shlex.quote(self.folder.study_url)}",
            )


def history_picture(trials: Sequence[TrialRecord]) -> Section:
    """Draw each trial's error and the best so far."""
    figure, (axes,) = new_panels(3.2, "token error rate, %")
    best, course = float("inf"), []
    for trial in trials:
        best = min(best, trial.error) if trial.complete else best
        course.append(best if best < float("inf") else float("nan"))
    for state, colour in (("complete", _DONE), ("pruned", _PRUNED)):
        own = [(place, t.error) for place, t in enumerate(trials, 1) if t.state == state]
        if own:
            axes.plot(*zip(*own, strict=True), "o", ms=4, color=colour, label=state)
    axes.step(range(1, len(trials) + 1), course, where="post", color=_BEST, label="best so far")
    finish(axes, "trial, in the order in which they were finished")
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
    finish(axes, "epoch")
    return Section(
        "Epochs of the trials",
        "Blue: complete; grey: pruned because others were better after as many epochs.",
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
