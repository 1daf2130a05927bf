"""DARTS (Liu, Simonyan, Yang 2019), first and second order."""

from __future__ import annotations

from torch import Tensor

from nas_encoder.network.choices.unrolled import unrolled_gradient
from nas_encoder.ops.masking import recomputing
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.steps import ArchitectureLoss, Steps, StepsContext
from nas_encoder.search.gradient.strategies.base import Strategy
from nas_encoder.training.random_state import random_state, set_random_state
from nas_encoder.training.steps import Batches, parts


class Darts(Strategy):
    """Mixtures of all operations; weights and architecture move in turn.

    With ``order: second`` the architecture's gradient is taken at the weights one step ahead
    (section 2.3). Deviations from the public code: dropout after the regularized operations and
    limits at derivation, where configured. As there, the weights' gradient inside the unrolled step
    is not clipped.
    """

    def step_cost(self, stage: StageConfig, moves: bool) -> float:
        """Count the operations; the unrolled second-order step has four backward passes."""
        factor = 5.0 if self.config.order == "second" else 2.0
        return stage.operations * (factor if moves else 1.0)

    def steps(self, context: StepsContext) -> Steps:
        """Return the steps of the configured order."""
        if self.config.order == "second":
            return UnrolledSteps(context)
        return super().steps(context)


class UnrolledSteps(Steps):
    """Steps that move the architecture against the gradient of equation 7 of the paper."""

    def architecture_step(
        self, batches: Batches, dropout: float, ahead: Batches = (), lr: float = 0.0
    ) -> tuple[float, float]:
        """Move the architecture; return the loss at the weights one step ahead, and the penalty.

        ``batches`` and ``ahead``, the batch of the next weight step, hold one batch each.
        """
        ((batch, _),), ((batch_ahead, _),) = parts(batches), parts(ahead)
        state = random_state()

        def weights_loss() -> Tensor:
            set_random_state(state)  # three times the same dropout
            return self.loss(batch_ahead, self.parameters.mixture(), dropout)[0]

        losses: list[ArchitectureLoss] = []

        def architecture_loss() -> Tensor:
            losses.append(self.architecture_loss(batch, dropout))
            return losses[0].tensor

        with recomputing():  # running statistics are not those of weights that are only tried
            unrolled_gradient(
                weights_loss,
                architecture_loss,
                list(self.network.parameters()),
                list(self.parameters.parameters()),
                self.optimizer,
                lr,
                self._backward,
            )
        self.architecture.step()
        self.architecture.zero_grad(set_to_none=True)
        return losses[0].value, losses[0].penalty

    def _backward(self, loss: Tensor) -> None:
        self.fabric.backward(loss)
        self.synchronize(self.network)
        self.synchronize(self.parameters)
