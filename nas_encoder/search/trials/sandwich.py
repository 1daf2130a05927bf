"""Training of shared weights: the sandwich rule with in-place distillation.

B batch, T frames, F features, T' output frames, V tokens with the blank, D features of an output
frame.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.genotype import Genotype
from nas_encoder.network.ctc import log_probabilities
from nas_encoder.spaces.modules import OneShot
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.steps import WeightSteps, parts


@dataclass(frozen=True)
class Chosen:
    """One of the networks that share weights."""

    genotype: Genotype
    statistics: Mapping[str, Tensor] | None = None  # its buffers; None for fresh ones


class SharedCtc(nn.Module):
    """Shared encoders with one output layer over the tokens.

    An encoder of D features takes the first D columns of the layer's weight (V, largest D).

    Args:
        encoder: Of :class:`~nas_encoder.spaces.modules.OneShot`.
        vocabulary: V.
    """

    def __init__(self, encoder: OneShot, vocabulary: int) -> None:
        super().__init__()
        self.encoder = encoder
        self.classifier = nn.Linear(encoder.output_size, vocabulary)

    def forward(self, x: Tensor, lengths: Tensor, chosen: Chosen) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, T', V) and lengths (B,) for (B, T, F) and lengths (B,)."""
        hidden, lengths = self.encoder(x, lengths, chosen.genotype, chosen.statistics)
        weight = self.classifier.weight[:, : hidden.size(2)]
        return log_probabilities(F.linear(hidden, weight, self.classifier.bias)), lengths

    def inherit(self, chosen: Chosen) -> dict[str, Tensor]:
        """Return a copy of a network with its output layer, as of a :class:`~.ctc.CtcNetwork`."""
        encoder = self.encoder.inherit(chosen.genotype, chosen.statistics)
        found = {f"encoder.{name}": value for name, value in encoder.items()}
        size = self.encoder.output_size_of(chosen.genotype)
        found["classifier.weight"] = self.classifier.weight.detach()[:, :size].clone()
        return found | {"classifier.bias": self.classifier.bias.detach().clone()}


def distance(teacher: Tensor, student: Tensor, lengths: Tensor, batch: Batch) -> Tensor:
    """Return the Kullback-Leibler divergence of posteriors, in the units of the CTC loss.

    It is summed over an utterance's frames and divided by its tokens; the mean over utterances.

    Args:
        teacher: Log-probabilities (B, T', V); gets no gradient.
        student: Likewise.
        lengths: (B,) frames.
        batch: Has the numbers of tokens (B,).
    """
    frames = F.kl_div(student, teacher.detach(), reduction="none", log_target=True).sum(2)
    index = torch.arange(frames.size(1), device=lengths.device)
    inside = index[None, :] < lengths[:, None]
    totals = frames.masked_fill(~inside, 0.0).sum(1)
    return (totals / batch.target_lengths.clamp(min=1)).mean()


@dataclass(eq=False)
class SandwichSteps(WeightSteps):
    """Moves shared weights.

    Attributes:
        distillation: Share of :func:`distance` to the biggest network in the others' loss.
        scored: The network that :meth:`score` scores.
    """

    distillation: float = 1.0
    scored: Chosen | None = None

    def score_mixtures(self) -> Iterator[Any]:
        """Yield the network to score for each batch."""
        assert self.scored is not None
        while True:
            yield self.scored

    def sandwich_step(
        self, batches: Sequence[Batch], lr: float, drawn: Sequence[Genotype]
    ) -> dict[str, float]:
        """Move the weights by the sum of the gradients of several networks.

        The sandwich rule with in-place distillation (Yu and Huang 2019, algorithm 1; for speech
        Shangguan et al. 2023, TODM): the biggest network learns from the transcripts, the others
        from its posteriors.

        Args:
            batches: Their gradients are added up.
            lr: Learning rate.
            drawn: The biggest network, the smallest, others.

        Returns:
            What to add to an epoch's sums: ``loss`` of the biggest, ``smallest`` and ``others``
            (those of the others, their mean), ``steps``.

        Raises:
            DivergedError: A loss is NaN or infinite; nothing has moved.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        self.network.train()
        totals = [0.0] * len(drawn)
        for batch, part in parts(batches):
            teacher: Tensor | None = None
            for place, genotype in enumerate(drawn):
                log_probs, lengths = self._forward(batch, Chosen(genotype))
                loss = self._loss(teacher, log_probs, lengths, batch)
                teacher = log_probs.detach() if teacher is None else teacher
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise DivergedError(
                        f"the loss of network {genotype.hash} is {value} on the batch of "
                        f"{', '.join(batch.ids[:4])}; lower training.lr, or look at that data",
                        batch,
                    )
                self.fabric.backward(part * loss)
                totals[place] += part * value
        if self.grad_clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.grad_clip)
        self.optimizer.step()
        rest = totals[2:] or totals[1:]
        return {
            "loss": totals[0],
            "smallest": totals[1],
            "others": sum(rest) / len(rest),
            "steps": 1,
        }

    def _loss(
        self, teacher: Tensor | None, log_probs: Tensor, lengths: Tensor, batch: Batch
    ) -> Tensor:
        share = 0.0 if teacher is None else self.distillation
        if teacher is None or share == 0.0:
            return self.objective(log_probs, lengths, batch)
        soft = distance(teacher, log_probs, lengths, batch)
        if share == 1.0:
            return soft
        return share * soft + (1.0 - share) * self.objective(log_probs, lengths, batch)
