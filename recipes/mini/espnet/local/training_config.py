"""How long a training is, in ESPnet's configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.experiments.schedules import merge, require_steps


def steps_in_epoch(utterances: int, batch_size: int) -> int:
    """Return the batches that ESPnet's ``batch_type: sorted`` makes of so many utterances."""
    return max(utterances // batch_size, 1)


def epochs_and_steps(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epochs, and the steps of each."""
    return config["max_epoch"], config["num_iters_per_epoch"]


def with_steps(config: Mapping[str, Any], epochs: int, steps: int) -> dict[str, Any]:
    """Return the config for so many epochs of so many steps, its schedule stretched to them.

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
