"""Reads what the trainings, decodings and measurements left: one row for each encoder."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError
from recipes.blocks.local.encoders import CELLS, CHANCE, NARROWED, PEER, SEARCHED
from recipes.blocks.local.plan import Plan
from tools.results.bootstrap import Interval, rate_interval
from tools.results.matched_pairs import pooled
from tools.results.scoring import Score, read_transcripts, score

WORDS = {
    SEARCHED: "searched",
    CHANCE: "random search",
    CELLS: "searched cells",
    PEER: "as shipped",
    NARROWED: "narrowed",
}


@dataclass(frozen=True)
class Row:
    """An encoder on a corpus under a condition.

    Attributes:
        name: Its name in the list.
        title: Its name in tables.
        role: See :class:`~recipes.blocks.local.encoders.Encoder`.
        rate: Peak learning rate, as in paths.
        results: ``result.json`` of each seed.
        scores: Test errors of each seed.
        ms: Latency of 10 s.
        at_the_end: Whether the rate is the lowest or the highest that was tried.
    """

    name: str
    title: str
    role: str
    rate: str
    results: Sequence[Mapping[str, Any]]
    scores: Sequence[Score]
    ms: float
    at_the_end: bool = False

    @property
    def pooled(self) -> Score:
        """The errors of all seeds together."""
        return pooled(self.scores)

    @property
    def errors(self) -> list[float]:
        """Error of each seed, in %."""
        return [100 * score.rate for score in self.scores]

    def interval(self, seed: int) -> Interval:
        """Return the error of all seeds together with its bootstrap interval."""
        return rate_interval(self.pooled, seed)

    def mean(self, key: str) -> float:
        """Return the mean of a number of the trainings."""
        return statistics.fmean(float(result[key]) for result in self.results)

    def to_dict(self, seed: int) -> dict[str, Any]:
        """Return everything as plain values; errors in %."""
        found = self.interval(seed)
        return {
            "name": self.name,
            "title": self.title,
            "role": self.role,
            "peak": self.rate,
            "peak_at_the_end_of_the_grid": self.at_the_end,
            "error": 100 * found.estimate,
            "interval": [100 * found.low, 100 * found.high],
            "errors": self.errors,
            "latency_ms": self.ms,
            "parameters": self.results[0]["encoder_parameters"],
            "macs_10s": self.results[0]["macs_10s"],
            "epochs": self.mean("epochs"),
            "steps": self.mean("steps"),
            "training_seconds": self.mean("seconds"),
            "diverged": [result["diverged"] for result in self.results],
            "valid_errors": [result["valid_error"] for result in self.results],
        }


class Reader:
    """Reads the files below a folder of experiments."""

    def __init__(self, expdir: Path, plan: Plan) -> None:
        self.expdir, self.plan = expdir, plan
        self.latency = self._json("latency.json")
        self._references: dict[str, dict[str, str]] = {}

    def _json(self, path: str) -> Any:
        file = self.expdir / path
        if not file.is_file():
            raise DataError(str(file), ["is not there"])
        return json.loads(file.read_text(encoding="utf-8"))

    def reference(self, corpus: str) -> dict[str, str]:
        """Return the transcripts of a test set."""
        if corpus not in self._references:
            data = Path(self.plan.options["datadir"], self.plan.folders[corpus])
            self._references[corpus] = read_transcripts(data / "espnet" / "test" / "text")
        return self._references[corpus]

    def rows(self, corpus: str, condition: str) -> list[Row]:
        """Return the tuned encoders of a corpus, by error."""
        found = []
        for own, kind, name in self.plan.tuned_runs():
            if (own, kind) != (corpus, condition):
                continue
            choice = self.plan.last_choice(self.expdir, corpus, name)
            rate = self.plan.rate_in(choice)
            end = bool(self._json(str(choice.relative_to(self.expdir)))["at_the_end"])
            found.append(self._row(corpus, condition, name, rate, self.plan.seeds, end))
        return sorted(found, key=lambda row: row.pooled.rate)

    def untuned(self, corpus: str) -> Iterator[Row]:
        """Yield the encoders of a corpus that were trained at the rate of random points."""
        grouped: dict[str, list[str]] = {}
        for run in self.plan.untuned_runs():
            if run["corpus"] == corpus:
                grouped.setdefault(run["encoder"], []).append(run["seed"])
        for name, seeds in grouped.items():
            yield self._row(corpus, "time", name, str(self.plan.options["draw_rate"]), seeds)

    def _row(
        self,
        corpus: str,
        condition: str,
        name: str,
        rate: str,
        seeds: Sequence[str],
        at_the_end: bool = False,
    ) -> Row:
        results, scores = [], []
        for seed in seeds:
            run = f"{corpus}/{condition}/{name}/{rate}/{seed}"
            results.append(self._json(f"models/{run}/result.json"))
            text = read_transcripts(self.expdir / "decode" / run / "text")
            unit = self.plan.corpora[corpus]["unit"]
            scores.append(score(self.reference(corpus), text, unit))
        title, role = results[0]["title"], results[0]["role"]
        ms = float(self.latency["ms"][f"{corpus}/{name}"]["ms"])
        return Row(name, title, role, rate, results, scores, ms, at_the_end)
