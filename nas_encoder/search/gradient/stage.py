"""One stage of a gradient search: the training loop with architecture steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from nas_encoder.data import Batch
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.loaders import SearchLoaders
from nas_encoder.search.gradient.steps import Steps
from nas_encoder.search.gradient.strategies.base import Strategy
from nas_encoder.training.config import WeightsConfig
from nas_encoder.training.loaders import epoch_of
from nas_encoder.training.optimizers import cosine
from nas_encoder.training.trainer import Position, Trainer


@dataclass
class SearchPosition(Position):
    """Progress of a search."""

    stage: int = 0  # counted from 0
    architecture_batches: int = 0  # architecture batches consumed in the stage


@dataclass
class Stage:
    """The epochs of a stage."""

    steps: Steps
    config: StageConfig
    strategy: Strategy  # decides when the architecture moves, and the dropout
    loaders: SearchLoaders
    rates: WeightsConfig  # learning rates of the weights
    before: int  # epochs of the previous stages
    dropout: float = 0.0  # the current epoch's, after regularized operations
    trainer: Trainer = field(init=False)  # runs them; it is built with the methods below

    @property
    def position(self) -> SearchPosition:
        """The progress of the search."""
        return self.trainer.position  # type: ignore[no-any-return]

    def batches(self, epoch: int, start: int) -> Iterator[Batch]:
        """Begin an epoch; return its batches."""
        now, loader = self.position, self.loaders.of_stage(self.config)
        self._moves = self.strategy.moves_architecture(self.config, epoch)
        self._others = self.loaders.architecture_from(now.stage, now.architecture_batches)
        self.dropout = self.strategy.operation_dropout(self.config, epoch)
        batches = epoch_of(loader, self.before + epoch, start)
        self._length = len(loader)
        return batches

    def rate(self, now: SearchPosition) -> float:
        """Return the learning rate at a position."""
        return cosine(self.rates, (now.epoch + now.step / self._length) / self.config.epochs)

    def step(self, group: list[Batch], lr: float) -> dict[str, float]:
        """Move the architecture, if it moves in this epoch, then the weights."""
        sums: dict[str, float] = {}
        if self._moves:
            others = [self.trainer.on_device(next(self._others)) for _ in group]
            loss, penalty = self.steps.architecture_step(others, self.dropout, group, lr)
            self.position.architecture_batches += len(others)
            sums = {"arch_loss": loss, "penalty": penalty, "arch_steps": 1}
        return {**sums, "loss": self.steps.weight_step(group, lr, self.dropout), "steps": 1}
