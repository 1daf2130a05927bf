"""What a job that can be resumed has cost: all its sessions, and every epoch of a training."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError


def costs_path(expdir: Path, job: str) -> Path:
    """Return the file of a job, for example of ``train/epochs/searched``."""
    return expdir / "costs" / f"{job}.json"


def read_costs(expdir: Path, job: str) -> dict[str, Any]:
    """Return what :mod:`tools.experiments.resumable` wrote when the job was done.

    Raises:
        DataError: The job is not done.
    """
    path = costs_path(expdir, job)
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(str(path), [f"must hold the costs of '{job}': {error}"]) from None
    return found


def training_seconds(costs: Mapping[str, Any], epochs: int, clock: str = "cpu") -> float:
    """Return the seconds of all epochs of a training, without its start.

    An epoch whose end nobody saw, because everything was killed in that moment, counts as the
    mean of the others.

    Args:
        costs: From :func:`read_costs`.
        epochs: How many there are.
        clock: ``"cpu"`` or ``"wall"``.

    Raises:
        DataError: No epoch was timed.
    """
    timed = [cost[clock] for epoch, cost in costs["epochs"].items() if int(epoch) <= epochs]
    if not timed:
        raise DataError(f"costs of '{costs['job']}'", ["hold no time of any epoch"])
    return float(sum(timed) * epochs / len(timed))
