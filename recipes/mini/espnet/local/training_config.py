"""Small changes to ESPnet's training configs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_encoder.errors import ConfigError

FEWEST_STEPS = 3


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``; mappings in both are merged, all else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def steps_in_epoch(utterances: int, batch_size: int) -> int:
    """Return the batches that ESPnet's ``batch_type: sorted`` makes of so many utterances."""
    return max(utterances // batch_size, 1)


def with_steps(config: Mapping[str, Any], epochs: int, steps: int) -> dict[str, Any]:
    """Return the config for so many epochs of so many steps, its schedule stretched to them.

    Raises:
        ConfigError: There are too few steps for a schedule.
    """
    total = epochs * steps
    if total < FEWEST_STEPS:
        raise ConfigError(
            "training",
            [f"needs at least {FEWEST_STEPS} steps in all, got {epochs} epochs of {steps}"],
        )
    schedule: dict[str, Any] = {"total_steps": total}
    if total < 10:
        # PyTorch's OneCycleLR divides by (pct_start * total_steps - 1).
        schedule["pct_start"] = 0.5
    return merge(
        config,
        {"max_epoch": epochs, "num_iters_per_epoch": steps, "scheduler_conf": schedule},
    )
