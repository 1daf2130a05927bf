"""Steps of a network's weights with CTC, and its score.

B batch, T' output frames, V tokens with the blank, U target length.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.training.decoding import greedy
from nas_encoder.training.devices import average_gradients, mean_over_processes
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.stopping import stop_if_requested

if TYPE_CHECKING:
    from lightning.fabric import Fabric

Batches = Batch | Sequence[Batch]
# (log-probabilities (B, T', V), output frames (B,), the batch) -> loss
Objective = Callable[[Tensor, Tensor, Batch], Tensor]


def parts(batches: Batches) -> list[tuple[Batch, float]]:
    """Return each batch with its fraction of all utterances."""
    listed = [batches] if isinstance(batches, Batch) else list(batches)
    total = sum(batch.size for batch in listed)
    return [(batch, batch.size / total) for batch in listed]


def ctc_loss(log_probs: Tensor, lengths: Tensor, batch: Batch, reduction: str = "mean") -> Tensor:
    """Return the mean over utterances of CTC loss per token.

    Args:
        log_probs: (B, T', V).
        lengths: (B,) output frames.
        batch: Has targets (B, U) and their lengths.
        reduction: ``mean``; ``sum``, over utterances, of the loss not divided by tokens; ``none``
            for that of each utterance, (B,).
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


def feasible(lengths: Tensor, batch: Batch) -> Tensor:
    """Return (B,) whether CTC can place the tokens of an utterance in its output frames.

    Each token needs a frame, and so does the blank between equal neighbours. ``lengths`` (B,) are
    output frames; the batch has targets (B, U) and their lengths.
    """
    pairs = torch.arange(1, batch.targets.size(1), device=lengths.device)
    inside = pairs[None, :] < batch.target_lengths[:, None]
    equal = batch.targets[:, 1:] == batch.targets[:, :-1]
    return batch.target_lengths + (equal & inside).sum(1) <= lengths


def only_feasible(log_probs: Tensor, lengths: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Batch]:
    """Return the arguments of :func:`ctc_loss` for the :func:`feasible` utterances.

    Of the batch, targets and their lengths are those.
    """
    kept = feasible(lengths, batch)
    own = replace(batch, targets=batch.targets[kept], target_lengths=batch.target_lengths[kept])
    return log_probs[kept], lengths[kept], own


def feasible_ctc_loss(log_probs: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Return the mean of CTC loss per token over the :func:`feasible` utterances; 0 without any.

    Arguments are those of :func:`ctc_loss`, whose loss of the others is infinite.
    """
    log_probs, lengths, batch = only_feasible(log_probs, lengths, batch)
    return ctc_loss(log_probs, lengths, batch) if len(lengths) else (0.0 * log_probs).sum()


@dataclass(frozen=True)
class Score:
    """The score of a network."""

    loss: float  # mean over utterances of the loss per token
    utterance_loss: float  # mean loss of an utterance, in nats
    edits: int  # edit distance between transcripts and hypotheses
    tokens: int  # number of tokens of the transcripts

    @property
    def ter(self) -> float:
        """Token error rate in %."""
        return 100.0 * self.edits / max(1, self.tokens)


@dataclass(eq=False)
class WeightSteps:
    """Moves the weights of one network."""

    fabric: Fabric  # device, precision and backward
    # Has ``forward(x, lengths)``; see :class:`~nas_encoder.network.ctc.CtcNetwork`.
    network: nn.Module
    optimizer: torch.optim.Optimizer
    grad_clip: float = 0.0  # maximum norm of the gradient; 0 for no limit
    objective: Objective = ctc_loss

    @property
    def modules(self) -> tuple[nn.Module, ...]:
        """The modules that the steps update."""
        return (self.network,)

    def mixture(self) -> Any:
        """Return the network's ``weights`` for a weight step; None without choices."""
        return None

    def score_mixtures(self) -> Iterator[Any]:
        """Yield the network's ``weights`` for each scored batch."""
        return itertools.repeat(None)

    def weight_step(self, batches: Batches, lr: float, dropout: float = 0.0) -> float:
        """Move the weights; return the loss before.

        Args:
            batches: One, or several whose gradients are added up.
            lr: Learning rate.
            dropout: Dropout after a supernet's regularized operations.

        Raises:
            DivergedError: The loss is NaN or infinite; nothing has moved.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        total = 0.0
        for batch, part in parts(batches):
            with torch.no_grad():
                mixture = self.mixture()
            loss, value = self.loss(batch, mixture, dropout)
            self.fabric.backward(part * loss)
            total += part * value
        self.synchronize(self.network)
        if self.grad_clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip)
        self.optimizer.step()
        return total

    def loss(self, batch: Batch, mixture: Any, dropout: float) -> tuple[Tensor, float]:
        """Return the loss on a batch, and its mean over processes as a number.

        Each process has the mean over its own utterances, so it is weighted by their number.

        Raises:
            DivergedError: It is NaN or infinite.
        """
        self.network.train()
        log_probs, lengths = self._forward(batch, mixture, dropout)
        loss = self.objective(log_probs, lengths, batch)
        if batch.total is not None:
            loss = loss * (self.fabric.world_size * len(batch) / batch.total)
        value = float(mean_over_processes(self.fabric, loss.detach()))
        # Raise in all processes or in none, or the others would wait for one that has stopped.
        if not math.isfinite(value):
            raise DivergedError(
                f"the loss is {float(loss.detach())} on the batch of {', '.join(batch.ids[:4])}"
                f"{' ...' if len(batch.ids) > 4 else ''}; lower weights.lr, or look at that data",
                batch,
            )
        return loss, value

    def synchronize(self, module: nn.Module) -> None:
        """Average gradients over processes."""
        average_gradients(self.fabric, module.parameters())

    @torch.no_grad()
    def score(
        self,
        batches: Iterable[Batch],
        decode: Callable[[Tensor], list[int]] = greedy,
        spell: Callable[[list[int]], list[Any]] = list,
    ) -> Score:
        """Score the network in evaluation mode.

        Args:
            batches: The batches to score.
            decode: Log-probabilities (T', V) -> tokens.
            spell: Tokens -> units to compare.

        Raises:
            StoppedError: A signal asked to stop.
        """
        from kaldialign import edit_distance

        self.network.eval()
        edits, tokens, total, summed, utterances = 0, 0, 0.0, 0.0, 0
        for host_batch, mixture in zip(batches, self.score_mixtures(), strict=False):
            if self.fabric.world_size == 1:  # others would wait for this process
                stop_if_requested()
            batch = host_batch.to(self.fabric.device)
            log_probs, lengths = self._forward(batch, mixture)
            total += float(ctc_loss(log_probs, lengths, batch)) * len(batch)
            summed += float(ctc_loss(log_probs, lengths, batch, "sum"))
            utterances += len(batch)
            for row, frames, target, size in zip(
                log_probs,  # stays on the device; only the best path leaves it
                lengths.tolist(),
                batch.targets.tolist(),
                batch.target_lengths.tolist(),
                strict=True,
            ):
                hypothesis = spell(decode(row[:frames]))
                edits += int(edit_distance(spell(target[:size]), hypothesis)["total"])
                tokens += size
        count = max(1, utterances)
        return Score(total / count, summed / count, edits, tokens)

    def _forward(self, batch: Batch, mixture: Any, *dropout: float) -> tuple[Tensor, Tensor]:
        choice = () if mixture is None else (mixture, *dropout)
        with self.fabric.autocast():
            log_probs, lengths = self.network(batch.features, batch.feature_lengths, *choice)
        return log_probs, lengths
