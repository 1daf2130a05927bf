"""The one training loop: epochs of steps, resumable between any two of them.

It is Lightning Fabric's kind (our own control flow; its devices, precision and backward): a
search rebuilds its network between stages and moves two sets of parameters on two streams of
data, which a Trainer's fit has no room for.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

import torch

from nas_encoder.data import Batch
from nas_encoder.training.devices import any_process, of_all_processes
from nas_encoder.training.diverged import require_finite
from nas_encoder.training.random_state import random_state, set_random_state
from nas_encoder.training.steps import WeightSteps

P = TypeVar("P", bound="Position")
State = dict[str, Any]


@dataclass
class Position:
    """Where a training is: everything up to this step is done.

    Attributes:
        epoch: Counted from 0.
        step: Batches of the epoch.
        sums: What the epoch's steps add up, such as ``loss`` and ``steps``.
        seconds: Spent in the epoch.
    """

    epoch: int = 0
    step: int = 0
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0

    @classmethod
    def from_dict(cls: type[P], values: Mapping[str, Any]) -> P:
        """Read what a checkpoint holds."""
        names = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in names})

    def mean(self, name: str, count: str) -> float | None:
        """Return a sum over a count; None where nothing was counted."""
        count_ = self.sums.get(count, 0.0)
        return self.sums[name] / count_ if count_ else None


class Trainer:
    """Epochs of steps on one network.

    Args:
        steps: The network and how it moves.
        epochs: To run.
        batches: Batches of an epoch from the n-th on.
        rate: Learning rate at a position.
        accumulate: Batches whose gradients are added up for one step.
        seed: Of the random numbers of an epoch; None: they go on from epoch to epoch.
        save: Writes a checkpoint; None for none.
        save_seconds: Time between two of them within an epoch.
        epoch_seconds: Likewise at the end of epochs; 0 for one after each.
        show: Called after each step with its batches.
        position: Where to begin.
        where: What the epochs are part of, for errors, such as ``" of stage 1"``.

    """

    def __init__(
        self,
        steps: WeightSteps,
        epochs: int,
        batches: Callable[[int, int], Iterator[Batch]],
        rate: Callable[[Any], float],
        *,
        accumulate: int = 1,
        seed: Callable[[int], int] | None = None,
        save: Callable[[State], None] | None = None,
        save_seconds: float = float("inf"),
        epoch_seconds: float = 0.0,
        show: Callable[[int], None] = lambda batches: None,
        position: Position | None = None,
        where: str = "",
    ) -> None:
        self.steps, self.fabric = steps, steps.fabric
        self.epochs, self.batches, self.rate = epochs, batches, rate
        self.accumulate, self.seed, self.where = accumulate, seed, where
        self._write, self.save_seconds, self.epoch_seconds = save, save_seconds, epoch_seconds
        self._show = show
        self.position = position or Position()
        self._last_group: list[Batch] = []
        self._saved = time.monotonic()

    # -- what more a training may do ----------------------------------------------------------

    @property
    def stopped(self) -> bool:
        """Whether no further epoch is to come."""
        return False

    def begin_epoch(self) -> None:
        """Prepare the epoch at the present position."""

    def step(self, group: list[Batch], lr: float) -> dict[str, float]:
        """Take a step on a group of batches; return what is added to the epoch's sums."""
        return {"loss": self.steps.weight_step(group, lr), "steps": 1}

    # -- the loop -----------------------------------------------------------------------------

    def run(self) -> Iterator[Any]:
        """Yield the position after the last step of each epoch.

        What the caller does before the next one belongs to the epoch, such as scoring: the
        checkpoint is written afterwards.

        Raises:
            DivergedError: The loss or a weight is NaN or infinite.
        """
        while self.position.epoch < self.epochs and not self.stopped:
            self._epoch()
            self.require_finite()
            yield self.position
            self.position = replace(
                self.position, epoch=self.position.epoch + 1, step=0, sums={}, seconds=0.0
            )
            due = time.monotonic() - self._saved >= self.epoch_seconds
            if any_process(self.fabric, due):
                self.save()

    def _epoch(self) -> None:
        position = self.position
        began = time.monotonic() - position.seconds
        if self.seed is not None and not position.step:
            torch.manual_seed(self.seed(position.epoch))
        self.begin_epoch()
        for group in self._groups(self.batches(position.epoch, position.step)):
            for name, value in self.step(group, self.rate(position)).items():
                position.sums[name] = position.sums.get(name, 0.0) + value
            self._last_group = group
            position.step += len(group)
            position.seconds = time.monotonic() - began
            self._show(len(group))
            overdue = time.monotonic() - self._saved > self.save_seconds
            if any_process(self.fabric, overdue):
                self.save()

    def _groups(self, batches: Iterator[Batch]) -> Iterator[list[Batch]]:
        """Yield, on the device, the batches of one step."""
        while group := list(itertools.islice(batches, self.accumulate)):
            yield [self.on_device(batch) for batch in group]

    def on_device(self, batch: Batch) -> Batch:
        """Return a batch on the device."""
        return batch.to(self.fabric.device, non_blocking=True)

    # -- checkpoints --------------------------------------------------------------------------

    def require_finite(self) -> None:
        """Stop before a checkpoint or an epoch's record holds what the last step has ruined."""
        if self._last_group:
            now = self.position
            place = f"step {now.step} of epoch {now.epoch + 1}{self.where}"
            require_finite(self.fabric, self.steps.modules, self._last_group[-1], place)

    def save(self) -> None:
        """Write a checkpoint."""
        if self._write is None:
            return
        self.require_finite()
        self._write(self.state())
        self._saved = time.monotonic()

    def state(self) -> State:
        """Return what a training goes on from."""
        return {
            "position": asdict(self.position),
            "network": self.steps.network.state_dict(),
            "weights_optimizer": self.steps.optimizer.state_dict(),
            "random": of_all_processes(self.fabric, random_state()),
        }

    def restore(self, state: State) -> None:
        """Go on from what :meth:`state` returned."""
        self.position = type(self.position).from_dict(state["position"])
        self.steps.network.load_state_dict(state["network"])
        self.steps.optimizer.load_state_dict(state["weights_optimizer"])
        rank = self.fabric.global_rank
        if rank < len(state["random"]):
            set_random_state(state["random"][rank])
