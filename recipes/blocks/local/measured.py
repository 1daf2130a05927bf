"""What a run's folder holds so far, of trainings and of the random search."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder, open_folder
from nas_encoder.search.records import TrialRecord
from recipes.blocks.local.plan import RANDOM, Plan
from tools.results.scoring import read_transcripts, score


def read_json(path: Path) -> Any:
    """Return the content of a file; None if it is not there."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


class Measured:
    """What a run's folder holds so far of one corpus."""

    def __init__(self, expdir: Path, plan: Plan, corpus: str) -> None:
        self.expdir, self.plan, self.corpus = expdir, plan, corpus
        self.full = float(plan.options["seconds"])

    def result(self, name: str, rate: str = "", seed: str = "") -> dict[str, Any] | None:
        """Return what a training in full wrote; None if it is not finished."""
        path = self.folder("models", name, rate, seed, "result.json")
        found: dict[str, Any] | None = read_json(path)
        return found

    def folder(self, kind: str, name: str, rate: str, seed: str, file: str) -> Path:
        """Return a file of an encoder trained for the time, by default as random points are."""
        rate, seed = rate or str(self.plan.options["draw_rate"]), seed or self.plan.seeds[0]
        return self.expdir / kind / self.corpus / "time" / name / rate / seed / file

    def test_error(self, name: str, rate: str = "", seed: str = "") -> float | None:
        """Return the error on the test set, in %; None if it is not decoded."""
        text = self.folder("decode", name, rate, seed, "text")
        if not text.is_file():
            return None
        unit = self.plan.corpora[self.corpus]["unit"]
        return 100 * score(self._reference, read_transcripts(text), unit).rate

    @cached_property
    def _reference(self) -> Mapping[str, str]:
        data = Path(self.plan.options["datadir"], self.plan.folders[self.corpus])
        return read_transcripts(data / "espnet" / "test" / "text")

    def trials(self) -> tuple[list[TrialRecord], list[float]]:
        """Return the trials of the random search as they were drawn, and when they were scored."""
        path = self.expdir / "search" / RANDOM / self.corpus
        if not RunFolder(path).metrics.is_file():
            return [], []
        folder = open_folder(path)
        training = folder.config(TrialsConfig).training
        times = [share * (training.seconds or 0.0) for share in training.evaluate_at]
        complete = [t for t in folder.records(TrialRecord) if t.complete]
        return sorted(complete, key=lambda trial: trial.number), times
