"""Early stopping of a stage by its validation loss; StopConfig describes the rule."""

from __future__ import annotations

from dataclasses import dataclass

from nas_encoder.training.config import StopConfig


@dataclass
class EarlyStopping:
    """The state of early stopping; plain values, for checkpoints.

    Attributes:
        best: Lowest validation loss that counted, in nats per utterance.
        since: Epochs without gain since then.
        decays: Number of decays of the learning rate.
        stopped: Whether the stage is over.
    """

    best: float | None = None
    since: int = 0
    decays: int = 0
    stopped: bool = False

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
