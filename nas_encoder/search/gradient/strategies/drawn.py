"""Steps that draw from a generator of their own, so that all devices draw alike."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from nas_encoder.network.choices.edges import draw_taken
from nas_encoder.search.gradient.steps import Steps, StepsContext


class DrawingSteps(Steps, ABC):
    """Steps with a random generator, whose state is checkpointed."""

    def __init__(self, context: StepsContext) -> None:
        super().__init__(context)
        self.generator = torch.Generator().manual_seed(context.seed)

    @abstractmethod
    def draw(self, generator: torch.Generator) -> Any:
        """Return the network's ``weights`` for a step."""

    def mixture(self) -> Any:
        """Draw for a weight step."""
        return self.draw(self.generator)

    def architecture_mixture(self) -> Any:
        """Draw for an architecture step."""
        return self.draw(self.generator)

    def score_mixtures(self) -> Iterator[Any]:
        """Draw for each validation batch, the same in every epoch."""
        generator = torch.Generator().manual_seed(self.context.seed)
        while True:
            yield self.draw(generator)

    def state(self) -> dict[str, Any]:
        """Return what a checkpoint needs besides parameters and optimizers."""
        return {"paths": self.generator.get_state()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`state` returned."""
        self.generator.set_state(state["paths"])


class DrawnEdgesSteps(DrawingSteps):
    """Mixtures of operations on two edges of each node, drawn anew in every step.

    With all edges present, weighted or not, long paths through a cell always have short ones in
    parallel, which the derived cell lacks; here each step's network has as many edges as a derived
    one. An edge is multiplied by z (1 where its node takes it, else 0), whose gradient passes
    straight through to the edge's probability, as for operations in ST-NAS (Zheng, An, Ou 2021).

    In a weight step, folded cells (on a CPU, from 8 channels) skip the edges that are left out.
    Merged ones compute them with weight zero: their running statistics then follow all edges.
    """

    def draw(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Draw the edges of a step."""
        edges = self.parameters.edges()
        found = {}
        for kind, weights in self.parameters.weights().items():
            taken = draw_taken(self.parameters.strengths[kind], generator)
            z = weights.new_tensor([float(take) for take in taken])
            found[kind] = (z + (edges[kind] - edges[kind].detach()))[:, None] * weights
        return found
