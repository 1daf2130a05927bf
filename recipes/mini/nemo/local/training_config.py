"""The length of a training in NeMo's configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tools.experiments.schedules import merge, require_steps


def epochs_and_steps(config: Mapping[str, Any]) -> tuple[int, int]:
    """Return the epochs and the steps per epoch."""
    trainer = config["trainer"]
    return trainer["max_epochs"], trainer["limit_train_batches"]


def with_steps(config: Mapping[str, Any], epochs: int, steps: int) -> dict[str, Any]:
    """Return the config with this many epochs and steps per epoch.

    NeMo's model derives the length of its learning-rate schedule from these two.

    Raises:
        ConfigError: There are too few steps for a schedule.
    """
    require_steps(epochs, steps)
    return merge(config, {"trainer": {"max_epochs": epochs, "limit_train_batches": steps}})
