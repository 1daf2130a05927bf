"""The one training loop: epochs of steps, resumable between any two of them.

It uses Lightning Fabric (our own control flow; its devices, precision and backward), because a
search rebuilds its network between stages and trains two sets of parameters on two streams of
data, which a Trainer's fit does not allow.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, TypeVar

import torch

from nas_encoder.data import Batch
from nas_encoder.errors import StoppedError
from nas_encoder.training.config import StopConfig
from nas_encoder.training.devices import any_process, of_all_processes
from nas_encoder.training.diverged import require_finite
from nas_encoder.training.random_state import random_state, set_random_state
from nas_encoder.training.steps import WeightSteps
from nas_encoder.training.stopping import deferred, requested

P = TypeVar("P", bound="Position")
State = dict[str, Any]


@dataclass
class EarlyStopping:
    """The state of early stopping by :class:`StopConfig`; plain values, for checkpoints."""

    best: float | None = None  # lowest validation loss that counted, in nats per utterance
    since: int = 0  # epochs without gain since then
    decays: int = 0  # number of decays of the learning rate
    stopped: bool = False  # whether the stage is over

    def rate(self, stop: StopConfig | None) -> float:
        """Return the factor of the weights' learning rate."""
        return 1.0 if stop is None else stop.factor**self.decays

    def see(self, stop: StopConfig, epoch: int, loss: float) -> bool:
        """Update with an epoch's validation loss; return whether it is the best so far.

        The epoch is counted from 1 within the stage; the loss is in nats per utterance.
        """
        if epoch <= stop.min_epochs:
            better = self.best is None or loss < self.best
            self.best = loss if better else self.best
            return better
        if self.best is None or loss < self.best - stop.min_gain:
            self.best, self.since = loss, 0
            return True
        self.since += 1
        if self.since >= stop.patience:
            if self.decays >= stop.decays:
                self.stopped = True
            else:
                self.decays += 1
        return False


@dataclass
class Position:
    """Progress of a training: everything up to this step is done."""

    epoch: int = 0  # counted from 0
    step: int = 0  # batches done in the epoch
    # Sums over the epoch's steps, such as ``loss`` and ``steps``.
    sums: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0  # time spent in the epoch
    stopping: EarlyStopping = field(default_factory=EarlyStopping)

    @classmethod
    def from_dict(cls: type[P], values: Mapping[str, Any]) -> P:
        """Read a checkpoint's values; the first versions called ``stopping`` ``watch``."""
        names = {item.name for item in fields(cls)}
        known = {name: value for name, value in values.items() if name in names}
        stopping = EarlyStopping(**values.get("stopping", values.get("watch", {})))
        return cls(**{**known, "stopping": stopping})

    def mean(self, name: str, count: str = "steps") -> float:
        """Return a sum divided by a count."""
        return self.sums[name] / self.sums[count]


@dataclass
class Trainer:
    """Epochs of steps on one network."""

    steps: WeightSteps  # the network and its steps
    epochs: int
    # Returns the batches of an epoch from the n-th on.
    batches: Callable[[int, int], Iterator[Batch]]
    rate: Callable[[Any], float]  # returns the learning rate at a position
    # Takes a step on a group of batches with a learning rate; returns what to add to the epoch's
    # sums. None for a weight step.
    step: Callable[[list[Batch], float], dict[str, float]] | None = None
    stop: StopConfig | None = None
    accumulate: int = 1  # batches whose gradients are added up for one step
    # Reseeds each epoch; None to continue the random numbers of the previous one.
    seed: Callable[[int], int] | None = None
    write: Callable[[State], None] | None = None  # writes a checkpoint; None for none
    step_seconds: float = float("inf")  # time between two checkpoints within an epoch
    epoch_seconds: float = 0.0  # likewise at the end of epochs; 0 for one after each
    show: Callable[[int], None] = lambda batches: None  # called after each step with its batches
    position: Any = field(default_factory=Position)  # where to start
    where: str = ""  # what the epochs are part of, for errors, such as ``" of stage 1"``
    _group: list[Batch] = field(default_factory=list, init=False)
    _written: float = field(default_factory=time.monotonic, init=False)

    def run(self) -> Iterator[Any]:
        """Yield the position after the last step of each epoch.

        The caller's work before the next one, such as scoring, belongs to the epoch: its checkpoint
        is written afterwards.

        Raises:
            DivergedError: The loss or a weight is NaN or infinite.
            StoppedError: A signal asked to stop; a checkpoint is written.
        """
        with deferred():  # signals wait for the end of a step
            while self.position.epoch < self.epochs and not self.position.stopping.stopped:
                self._epoch()
                self._require_finite()
                yield self.position
                self.position = replace(
                    self.position, epoch=self.position.epoch + 1, step=0, sums={}, seconds=0.0
                )
                self._save_after(self.epoch_seconds)

    def see(self, loss: float) -> bool:
        """Report the validation loss to early stopping, if any; return whether it is the best."""
        position = self.position
        return self.stop is not None and position.stopping.see(self.stop, position.epoch + 1, loss)

    def _epoch(self) -> None:
        position = self.position
        began = time.monotonic() - position.seconds
        if self.seed is not None and not position.step:
            torch.manual_seed(self.seed(position.epoch))
        batches = self.batches(position.epoch, position.step)
        while group := [self.on_device(b) for b in itertools.islice(batches, self.accumulate)]:
            lr = position.stopping.rate(self.stop) * self.rate(position)
            if self.step is None:
                sums = {"loss": self.steps.weight_step(group, lr), "steps": 1}
            else:
                sums = self.step(group, lr)
            for name, value in sums.items():
                position.sums[name] = position.sums.get(name, 0.0) + value
            self._group = group
            position.step += len(group)
            position.seconds = time.monotonic() - began
            self.show(len(group))
            self._save_after(self.step_seconds)

    def on_device(self, batch: Batch) -> Batch:
        """Return a batch on the device."""
        return batch.to(self.steps.fabric.device, non_blocking=True)

    def _require_finite(self) -> None:
        """Stop before weights that the last step ruined enter a checkpoint or a record."""
        if self._group:
            now = self.position
            place = f"step {now.step} of epoch {now.epoch + 1}{self.where}"
            require_finite(self.steps.fabric, self.steps.modules, self._group[-1], place)

    # -- checkpoints --------------------------------------------------------------------------

    def _save_after(self, seconds: float) -> None:
        due = time.monotonic() - self._written >= seconds
        if any_process(self.steps.fabric, due or bool(requested())):
            self.save()
            if number := max(of_all_processes(self.steps.fabric, requested())):
                raise StoppedError(number)

    def save(self) -> None:
        """Write a checkpoint, if this training has any."""
        if self.write is not None:
            self._require_finite()
            self.write(self.state())
        self._written = time.monotonic()

    def state(self) -> State:
        """Return the state to resume the training from."""
        return {
            "position": asdict(self.position),
            "network": self.steps.network.state_dict(),
            "weights_optimizer": self.steps.optimizer.state_dict(),
            "random": of_all_processes(self.steps.fabric, random_state()),
        }

    def restore(self, state: State) -> None:
        """Restore what :meth:`state` returned."""
        self.position = type(self.position).from_dict(state["position"])
        self.steps.network.load_state_dict(state["network"])
        self.steps.optimizer.load_state_dict(state["weights_optimizer"])
        rank = self.steps.fabric.global_rank
        if rank < len(state["random"]):
            set_random_state(state["random"][rank])
