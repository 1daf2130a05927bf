"""What a gradient search runs on, and where it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from nas_encoder.data import AsrLoader, Batch
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.records import EpochRecord


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
    _counts: dict[int, int] = field(default_factory=dict, repr=False)

    def of_stage(self, stage: StageConfig) -> AsrLoader:
        """Return what the weights of a stage learn from."""
        if stage.phase == "retrain" and self.retrain is not None:
            return self.retrain
        return self.weights

    def architecture_from(self, stage: int, done: int) -> Iterator[Batch]:
        """Yield the architecture's batches of a stage, epoch after epoch of its own.

        Args:
            stage: From 0.
            done: Batches of the stage that are not to come again.
        """
        base, epoch = 10_000 * (stage + 1), 0
        while done >= (count := self._count(base + epoch)):
            epoch, done = epoch + 1, done - count
        while True:
            self.architecture.set_epoch(base + epoch)
            yield from self.architecture.iterate(start=done)
            epoch, done = epoch + 1, 0

    def _count(self, epoch: int) -> int:
        """Return the batches of an epoch; planning one takes time, so each is planned once."""
        if epoch not in self._counts:
            self._counts[epoch] = self.architecture.num_batches(epoch)
        return self._counts[epoch]


# Called after each epoch with its record and the architecture derived.
EpochEnd = Callable[[EpochRecord, Any], None]
