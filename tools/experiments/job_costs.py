"""What a search or a training has cost over all its sessions."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError


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
    the mean of the others.

    Raises:
        DataError: No epoch was timed.
    """
    timed = [cost[clock] for epoch, cost in costs["epochs"].items() if int(epoch) <= epochs]
    if not timed:
        raise DataError(f"costs of '{costs['job']}'", ["hold no time of any epoch"])
    return float(sum(timed) * epochs / len(timed))
