"""What a gradient search runs on, and where it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from nas_encoder.data import AsrLoader


@dataclass
class Streams:
    """The data of a search.

    Attributes:
        weights: Batches that the weights learn from.
        architecture: Batches that the architecture learns from.
        score: Batches that the score is measured on.
        vocabulary: V, tokens with the blank.
        retrain: Batches of all training data, for a stage of phase ``retrain``.
    """

    weights: AsrLoader
    architecture: AsrLoader
    score: AsrLoader
    vocabulary: int
    retrain: AsrLoader | None = None


@dataclass
class Position:
    """Where the loop is: everything up to this step is done."""

    stage: int = 0
    epoch: int = 0
    step: int = 0
    architecture_batches: int = 0  # drawn so far in this stage
    sums: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(
            ("loss", "steps", "arch_loss", "arch_steps", "penalty"), 0.0
        )
    )
    seconds: float = 0.0  # spent in this epoch
    watch: dict[str, Any] = field(default_factory=dict)  # of early stopping, see Watch


# Called after each epoch with the row for metrics.jsonl and the architecture derived.
EpochEnd = Callable[[dict[str, Any], Any], None]
