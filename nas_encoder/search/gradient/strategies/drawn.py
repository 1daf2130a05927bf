"""Steps that draw: from a generator of their own, so that all devices of a search draw alike."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nas_encoder.network.choices.edges import draw_taken
from nas_encoder.search.gradient.steps import Steps, StepsContext


class DrawingSteps(Steps):
    """Steps with a generator, whose state a checkpoint holds."""

    def __init__(self, context: StepsContext) -> None:
        super().__init__(context)
        self.generator = torch.Generator().manual_seed(context.seed)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint has to hold beside parameters and optimizers."""
        return {"paths": self.generator.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`state` returned."""
        self.generator.set_state(state["paths"])


class DrawnEdgesSteps(DrawingSteps):
    """Mixtures of operations on two edges of each node, which are drawn in every step.

    Where all edges are there, weighed or not, a long way through a cell always has short ones
    beside it, which the derived cell no longer has; here the network of a step has the edges of a
    derived one. An edge is multiplied by z (1 where its node takes it, else 0), and the gradient of
    z passes straight through to the probability that it is taken, as that of an operation does in
    ST-NAS (Zheng, An, Ou 2021).

    In a step of the weights, folded cells (on a CPU, from 8 channels) do not compute edges that are
    left out. Merged ones do, with a share of zero: their running statistics then follow all edges.
    """

    def mixture(self) -> dict[str, Tensor]:
        """Draw the edges of a step of the weights."""
        return self._mixture(self.generator)

    def architecture_mixture(self) -> dict[str, Tensor]:
        """Draw the edges of a step of the architecture."""
        return self._mixture(self.generator)

    def score_mixtures(self) -> Iterator[dict[str, Tensor]]:
        """Draw edges for each batch of the validation data, the same in every epoch."""
        generator = torch.Generator().manual_seed(self.context.seed)
        while True:
            yield self._mixture(generator)

    def _mixture(self, generator: torch.Generator) -> dict[str, Tensor]:
        edges = self.parameters.edges()
        found = {}
        for kind, weights in self.parameters.weights().items():
            taken = draw_taken(self.parameters.strengths[kind], generator)
            z = weights.new_tensor([float(take) for take in taken])
            found[kind] = (z + (edges[kind] - edges[kind].detach()))[:, None] * weights
        return found
