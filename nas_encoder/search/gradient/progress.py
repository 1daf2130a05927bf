"""The progress bar of a search: an ETA over stages whose steps differ in cost."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.strategies.base import Strategy


@dataclass(frozen=True)
class Progress:
    """Relative costs of steps and epochs, for the ETA; ``batches`` returns the steps per epoch."""

    strategy: Strategy
    batches: Callable[[StageConfig], int]

    def step(self, stage: StageConfig, epoch: int) -> float:
        """Return the cost of a step."""
        moves = self.strategy.moves_architecture(stage, epoch)
        cost = 1.0 if stage.phase == "retrain" else self.strategy.step_cost(stage, moves)
        return stage.layers * stage.channels * cost

    def epoch(self, stage: StageConfig, epoch: int) -> float:
        """Return the cost of an epoch."""
        return self.batches(stage) * self.step(stage, epoch)

    def bar(self, stage: int, epoch: int, step: int, hidden: bool = False) -> Any:
        """Return a bar at the position of the search; a hidden one shows nothing."""
        stages = self.strategy.config.stages
        costs = {
            (index, number): self.epoch(config, number)
            for index, config in enumerate(stages)
            for number in range(config.epochs)
        }
        done = sum(cost for place, cost in costs.items() if place < (stage, epoch))
        done += step * self.step(stages[stage], epoch)
        return tqdm(
            total=sum(costs.values()),
            initial=done,
            disable=hidden,
            desc="search",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
            # In a log file, an occasional line is enough.
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
        )
