"""P-DARTS (Chen et al. 2019) with the regularization of He et al. 2020."""

from __future__ import annotations

import math

from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.strategies.base import Strategy


class PDarts(Strategy):
    """Stages that deepen the supernet and prune its operations; first-order gradients.

    Deviations from the public code of P-DARTS, as in He et al. 2020: dropout follows dilated
    convolutions and average pooling (not skip_connect), and derivation limits average pooling.
    Our own: dropout is constant during the warm-up (there it falls linearly), the learning rate of
    the weights follows its cosine per step (there per epoch), the architecture's gradient is not
    clipped (there at a norm of 5), and pruning leaves each edge an operation that a genotype within
    the limits can take. Learned edges are never pruned: a stage starts from the previous stage's
    strengths.
    """

    def operation_dropout(self, stage: StageConfig, epoch: int) -> float:
        """Decay exponentially after the warm-up (He et al. 2020, section 4.3)."""
        return stage.dropout * math.exp(
            -self.config.regularization.decay * max(0, epoch - stage.warmup_epochs)
        )
