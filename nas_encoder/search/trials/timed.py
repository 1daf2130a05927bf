"""Trainings that end when their time is spent, so that all trials get the same."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from nas_encoder.data import AsrLoader, Batch
from nas_encoder.deploy.timing import Clock, quiet_clock
from nas_encoder.training.loaders import epoch_of
from nas_encoder.training.steps import WeightSteps
from nas_encoder.training.trainer import Trainer


def clock_name(device: torch.device) -> str:
    """Return what the clock of trainings counts: with one CPU thread the time of the process."""
    process = quiet_clock(device) is time.process_time
    return "CPU seconds of the process" if process else "wall seconds"


class TimedBatches:
    """The batches of epoch after epoch, for a training that may take a given time.

    What a training step takes is counted, from when it gets its batches until it asks for the next
    ones. Preparing batches is not counted, since features are computed only once for all trials;
    nor is scoring.

    Args:
        loader: The training data.
        seconds: The time.
        shares: Ascending shares of it, the last of which is 1; each ends a part.
        accumulate: Batches of a step.
        clock: The clock.

    Attributes:
        spent: Seconds counted so far.
        epochs: Epochs completed so far.
    """

    def __init__(
        self,
        loader: AsrLoader,
        seconds: float,
        shares: Sequence[float],
        accumulate: int,
        clock: Clock,
    ) -> None:
        self.seconds, self.spent, self.epochs = seconds, 0.0, 0
        self._loader, self._shares, self._accumulate = loader, shares, accumulate
        self._clock = clock
        self._stream = self._endless()

    @property
    def progress(self) -> float:
        """The share of the time that is spent, at most 1."""
        return min(1.0, self.spent / self.seconds)

    def part(self, number: int, start: int = 0) -> Iterator[Batch]:
        """Yield the next batches until the n-th share is spent; ``start`` is not used."""
        while self.spent < self._shares[number] * self.seconds:
            for batch in itertools.islice(self._stream, self._accumulate):
                began = self._clock()
                yield batch
                self.spent += self._clock() - began

    def _endless(self) -> Iterator[Batch]:
        for epoch in itertools.count():
            yield from epoch_of(self._loader, epoch)
            self.epochs = epoch + 1


def timed_scores(
    batches: TimedBatches,
    steps: WeightSteps,
    shares: int,
    rate: Callable[[float], float],
    accumulate: int,
    seed: Callable[[int], int],
    score: Callable[[], float],
) -> Iterator[float]:
    """Train; yield the score at the end of each share of the time.

    Args:
        batches: The batches, and the time.
        steps: The network and its steps.
        shares: Number of shares.
        rate: Share of the time that is spent -> learning rate.
        accumulate: Batches of a step.
        seed: Seed of each part.
        score: Scores the network.

    Raises:
        DivergedError: The loss or a weight is NaN or infinite.
    """
    trainer = Trainer(
        steps,
        shares,
        batches.part,
        lambda position: rate(batches.progress),
        accumulate=accumulate,
        seed=seed,
    )
    found = 0.0
    for number, position in enumerate(trainer.run()):
        if position.step or not number:  # a step can take longer than a share
            found = score()
        yield found
