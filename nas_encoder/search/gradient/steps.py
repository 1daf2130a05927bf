"""The two steps of a gradient search on one batch each, and the score of a network.

First order (Liu et al. 2019, section 2.3 with xi = 0; P-DARTS): the architecture moves against
the gradient of its own half of the data at the present weights. A strategy with other steps
derives from :class:`Steps`; the loop does not know which ones it runs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.search.config.sections import ArchitectureConfig, StageConfig
from nas_encoder.training.decoding import collapse
from nas_encoder.training.devices import average_gradients, mean_over_processes
from nas_encoder.training.diverged import DivergedError

Penalty = Callable[[ArchitectureParameters], Tensor]
Batches = Batch | Sequence[Batch]
S = TypeVar("S", bound="Steps")


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


def parts(batches: Batches) -> list[tuple[Batch, float]]:
    """Return each batch with its share of the utterances of all."""
    listed = [batches] if isinstance(batches, Batch) else list(batches)
    total = sum(batch.size for batch in listed)
    return [(batch, batch.size / total) for batch in listed]


def ctc_loss(log_probs: Tensor, lengths: Tensor, batch: Batch, reduction: str = "mean") -> Tensor:
    """Return the mean over utterances of CTC loss per token.

    Args:
        log_probs: (B, T', V).
        lengths: (B,) output frames.
        batch: Its targets (B, U) and their lengths.
        reduction: ``sum`` for the sum over utterances of the loss of all their tokens.
    """
    loss: Tensor = F.ctc_loss(
        log_probs.transpose(0, 1),  # (T', B, V)
        batch.targets,
        lengths,
        batch.target_lengths,
        blank=0,
        reduction=reduction,
    )
    return loss


@dataclass(frozen=True)
class StepsContext:
    """What a stage gives to the steps of a strategy; see :class:`Steps` for most of it.

    Attributes:
        stage: Its configuration.
        seed: Of the stage, for what a strategy draws.
    """

    fabric: Fabric
    network: nn.Module
    parameters: ArchitectureParameters
    weights: torch.optim.Optimizer
    architecture: torch.optim.Optimizer
    grad_clip: float
    stage: StageConfig
    seed: int


class Steps:
    """Weight and architecture steps on one supernet; first order, with mixtures.

    Args:
        fabric: Device, precision and backward.
        network: The supernet, ``forward(x, lengths, weights, dropout)``.
        parameters: The architecture parameters.
        weights: Optimizer and its settings.
        architecture: Optimizer of the architecture parameters.
        grad_clip: Largest norm of the weights' gradient; 0 for no limit.

    Attributes:
        penalty: Added to the architecture's loss: a function of its parameters; None for nothing.
        last_penalty: What it was last.
        last_loss: The loss that was computed last, its mean over processes.
    """

    last_penalty = 0.0
    last_loss = 0.0

    def __init__(
        self,
        fabric: Fabric,
        network: nn.Module,
        parameters: ArchitectureParameters,
        weights: torch.optim.Optimizer,
        architecture: torch.optim.Optimizer,
        grad_clip: float,
    ) -> None:
        self.fabric = fabric
        self.network = network
        self.parameters = parameters
        self.weights = weights
        self.architecture = architecture
        self.grad_clip = grad_clip
        self.penalty: Penalty | None = None

    @classmethod
    def of(cls: type[S], context: StepsContext, **options: Any) -> S:
        """Build the steps of a stage; the options are those of :meth:`prepare`."""
        steps = cls(
            context.fabric,
            context.network,
            context.parameters,
            context.weights,
            context.architecture,
            context.grad_clip,
        )
        steps.prepare(context, **options)
        return steps

    # -- what a strategy may change -----------------------------------------------------------

    def prepare(self, context: StepsContext, **options: Any) -> None:
        """Take what else the steps need; nothing here."""

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold beside parameters and optimizers."""
        return {}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""

    def mixture(self) -> Any:
        """Return the network's ``weights`` for a step of its own."""
        return self.parameters.mixture()

    def architecture_mixture(self) -> Any:
        """Return the network's ``weights`` for a step of the architecture, with gradient."""
        return self.parameters.mixture()

    def score_mixtures(self) -> Iterator[Any]:
        """Yield the network's ``weights`` for each batch that is scored."""
        mixture = self.parameters.mixture()
        while True:
            yield mixture

    # -- steps --------------------------------------------------------------------------------

    def weight_step(self, batches: Batches, lr: float, dropout: float) -> float:
        """Move the weights; return the loss before.

        Args:
            batches: One, or several whose gradients are added up.
            lr: Learning rate.
            dropout: Behind the regularized operations.

        Raises:
            DivergedError: The loss is NaN or infinite; nothing has moved.
        """
        for group in self.weights.param_groups:
            group["lr"] = lr
        self.weights.zero_grad(set_to_none=True)
        total = 0.0
        for batch, part in parts(batches):
            with torch.no_grad():
                mixture = self.mixture()
            self.fabric.backward(part * self._loss(batch, mixture, dropout))
            total += part * self.last_loss
        self.synchronize(self.network)
        if self.grad_clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip)
        self.weights.step()
        return total

    def architecture_step(
        self, batches: Batches, dropout: float, ahead: Batches = (), lr: float = 0.0
    ) -> float:
        """Move the architecture; return the loss before, without the penalty.

        Args:
            batches: Of the architecture's data: one, or several whose gradients are added up.
            dropout: Behind the regularized operations.
            ahead: What the weights will move on next; a first-order step has no use for it, nor
                for ``lr``, their learning rate.
            lr: See there.

        Raises:
            DivergedError: The loss is NaN or infinite; nothing has moved.
        """
        # No gradient is computed for weights that do not move.
        self.network.requires_grad_(False)
        try:
            self.architecture.zero_grad(set_to_none=True)
            total = 0.0
            for batch, part in parts(batches):
                self.fabric.backward(part * self.architecture_loss(batch, dropout))
                total += part * self.last_loss
            self.synchronize(self.parameters)
            self.architecture.step()
        finally:
            self.network.requires_grad_(True)
        return total

    def architecture_loss(self, batch: Batch, dropout: float) -> Tensor:
        """Return the loss that the architecture moves against."""
        loss = self._loss(batch, self.architecture_mixture(), dropout)
        if self.penalty is not None:
            penalty = self.penalty(self.parameters).to(loss.dtype)
            self.last_penalty = float(penalty.detach())
            loss = loss + penalty
        return loss

    def synchronize(self, module: nn.Module) -> None:
        """Average gradients over processes."""
        average_gradients(self.fabric, module.parameters())

    def value(self, loss: Tensor) -> float:
        """Return a loss as a number: its mean over processes."""
        return float(mean_over_processes(self.fabric, loss.detach()))

    def _loss(self, batch: Batch, mixture: Any, dropout: float) -> Tensor:
        """Return the loss on a batch; where processes share it, its mean over them is the loss.

        Each process has the mean over its own utterances, so it is weighed by their number.
        """
        self.network.train()
        with self.fabric.autocast():
            log_probs, lengths = self.network(
                batch.features, batch.feature_lengths, mixture, dropout
            )
        loss = ctc_loss(log_probs, lengths, batch)
        if batch.total is not None:
            loss = loss * (self.fabric.world_size * len(batch) / batch.total)
        self.last_loss = self.value(loss)
        # In all processes or in none, or the others would wait for one that has stopped.
        if not math.isfinite(self.last_loss):
            raise DivergedError(
                f"the loss is {float(loss.detach())} on the batch of {', '.join(batch.ids[:4])}"
                f"{' ...' if len(batch.ids) > 4 else ''}; lower weights.lr, or look at that data",
                batch,
            )
        return loss

    @torch.no_grad()
    def score(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return figures of the network in evaluation mode.

        Returns:
            ``loss``: mean over utterances of the loss per token; ``utterance_loss``: mean loss
            of an utterance, in nats; ``ter``: token errors of the greedy path in %.
        """
        from kaldialign import edit_distance

        self.network.eval()
        errors, tokens, total, summed, utterances = 0, 0, 0.0, 0.0, 0
        for host_batch, mixture in zip(batches, self.score_mixtures(), strict=False):
            batch = host_batch.to(self.fabric.device)
            with self.fabric.autocast():
                log_probs, lengths = self.network(batch.features, batch.feature_lengths, mixture)
            total += float(ctc_loss(log_probs, lengths, batch)) * len(batch)
            summed += float(ctc_loss(log_probs, lengths, batch, "sum"))
            utterances += len(batch)
            for row, length, target, size in zip(
                log_probs.argmax(-1).tolist(),
                lengths.tolist(),
                batch.targets.tolist(),
                batch.target_lengths.tolist(),
                strict=True,
            ):
                reference = target[:size]
                errors += edit_distance(reference, collapse(row[:length]))["total"]
                tokens += size
        return {
            "loss": total / max(1, utterances),
            "utterance_loss": summed / max(1, utterances),
            "ter": 100.0 * errors / max(1, tokens),
        }
