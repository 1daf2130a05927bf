"""P-DARTS (Chen et al. 2019) with the regularization of He et al. 2020."""

from __future__ import annotations

import math

from nas_encoder.genotype import CellArchitecture
from nas_encoder.search.config import SearchConfig, StageConfig
from nas_encoder.search.gradient.choices import (
    KINDS,
    Alive,
    ArchitectureParameters,
    Probabilities,
    all_alive,
)
from nas_encoder.search.gradient.derive import derive_cell, prune
from nas_encoder.spaces import get_space


class PDarts:
    """Stages that deepen the supernet and prune its operations; first-order gradients.

    Deviations from the public code of P-DARTS, as He et al. 2020 ask: dropout follows dilated
    convolutions and average pooling (not skip_connect), and the limit at derivation is on
    average pooling. Our own: the dropout keeps its first value during the warm-up (there it falls
    linearly), the learning rate of the weights follows its cosine from step to step (there from
    epoch to epoch), the architecture's gradient is not clipped (there at a norm of 5), and
    pruning leaves each edge an operation that a genotype within the limits can take.
    """

    def __init__(self, config: SearchConfig) -> None:
        self.config = config
        self.space = get_space(config.space)
        self.limits = dict(config.regularization.at_most)

    def first_alive(self) -> Alive:
        """Return every operation of the space on every edge."""
        return all_alive(self.space)

    def next_alive(self, stage: int, probabilities: Probabilities) -> Alive:
        """Keep each edge's most probable operations, as many as the next stage has."""
        keep = self.config.stages[stage + 1].operations
        return {
            kind: prune(probabilities[kind], keep, self.limits if kind == "normal" else ())
            for kind in KINDS
        }

    def moves_architecture(self, stage: StageConfig, epoch: int) -> bool:
        """Move the architecture once the weights have warmed up."""
        return epoch >= stage.warmup_epochs

    def operation_dropout(self, stage: StageConfig, epoch: int) -> float:
        """Decay exponentially after the warm-up (He et al. 2020, section 4.3)."""
        return stage.dropout * math.exp(
            -self.config.regularization.decay * max(0, epoch - stage.warmup_epochs)
        )

    def derive(self, parameters: ArchitectureParameters) -> CellArchitecture:
        """Derive both cells from the present parameters."""
        return self.derive_from(parameters.probabilities())

    def derive_from(self, probabilities: Probabilities) -> CellArchitecture:
        """Derive both cells; the limits hold for the normal cell."""
        nodes = self.space.nodes
        return CellArchitecture(
            derive_cell(probabilities["normal"], nodes, self.limits),
            derive_cell(probabilities["reduction"], nodes),
        )
