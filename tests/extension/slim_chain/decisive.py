"""The gradient strategy: pushes each mixture towards one candidate.

Tian et al. 2021, "Discretization-aware architecture search" (arXiv 2007.03154): the architecture
also minimizes the entropy of its probabilities, with a weight that grows during the search, so that
deriving a network from them changes little.
"""

from __future__ import annotations

from typing import Any

from nas_encoder.data import Batch
from nas_encoder.search.gradient.steps import ArchitectureLoss, Steps, StepsContext
from nas_encoder.search.gradient.strategies.base import Strategy

STRENGTH = 0.1  # of the entropy beside the loss, in the end


class Decisive(Strategy):
    """Mixtures as in first-order DARTS, with a growing penalty on their entropy."""

    def steps(self, context: StepsContext) -> Steps:
        """Return the steps with the penalty."""
        return DecisiveSteps(context)


class DecisiveSteps(Steps):
    """First-order steps with the entropy penalty; ours: it grows with every step."""

    taken = 0

    def architecture_loss(self, batch: Batch, dropout: float) -> ArchitectureLoss:
        """Return the loss that the architecture minimizes."""
        self.taken += 1
        strength = STRENGTH * self.taken / (self.taken + 100)
        loss = super().architecture_loss(batch, dropout)
        price = loss.tensor.new_zeros(())
        for probabilities in self.parameters.mixture().values():
            entropy = -(probabilities * probabilities.clamp(min=1e-8).log()).sum(-1)
            price = price + strength * entropy.mean()
        return ArchitectureLoss(
            loss.tensor + price, loss.value, loss.penalty + float(price.detach())
        )

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint must hold to resume the search exactly."""
        return {"taken": self.taken}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.taken = state["taken"]
