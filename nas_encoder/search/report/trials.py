"""The report of a search by trials: history, front, genotype; from the run folder alone."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import TITLES, UNITS
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import STUDY, RunFolder
from nas_encoder.search.records import TrialRecord, front_of
from nas_encoder.search.report.page import (
    commands,
    document,
    duration,
    escape,
    image,
    number,
    section,
    table,
)
from nas_encoder.search.report.pictures import Picture, new_figure, to_png
from nas_encoder.search.strategies import COSTS, ERROR, STRATEGIES
from nas_encoder.spaces.picture import architecture_lines, draw

logger = logging.getLogger(__name__)

_MOST = 200  # rows of the table of trials


def is_of_trials(folder: RunFolder) -> bool:
    """Return whether a run folder is of a search by trials."""
    path = folder.path / "config.yaml"
    found = read_yaml(path, CheckpointError) if path.is_file() else None
    return isinstance(found, Mapping) and found.get("strategy") in STRATEGIES


def write_trials_report(folder: RunFolder) -> Path | None:
    """Write report.html at the end of a search, which never dies because of it."""
    from nas_encoder.search.report.build import write_report

    return write_report(folder)


class TrialsReport:
    """What is in the run folder of a search by trials, and its HTML.

    Raises:
        CheckpointError: A file in the folder is damaged.
    """

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.run = folder.run()
        path = folder.path / "config.yaml"
        self.config = TrialsConfig.from_dict(read_yaml(path, CheckpointError), str(path))
        self.rows = folder.trials()
        self.genotype: Genotype | None = folder.result()
        self.complete = [row for row in self.rows if row.complete]

    def html(self) -> str:
        """Return the whole document."""
        title = f"Search of {self.config.name}"
        front = front_of(self.rows) if len(self.config.objectives) > 1 else []
        return document(
            title,
            [
                f"<h1>{escape(title)}</h1>",
                f'<p class="sub">{escape(self._state())}</p>',
                *(f'<p class="warn">{escape(text)}</p>' for text in self._warnings()),
                *self._result(),
                *self._front(front),
                *(section(p.title, p.text, p.png) for p in self._courses()),
                *self._trials(),
                *commands("What to run next", self._next()),
                "<h2>Provenance</h2>",
                table(("", ""), [(k, "" if v is None else v) for k, v in self.run.items()]),
                "<h2>Configuration</h2>",
                f"<pre>{escape(yaml.safe_dump(self.config.to_dict(), sort_keys=False))}</pre>",
            ],
        )

    def _state(self) -> str:
        seconds = sum(row.seconds for row in self.rows)
        epochs = sum(row.epochs for row in self.rows)
        state = "finished" if self.genotype is not None else "not finished"
        pruned = len(self.rows) - len(self.complete)
        return (
            f"{self.config.strategy} in the space {self.config.space}, seed {self.run['seed']}: "
            f"{state}, {len(self.rows)} of {self.config.trials.count} trials ({pruned} pruned), "
            f"{epochs} epochs in {duration(seconds)} of all workers"
        )

    def _warnings(self) -> Iterator[str]:
        if self.genotype is None:
            yield "The search is not finished; what follows is the state so far."
        if not self.complete:
            yield "No trial is complete yet."
            return
        errors = {row.error for row in self.complete}
        if len(self.complete) > 1 and len(errors) == 1:
            yield "All complete trials have the same error: the trials tell nothing apart."
        elif min(errors) > 95:
            yield (
                f"The best error is {min(errors):.1f} %: no network has learned anything yet. More "
                "epochs, another learning rate or more data would be needed."
            )

    def _result(self) -> list[str]:
        if self.genotype is None:
            return []
        lines = "\n".join(architecture_lines(self.genotype))
        validation = self.genotype.provenance["validation"]
        text = f"Hash {self.genotype.hash}, error {validation['token_error_rate']:.2f} %."
        return [
            f"<h2>Genotype {escape(self.genotype.name)}</h2>",
            f'<p class="note">{escape(text)}</p>',
            image(to_png(draw(self.genotype)), "the genotype"),
            f"<pre>{escape(lines)}</pre>",
        ]

    def _front(self, front: Sequence[TrialRecord]) -> Iterator[str]:
        if not front:
            return
        costs = [name for name in self.config.objectives if name != ERROR]
        for cost in costs:
            picture = front_picture(self.complete, front, cost)
            yield section(picture.title, picture.text, picture.png)
        lines = [
            (
                f"{place}",
                row.trial,
                row.genotype,
                *(_figure(name, row.value(name)) for name in self.config.objectives),
            )
            for place, row in enumerate(front, 1)
        ]
        yield table(("", "trial", "genotype", *map(_title, self.config.objectives)), lines)

    def _courses(self) -> Iterator[Picture]:
        if self.complete:
            yield history_picture(self.rows)
        if any(len(row.errors) > 1 for row in self.rows):
            yield curves_picture(self.rows)

    def _trials(self) -> list[str]:
        if not self.rows:
            return []
        costs = [name for name in COSTS if any(name in row.costs for row in self.rows)]
        head = ("trial", "state", "genotype", "error, %", "epochs", "time", *map(_title, costs))
        ranked = sorted(self.rows, key=lambda row: (not row.complete, row.error))
        lines = [
            (
                row.trial,
                row.state,
                row.genotype,
                number(row.error, 2),
                row.epochs,
                duration(row.seconds),
                *(_figure(name, row.costs.get(name)) for name in costs),
            )
            for row in ranked[:_MOST]
        ]
        left = len(ranked) - len(lines)
        text = "The best first; pruned ones, whose errors are of fewer epochs, last."
        if left:
            text += f" {left} more are in metrics.jsonl."
        return ["<h2>Trials</h2>", f'<p class="note">{escape(text)}</p>', table(head, lines)]

    def _next(self) -> Iterator[tuple[str, str]]:
        folder = self.folder.path
        if self.genotype is not None:
            yield (
                "Look at the genotype and at what the network costs:",
                f"nas-encoder show {shlex.quote(str(folder))}/genotype.yaml --plot cells.svg",
            )
        else:
            words = ["nas-encoder", "search", "--config", f"{folder}/config.yaml"]
            for name in ("train", "valid"):
                if self.run.get(name):
                    words += [f"--{name}", str(self.run[name])]
            words += ["--output", str(folder), "--seed", str(self.run["seed"]), "--resume"]
            yield ("Go on, or add a worker:", shlex.join(words))
        if (folder / STUDY).is_file():
            yield (
                "Browse all trials with optuna-dashboard (pip install optuna-dashboard):",
                f"optuna-dashboard sqlite:///{folder / STUDY}",
            )


def history_picture(rows: Sequence[TrialRecord]) -> Picture:
    """Draw each trial's error and the best so far."""
    figure = new_figure(3.2)
    axes = figure.subplots()
    best, course = float("inf"), []
    for row in rows:
        if row.complete:
            best = min(best, row.error)
        course.append(best if best < float("inf") else float("nan"))
    for state, colour in (("complete", "#0072b2"), ("pruned", "#9a9a9a")):
        own = [(place, row.error) for place, row in enumerate(rows, 1) if row.state == state]
        if own:
            axes.plot(*zip(*own, strict=True), "o", ms=4, color=colour, label=state)
    axes.step(range(1, len(rows) + 1), course, where="post", color="#d55e00", label="best so far")
    axes.set_xlabel("trial, in the order in which they were finished", fontsize=9)
    axes.set_ylabel("token error rate, %", fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return Picture(
        "Search history",
        "The lowest token error rate of each trial on the validation data. Pruned trials were "
        "trained for fewer epochs.",
        to_png(figure),
    )


def curves_picture(rows: Sequence[TrialRecord]) -> Picture:
    """Draw the error of each trial over its epochs."""
    figure = new_figure(3.2)
    axes = figure.subplots()
    for row in rows:
        colour = "#0072b2" if row.complete else "#9a9a9a"
        axes.plot(
            range(1, len(row.errors) + 1), row.errors, "-o", ms=2.5, lw=0.8, color=colour, alpha=0.6
        )
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel("lowest error so far, %", fontsize=9)
    axes.grid(alpha=0.25)
    return Picture(
        "Epochs of the trials",
        "Blue: complete; grey: pruned because others were better after as many epochs.",
        to_png(figure),
    )


def front_picture(rows: Sequence[TrialRecord], front: Sequence[TrialRecord], cost: str) -> Picture:
    """Draw errors against a cost, and the front."""
    figure = new_figure(3.6)
    axes = figure.subplots()
    _, factor = UNITS[cost]
    axes.plot(
        [factor * row.value(cost) for row in rows],
        [row.error for row in rows],
        "o",
        ms=4,
        color="#9a9a9a",
        label="trials",
    )
    ordered = sorted(front, key=lambda row: row.value(cost))
    axes.plot(
        [factor * row.value(cost) for row in ordered],
        [row.error for row in ordered],
        "-o",
        drawstyle="steps-post",
        ms=5,
        color="#d55e00",
        label="Pareto front",
    )
    axes.set_xlabel(_title(cost), fontsize=9)
    axes.set_ylabel(_title(ERROR), fontsize=9)
    axes.grid(alpha=0.25)
    axes.legend(fontsize=8)
    return Picture(
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
    return number(value, 2) if name == ERROR else f"{UNITS[name][1] * value:.4g}"
