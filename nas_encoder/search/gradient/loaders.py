"""The data of a gradient search: for its weights, its architecture and its score."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from nas_encoder.data import AsrLoader, Batch
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.training.loaders import SpeechData, epoch_of

if TYPE_CHECKING:
    from lightning.fabric import Fabric


@dataclass
class SearchLoaders:
    """The data of a search."""

    weights: AsrLoader
    architecture: AsrLoader
    score: AsrLoader
    vocabulary: int  # V, number of tokens including the blank
    retrain: AsrLoader  # batches of all training data, for a stage of phase ``retrain``
    _counts: dict[int, int] = field(default_factory=dict, repr=False)

    @classmethod
    def of(
        cls, data: SpeechData, fabric: Fabric, architecture_data: str, own_valid: bool, scored: int
    ) -> SearchLoaders:
        """Load data that are split in halves.

        Args:
            data: Includes the set ``valid``.
            fabric: Its processes share every batch.
            architecture_data: ``half`` or ``valid``: what the architecture learns from.
            own_valid: Whether the validation data are separate from the training data.
            scored: Number of utterances to score.
        """
        cuts = data.cuts
        shared = {"rank": fabric.global_rank, "world_size": fabric.world_size, "split": True}
        pinned = fabric.device.type == "cuda"

        def loader(name: str, offset: int) -> AsrLoader:
            seed = data.seed + offset
            return data.loader(cuts[name], True, seed=seed, pin_memory=pinned, **shared)

        of_valid = architecture_data == "valid"
        # Every process scores all of it, so that nothing has to be exchanged.
        score = data.loader(
            data.sample("valid", scored), False, seed=data.seed + 2, pin_memory=pinned
        )
        return cls(
            weights=loader("train" if of_valid else "half", 0),
            architecture=loader("valid" if of_valid else "other_half", 1),
            score=score,
            vocabulary=len(data.tokens),
            # Without validation data, score what no network was trained on.
            retrain=loader("train" if own_valid else "half", 3),
        )

    def of_stage(self, stage: StageConfig) -> AsrLoader:
        """Return the loader for the weights of a stage."""
        return self.retrain if stage.phase == "retrain" else self.weights

    def architecture_from(self, stage: int, done: int) -> Iterator[Batch]:
        """Yield a stage's architecture batches after the first ``done``, over epochs of its own."""
        base, epoch = 10_000 * (stage + 1), 0
        while done >= (count := self._count(base + epoch)):
            epoch, done = epoch + 1, done - count
        while True:
            yield from epoch_of(self.architecture, base + epoch, done)
            epoch, done = epoch + 1, 0

    def _count(self, epoch: int) -> int:
        """Return the number of batches of an epoch; cached, because planning one is slow."""
        if epoch not in self._counts:
            self._counts[epoch] = self.architecture.num_batches(epoch)
        return self._counts[epoch]
