"""What training configs of both toolkits have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from nas_encoder.errors import ConfigError

FEWEST_STEPS = 3


class Schedule(Protocol):
    """How a toolkit's config gives the length of a training; a module can implement it."""

    def epochs_and_steps(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return the epochs and the steps per epoch."""

    def with_steps(self, config: Mapping[str, Any], epochs: int, steps: int) -> dict[str, Any]:
        """Return the config with this many epochs and steps per epoch, its schedule stretched."""


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``; mappings are merged, all else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def require_steps(epochs: int, steps: int) -> int:
    """Return the total number of steps.

    Raises:
        ConfigError: There are too few for a schedule.
    """
    if epochs * steps < FEWEST_STEPS:
        raise ConfigError(
            "training",
            [f"needs at least {FEWEST_STEPS} steps in all, got {epochs} epochs of {steps}"],
        )
    return epochs * steps
