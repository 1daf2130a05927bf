"""One stage of a gradient search: the training loop with steps of the architecture too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from nas_encoder.data import Batch
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.loaders import SearchLoaders
from nas_encoder.search.gradient.steps import Steps
from nas_encoder.search.gradient.strategies.base import GradientStrategy
from nas_encoder.training.config import WeightsConfig
from nas_encoder.training.early_stopping import EarlyStopping
from nas_encoder.training.loaders import epoch_of
from nas_encoder.training.optimizers import cosine
from nas_encoder.training.trainer import Position, Trainer


@dataclass
class SearchPosition(Position):
    """Where a search is.

    Attributes:
        stage: Counted from 0.
        architecture_batches: Batches that the architecture has learned from in the stage.
        stopping: What early stopping has seen of the stage.
    """

    stage: int = 0
    architecture_batches: int = 0
    stopping: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, values: Any) -> SearchPosition:
        """Read what a checkpoint holds; the first versions called ``stopping`` a watch."""
        return super().from_dict({"stopping": values.get("watch", {}), **values})


class StageTrainer(Trainer):
    """The epochs of a stage.

    Args:
        steps: Of the strategy.
        stage: The stage.
        strategy: Says when the architecture moves, and how much dropout there is.
        loaders: The data.
        rates: Learning rates of the weights.
        before: Epochs of the stages before it.
        position: Where to begin.
        options: Further ones of :class:`~nas_encoder.training.trainer.Trainer`.
    """

    position: SearchPosition

    def __init__(
        self,
        steps: Steps,
        stage: StageConfig,
        strategy: GradientStrategy,
        loaders: SearchLoaders,
        rates: WeightsConfig,
        before: int,
        position: SearchPosition,
        **options: Any,
    ) -> None:
        super().__init__(
            steps,
            stage.epochs,
            self._batches,
            self._rate,
            position=position,
            where=f" of stage {position.stage + 1}",
            **options,
        )
        self.bilevel, self.stage, self.strategy, self.loaders = steps, stage, strategy, loaders
        self.rates, self.before = rates, before
        self.moves, self.dropout, self.length = False, 0.0, 1
        self.others: Iterator[Batch] = iter(())

    @property
    def stopping(self) -> EarlyStopping:
        """What early stopping has seen."""
        return EarlyStopping(**self.position.stopping)

    @property
    def stopped(self) -> bool:
        """Whether the stage ends early."""
        return self.stopping.stopped

    def see(self, loss: float) -> bool:
        """Take the epoch's validation loss; return whether it is the best of a stage that stops."""
        if self.stage.stop is None:
            return False
        stopping = self.stopping
        better = stopping.see(self.stage.stop, self.position.epoch + 1, loss)
        self.position.stopping = dict(vars(stopping))
        return better

    def begin_epoch(self) -> None:
        """Prepare the architecture's batches."""
        position = self.position
        self.moves = self.strategy.moves_architecture(self.stage, position.epoch)
        self.dropout = self.strategy.operation_dropout(self.stage, position.epoch)
        if self.moves:
            done = position.architecture_batches
            self.others = self.loaders.architecture_from(position.stage, done)

    def step(self, group: list[Batch], lr: float) -> dict[str, float]:
        """Move the architecture, where it does in this epoch, then the weights."""
        sums: dict[str, float] = {}
        if self.moves:
            others = [self.on_device(next(self.others)) for _ in group]
            loss, penalty = self.bilevel.architecture_step(others, self.dropout, group, lr)
            self.position.architecture_batches += len(others)
            sums = {"arch_loss": loss, "penalty": penalty, "arch_steps": 1}
        return {**sums, "loss": self.steps.weight_step(group, lr, self.dropout), "steps": 1}

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        loader = self.loaders.of_stage(self.stage)
        batches = epoch_of(loader, self.before + epoch, start)
        self.length = len(loader)
        return batches

    def _rate(self, position: SearchPosition) -> float:
        progress = (position.epoch + position.step / self.length) / self.stage.epochs
        return self.stopping.rate(self.stage.stop) * cosine(self.rates, progress)
