"""ST-NAS (Zheng, An, Ou 2021): sampled paths and straight-through gradients."""

from __future__ import annotations

from dataclasses import replace

import torch

from nas_encoder.network.choices.edges import draw_taken
from nas_encoder.network.choices.straight_through import Paths, draw_active, draw_paths
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.steps import Steps, StepsContext
from nas_encoder.search.gradient.strategies.base import Strategy
from nas_encoder.search.gradient.strategies.drawn import DrawingSteps


class STNas(Strategy):
    """One path of the supernet is active in every step.

    The three steps of the paper are three stages of the configuration: ``warmup`` (paths drawn
    uniformly), ``search`` (an architecture step on held-out data, then a weight step along a path
    drawn from the current probabilities) and ``retrain`` (the derived network), each with its own
    early stopping; see :mod:`nas_encoder.network.choices.straight_through` for the gradient. The
    genotype is that of the search epoch with the best validation loss.

    The paper's space has no edges to choose. In cell spaces a path runs through all edges of a
    cell, of which the derived network keeps two per node. With ``edges: learned`` (here the same as
    ``drawn``) two are drawn per node, so that every path is a network of the space; the same
    estimator passes dL/dz_e = <dL/dy, o_e(x)>, for every edge e of a node with output y, to the
    probability that e is taken.

    Deviations from the public code: CTC throughout (there CTC-CRF in retraining); the search
    starts from the last weights of the warm-up (there from the best); the architecture is
    initialized to 1e-3 x standard normal (there to 0); validation draws the same paths every epoch.
    """

    sampled = True

    def step_cost(self, stage: StageConfig, moves: bool) -> float:
        """Count the path; for the architecture, also the others' forward passes (a third each)."""
        compared = 2 if self.config.paths == 2 else stage.operations
        return 1.0 + (1.0 + (compared - 1) / 3 if moves else 0.0)

    def steps(self, context: StepsContext) -> Steps:
        """Return steps along sampled paths."""
        return SampledSteps(context, candidates=2 if self.config.paths == 2 else None)


class SampledSteps(DrawingSteps):
    """Steps along sampled paths.

    An architecture step compares this many ``candidates`` on an edge; None for all.
    """

    def __init__(self, context: StepsContext, candidates: int | None) -> None:
        super().__init__(context)
        self.candidates = candidates
        self.uniform = context.stage.phase == "warmup"

    def architecture_mixture(self) -> dict[str, Paths]:
        """Draw the paths of an architecture step."""
        paths = {
            kind: draw_paths(alphas, self.generator, self.candidates)
            for kind, alphas in self.parameters.alphas.items()
        }
        edges = self.parameters.edges()
        return {
            kind: replace(own, taken=self._taken(kind, self.generator), edges=edges.get(kind))
            for kind, own in paths.items()
        }

    def draw(self, generator: torch.Generator) -> dict[str, Paths]:
        """Draw the paths of a step."""
        weights = self.parameters.weights()
        if self.uniform:
            weights = {kind: torch.ones_like(value) for kind, value in weights.items()}
        return {
            kind: Paths(draw_active(value, generator), taken=self._taken(kind, generator))
            for kind, value in weights.items()
        }

    def _taken(self, kind: str, generator: torch.Generator) -> tuple[bool, ...] | None:
        """Draw two edges of each node; None where nodes take all edges."""
        if kind not in self.parameters.strengths:
            return None
        strengths = self.parameters.strengths[kind].detach()
        return draw_taken(torch.zeros_like(strengths) if self.uniform else strengths, generator)
