"""The two steps of a gradient search on one batch each, and the score of a supernet.

First order (Liu et al. 2019, section 2.3 with xi = 0; P-DARTS): the architecture moves against
the gradient of its own half of the data at the present weights.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.errors import NasEncoderError
from nas_encoder.search.config import ArchitectureConfig, WeightsConfig
from nas_encoder.search.gradient.choices import ArchitectureParameters
from nas_encoder.search.gradient.supernet import Supernet


class DivergedError(NasEncoderError):
    """The loss is NaN or infinite."""


def weights_optimizer(config: WeightsConfig, network: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer of the network's weights."""
    if config.optimizer == "adam":
        return torch.optim.Adam(
            network.parameters(), lr=config.lr, weight_decay=config.weight_decay
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=config.lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
    )


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


def cosine(config: WeightsConfig, progress: float) -> float:
    """Return the learning rate: a cosine from ``lr`` to ``min_lr`` without restart.

    Args:
        config: The rates.
        progress: Part of the stage that is done, from 0 to 1.
    """
    share = 0.5 * (1 + math.cos(math.pi * progress))
    return config.min_lr + (config.lr - config.min_lr) * share


def ctc_loss(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Return the mean over utterances of CTC loss per token.

    Args:
        log_probs: (B, T', V).
        lengths: (B,) output frames.
        batch: Its targets (B, U) and their lengths.
    """
    loss: Tensor = F.ctc_loss(
        log_probs.transpose(0, 1),  # (T', B, V)
        batch.targets,
        lengths,
        batch.target_lengths,
        blank=0,
        reduction="mean",
    )
    return loss


class Steps:
    """Weight and architecture steps on one supernet.

    Args:
        fabric: Device, precision and backward.
        network: The supernet.
        parameters: The architecture parameters.
        weights: Optimizer and its settings.
        architecture: Optimizer of the architecture parameters.
        grad_clip: Largest norm of the weights' gradient; 0 for no limit.
    """

    def __init__(
        self,
        fabric: Fabric,
        network: Supernet,
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

    def weight_step(self, batch: Batch, lr: float, dropout: float) -> float:
        """Move the weights on a batch; return the loss before."""
        for group in self.weights.param_groups:
            group["lr"] = lr
        with torch.no_grad():
            mixture = self.parameters.weights()
        loss = self._loss(batch, mixture, dropout)
        self.weights.zero_grad(set_to_none=True)
        self.fabric.backward(loss)
        if self.grad_clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip)
        self.weights.step()
        return float(loss.detach())

    def architecture_step(self, batch: Batch, dropout: float) -> float:
        """Move the architecture on a batch; return the loss before."""
        # No gradient is computed for weights that do not move.
        self.network.requires_grad_(False)
        try:
            loss = self._loss(batch, self.parameters.weights(), dropout)
            self.architecture.zero_grad(set_to_none=True)
            self.fabric.backward(loss)
            self.architecture.step()
        finally:
            self.network.requires_grad_(True)
        return float(loss.detach())

    def _loss(self, batch: Batch, mixture: dict[str, Tensor], dropout: float) -> Tensor:
        self.network.train()
        with self.fabric.autocast():
            log_probs, lengths = self.network(
                batch.features, batch.feature_lengths, mixture, dropout
            )
        loss = ctc_loss(log_probs, lengths, batch)
        if not bool(torch.isfinite(loss)):
            raise DivergedError(
                f"the loss is {float(loss.detach())} on the batch of {', '.join(batch.ids[:4])}"
                f"{' ...' if len(batch.ids) > 4 else ''}; lower weights.lr, or look at that data"
            )
        return loss

    @torch.no_grad()
    def score(self, batches: Iterable[Batch]) -> dict[str, float]:
        """Return the loss and greedy token error rate (both per token) in evaluation mode."""
        from kaldialign import edit_distance

        self.network.eval()
        mixture = self.parameters.weights()
        errors, tokens, total, utterances = 0, 0, 0.0, 0
        for host_batch in batches:
            batch = host_batch.to(self.fabric.device)
            with self.fabric.autocast():
                log_probs, lengths = self.network(batch.features, batch.feature_lengths, mixture)
            total += float(ctc_loss(log_probs, lengths, batch)) * len(batch)
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
        return {"loss": total / max(1, utterances), "ter": 100.0 * errors / max(1, tokens)}


def collapse(path: list[int]) -> list[int]:
    """Return the tokens of a CTC path: repeats joined, blanks (0) removed."""
    pairs = zip(path, [None, *path], strict=False)
    return [token for token, before in pairs if token not in (0, before)]


def random_state() -> dict[str, Any]:
    """Return the state of torch's generators, the only ones a search draws from."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state_all()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Set what :func:`random_state` returned."""
    torch.set_rng_state(state["cpu"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
