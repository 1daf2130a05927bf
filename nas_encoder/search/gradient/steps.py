"""The two steps of a gradient search: weight steps and architecture steps.

First order (Liu et al. 2019, section 2.3 with xi = 0; P-DARTS): the architecture moves against
the gradient of its own half of the data at the current weights. Strategies with other steps
subclass :class:`Steps`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.search.config.sections import ArchitectureConfig, StageConfig
from nas_encoder.training.steps import Batches, WeightSteps, parts

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Penalty = Callable[[ArchitectureParameters], Tensor]


def architecture_optimizer(
    config: ArchitectureConfig, parameters: nn.Module
) -> torch.optim.Optimizer:
    """Build the optimizer of the architecture parameters."""
    return torch.optim.Adam(
        parameters.parameters(),
        lr=config.lr,
        betas=(float(config.betas[0]), float(config.betas[1])),
        weight_decay=config.weight_decay,
    )


@dataclass(frozen=True)
class StepsContext:
    """What a stage passes to the steps of a strategy."""

    fabric: Fabric  # device, precision and backward
    network: nn.Module  # the supernet, ``forward(x, lengths, weights, dropout)``
    parameters: ArchitectureParameters
    weights: torch.optim.Optimizer
    architecture: torch.optim.Optimizer
    grad_clip: float  # largest norm of the weights' gradient; 0 for no limit
    stage: StageConfig
    seed: int  # the stage's seed, for the strategy's random draws
    # Function of the parameters, added to the architecture's loss; None for nothing.
    penalty: Penalty | None = None


class ArchitectureLoss(NamedTuple):
    """The architecture's loss; its parts as numbers, means over processes."""

    tensor: Tensor
    value: float  # without the penalty
    penalty: float


class Steps(WeightSteps):
    """Weight and architecture steps on one supernet; first order, with mixtures."""

    def __init__(self, context: StepsContext) -> None:
        super().__init__(context.fabric, context.network, context.weights, context.grad_clip)
        self.context = context
        self.parameters = context.parameters
        self.architecture = context.architecture

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules that the steps update."""
        return self.network, self.parameters

    # -- what a strategy may override ---------------------------------------------------------

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides parameters and optimizers."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""

    def mixture(self) -> Any:
        """Return the network's ``weights`` for a weight step."""
        return self.parameters.mixture()

    def architecture_mixture(self) -> Any:
        """Return the network's ``weights`` for an architecture step, with gradient."""
        return self.parameters.mixture()

    def score_mixtures(self) -> Iterator[Any]:
        """Yield the network's ``weights`` for each scored batch."""
        mixture = self.parameters.mixture()
        while True:
            yield mixture

    # -- the architecture's step --------------------------------------------------------------

    def architecture_step(
        self, batches: Batches, dropout: float, ahead: Batches = (), lr: float = 0.0
    ) -> tuple[float, float]:
        """Move the architecture; return the loss before, without the penalty, and the penalty.

        Args:
            batches: Architecture batches: one, or several whose gradients are added up.
            dropout: Probability of dropout after the regularized operations.
            ahead: The next batches of the weights; unused, like ``lr``, by first-order steps.
            lr: Learning rate of the weights.

        Raises:
            DivergedError: The loss is NaN or infinite; nothing has moved.
        """
        # Weights do not move here: compute no gradient for them.
        self.network.requires_grad_(False)
        try:
            self.architecture.zero_grad(set_to_none=True)
            total = penalty = 0.0
            for batch, part in parts(batches):
                loss = self.architecture_loss(batch, dropout)
                self.fabric.backward(part * loss.tensor)
                total, penalty = total + part * loss.value, loss.penalty
            self.synchronize(self.parameters)
            self.architecture.step()
        finally:
            self.network.requires_grad_(True)
        return total, penalty

    def architecture_loss(self, batch: Batch, dropout: float) -> ArchitectureLoss:
        """Return the architecture's loss on a batch."""
        loss, value = self.loss(batch, self.architecture_mixture(), dropout)
        if self.context.penalty is None:
            return ArchitectureLoss(loss, value, 0.0)
        penalty = self.context.penalty(self.parameters).to(loss.dtype)
        return ArchitectureLoss(loss + penalty, value, float(penalty.detach()))
