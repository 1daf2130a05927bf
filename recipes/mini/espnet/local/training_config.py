"""The length of a training in ESPnet's configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.experiments.schedules import merge, require_steps


def steps_in_epoch(utterances: int, batch_size: int) -> int:
    """Return the number of batches that ESPnet's ``batch_type: sorted`` makes of an epoch."""
    return max(utterances // batch_size, 1)


def epochs_and_steps(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epochs and the steps per epoch."""
    return config["max_epoch"], config["num_iters_per_epoch"]


def with_steps(config: Mapping[str, Any], epochs: int, steps: int) -> dict[str, Any]:
    """Return the config with this many epochs and steps per epoch and its schedule stretched.

    Raises:
        ConfigError: There are too few steps for a schedule.
    """
    total = require_steps(epochs, steps)
    schedule: dict[str, Any] = {"total_steps": total}
    if total < 10:
        # PyTorch's OneCycleLR divides by (pct_start * total_steps - 1).
        schedule["pct_start"] = 0.5
    return merge(
        config,
        {"max_epoch": epochs, "num_iters_per_epoch": steps, "scheduler_conf": schedule},
    )
