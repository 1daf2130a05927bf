"""What a gradient strategy decides; the loop does the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from nas_encoder.common.choices import NO_EDGES, Candidates, EdgeProbabilities, Probabilities
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search.config.sections import StageConfig, StrategyConfig
from nas_encoder.search.gradient.steps import Steps, StepsContext
from nas_encoder.search.gradient.strategies.drawn import DrawnEdgesSteps
from nas_encoder.spaces import get_space
from nas_encoder.spaces.options import NetworkOptions

NetworkOf = Callable[[StageConfig], NetworkOptions]


class Strategy:
    """A way to search with gradients on a supernet; others override some of it.

    Attributes:
        config: The strategy's configuration.
        network: Returns the options of a stage's network.
        sampled: Whether the supernet's choices are paths.
    """

    sampled = False

    def __init__(self, config: StrategyConfig, network: NetworkOf) -> None:
        self.config = config
        self.network = network
        self.space = get_space(config.space)
        self.limits = dict(config.regularization.at_most)

    def first_candidates(self) -> Candidates:
        """Return the choices of the first stage: every operation of the space on every edge."""
        return self.space.first_candidates(self.config.learns_edges)

    def next_candidates(self, stage: int, probabilities: Probabilities) -> Candidates:
        """Return the choices of stage ``stage + 1`` from the result of stage ``stage``.

        They are each edge's most probable operations, as many as the next stage has.
        """
        keep = self.config.stages[stage + 1].operations
        return self.space.prune(probabilities, keep, self.limits)

    def moves_architecture(self, stage: StageConfig, epoch: int) -> bool:
        """Return whether the architecture moves in this epoch: in a search, after the warm-up."""
        return stage.phase == "search" and epoch >= stage.warmup_epochs

    def operation_dropout(self, stage: StageConfig, epoch: int) -> float:
        """Return the dropout after regularized operations in this epoch."""
        return stage.dropout

    def step_cost(self, stage: StageConfig, moves: bool) -> float:
        """Return roughly a step's time, relative to one of the derived network; for an ETA.

        A mixture counts its operations, twice if the architecture ``moves`` too.
        """
        return stage.operations * (2.0 if moves else 1.0)

    def derive(self, parameters: ArchitectureParameters) -> Any:
        """Return the architecture that the parameters encode."""
        return self.derive_from(parameters.probabilities(), parameters.edge_probabilities())

    def derive_from(self, probabilities: Probabilities, edges: EdgeProbabilities = NO_EDGES) -> Any:
        """Return the architecture that recorded probabilities encode; deterministic."""
        return self.space.derive(probabilities, self.limits, edges)

    def supernet(self, candidates: Candidates, stage: StageConfig, vocabulary: int) -> nn.Module:
        """Build the network of a stage, ``forward(x, lengths, weights, dropout)``."""
        options = self.network(stage)
        regularized = self.config.regularization.operations
        supernet = self.space.supernet
        encoder = supernet.build(self.space, candidates, options, regularized, self.sampled)
        return CtcNetwork(encoder, vocabulary)

    def steps(self, context: StepsContext) -> Steps:
        """Return the steps of a stage."""
        return (DrawnEdgesSteps if self.config.edges == "drawn" else Steps)(context)
