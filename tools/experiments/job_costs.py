"""What a search or a training costs over all its sessions, and how far it is."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError

_STARTED = re.compile(r"INFO: (\d+)/(\d+)epoch started")
_RESULTS = re.compile(r"INFO: (\d+)epoch results: .*?\[valid\].*?(cer_ctc|val_wer)=([0-9.]+|nan)")
_NAMES = {"cer_ctc": "CER", "val_wer": "error rate"}  # NeMo calls that of any unit val_wer
_PERCENT = re.compile(r"(\d+)%\|")  # a tqdm bar


def costs_path(expdir: Path, job: str) -> Path:
    """Return the file of a job such as ``train/epochs/searched``."""
    return expdir / "costs" / f"{job}.json"


def read_costs(expdir: Path, job: str) -> dict[str, Any]:
    """Return what :mod:`tools.experiments.resumable` wrote at the end of the job."""
    found: dict[str, Any] = json.loads(costs_path(expdir, job).read_text(encoding="utf-8"))
    return found


def training_seconds(costs: Mapping[str, Any], epochs: int, clock: str = "cpu") -> float:
    """Return the ``"cpu"`` or ``"wall"`` seconds of all epochs.

    An epoch whose end was not recorded, because everything was killed at that moment, counts as
    the mean of the others; it is a DataError if no epoch was timed.
    """
    timed = [cost[clock] for epoch, cost in costs["epochs"].items() if int(epoch) <= epochs]
    if not timed:
        raise DataError(f"costs of '{costs['job']}'", ["hold no time of any epoch"])
    return float(sum(timed) * epochs / len(timed))


class Progress:
    """One session of a job; it understands ESPnet's lines about epochs and tqdm's bars.

    Args:
        epochs: Costs of the epochs of earlier sessions, ``{epoch: {"cpu": s, "wall": s}}``, to
            which new ones are added. An epoch that is repeated, because a killed training resumed
            from an earlier checkpoint, counts once, with its last costs.
    """

    def __init__(self, epochs: dict[str, dict[str, float]]) -> None:
        self.epochs = epochs
        self.begun = False
        self._last = 0
        self._walls: list[float] = []  # of this session's epochs
        self._cpu = self._wall = 0.0  # when the running epoch started

    def line(self, text: str, cpu: float, wall: float) -> str:
        """Return what a line says about the progress, or an empty string.

        Args:
            text: The line, without its line break.
            cpu: CPU seconds that the process has used so far.
            wall: Seconds since its start.
        """
        if found := _STARTED.search(text):
            if not self._last:
                self._cpu, self._wall = cpu, wall
            self._last, self.begun = int(found[2]), True
            return f"epoch {found[1]}/{found[2]} began"
        if found := _RESULTS.search(text):
            epoch, rate = int(found[1]), float(found[3])
            self.epochs[str(epoch)] = {"cpu": cpu - self._cpu, "wall": wall - self._wall}
            self._walls.append(wall - self._wall)
            self._cpu, self._wall = cpu, wall
            each = sum(self._walls) / len(self._walls)
            left = each * (self._last - epoch) / 60
            return (
                f"epoch {epoch}/{self._last}, {each:.1f} s each, {left:.1f} min left, "
                f"valid {_NAMES[found[2]]} {100 * rate:.1f} %"
            )
        if found := _PERCENT.search(text):
            self.begun = True
            return f"{found[1]} %"
        return ""
