"""The length of a training in the configs of both toolkits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_encoder.errors import ConfigError

FEWEST_STEPS = 3


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``base`` with ``changes``; mappings are merged, all else is replaced."""
    merged = dict(base)
    for key, value in changes.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), Mapping)
        merged[key] = merge(merged[key], value) if both else value
    return merged


def steps_in_epoch(utterances: int, batch_size: int) -> int:
    """Return the number of batches in which an utterance occurs once.

    ESPnet's ``batch_type: sorted`` makes as many; NeMo's loader makes another, smaller one.
    """
    return max(utterances // batch_size, 1)


@dataclass(frozen=True)
class Schedule:
    """How a toolkit's config gives the length of a training.

    Attributes:
        section: Section of the two options, if any.
        epochs: Option with the epochs.
        steps: Option with the steps per epoch.
        one_cycle: Whether the config repeats the length for PyTorch's OneCycleLR; NeMo's model
            derives it from the two options.
    """

    section: str | None
    epochs: str
    steps: str
    one_cycle: bool

    def epochs_and_steps(self, config: Mapping[str, Any]) -> tuple[int, int]:
        """Return the epochs and the steps per epoch."""
        options = config[self.section] if self.section else config
        return options[self.epochs], options[self.steps]

    def with_steps(self, config: Mapping[str, Any], epochs: int, steps: int) -> dict[str, Any]:
        """Return the config with this many epochs and steps per epoch, its schedule stretched.

        Raises:
            ConfigError: There are too few steps for a schedule.
        """
        total = epochs * steps
        if total < FEWEST_STEPS:
            rule = f"needs at least {FEWEST_STEPS} steps in all, got {epochs} epochs of {steps}"
            raise ConfigError("training", [rule])
        changes: dict[str, Any] = {self.epochs: epochs, self.steps: steps}
        if self.section:
            changes = {self.section: changes}
        if self.one_cycle:
            # OneCycleLR divides by (pct_start * total_steps - 1).
            short = {"pct_start": 0.5} if total < 10 else {}
            changes["scheduler_conf"] = {"total_steps": total, **short}
        return merge(config, changes)


SCHEDULES = {
    "espnet": Schedule(None, "max_epoch", "num_iters_per_epoch", one_cycle=True),
    "nemo": Schedule("trainer", "max_epochs", "limit_train_batches", one_cycle=False),
}
