"""What a gradient strategy decides; the loop does the rest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

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


class GradientStrategy(Protocol):
    """A way to search with gradients on a supernet.

    Attributes:
        config: The strategy's configuration.
        network: Returns the options of a stage's network.
    """

    config: StrategyConfig
    network: NetworkOf

    def __init__(self, config: StrategyConfig, network: NetworkOf) -> None:
        """Take the checked sections."""

    def first_candidates(self) -> Candidates:
        """Return the choices of the first stage."""

    def next_candidates(self, stage: int, probabilities: Probabilities) -> Candidates:
        """Return the choices of stage ``stage + 1`` from the result of stage ``stage``."""

    def moves_architecture(self, stage: StageConfig, epoch: int) -> bool:
        """Return whether the architecture parameters move in this epoch of a stage."""

    def operation_dropout(self, stage: StageConfig, epoch: int) -> float:
        """Return the dropout after regularized operations in this epoch."""

    def step_cost(self, stage: StageConfig, moves: bool) -> float:
        """Return roughly a step's time, relative to one of the derived network; for an ETA.

        ``moves``: whether the architecture moves too.
        """

    def derive(self, parameters: ArchitectureParameters) -> Any:
        """Return the architecture that the parameters encode."""

    def derive_from(self, probabilities: Probabilities, edges: EdgeProbabilities = NO_EDGES) -> Any:
        """Return the architecture that recorded probabilities encode; deterministic."""

    def supernet(self, candidates: Candidates, stage: StageConfig, vocabulary: int) -> nn.Module:
        """Build the network of a stage, ``forward(x, lengths, weights, dropout)``."""

    def steps(self, context: StepsContext) -> Steps:
        """Return the steps of a stage."""


class Strategy:
    """What strategies have in common: mixtures, one or more stages, first-order gradients."""

    sampled = False  # whether the supernet's choices are paths

    def __init__(self, config: StrategyConfig, network: NetworkOf) -> None:
        self.config = config
        self.network = network
        self.space = get_space(config.space)
        self.limits = dict(config.regularization.at_most)

    def first_candidates(self) -> Candidates:
        """Return every operation of the space on every edge."""
        return self.space.first_candidates(self.config.learns_edges)

    def next_candidates(self, stage: int, probabilities: Probabilities) -> Candidates:
        """Keep each edge's most probable operations, as many as the next stage has."""
        keep = self.config.stages[stage + 1].operations
        return self.space.prune(probabilities, keep, self.limits)

    def moves_architecture(self, stage: StageConfig, epoch: int) -> bool:
        """Move the architecture in a search stage, once the weights have warmed up."""
        return stage.phase == "search" and epoch >= stage.warmup_epochs

    def operation_dropout(self, stage: StageConfig, epoch: int) -> float:
        """Return the dropout of the stage."""
        return stage.dropout

    def step_cost(self, stage: StageConfig, moves: bool) -> float:
        """Count the operations of a mixture; both steps take about equally long."""
        return stage.operations * (2.0 if moves else 1.0)

    def derive(self, parameters: ArchitectureParameters) -> Any:
        """Derive an architecture from the current parameters."""
        return self.derive_from(parameters.probabilities(), parameters.edge_probabilities())

    def derive_from(self, probabilities: Probabilities, edges: EdgeProbabilities = NO_EDGES) -> Any:
        """Derive an architecture from recorded probabilities."""
        return self.space.derive(probabilities, self.limits, edges)

    def supernet(self, candidates: Candidates, stage: StageConfig, vocabulary: int) -> nn.Module:
        """Build the space's supernet with a CTC output."""
        options = self.network(stage)
        regularized = self.config.regularization.operations
        supernet = self.space.supernet
        encoder = supernet.build(self.space, candidates, options, regularized, self.sampled)
        return CtcNetwork(encoder, vocabulary)

    def steps(self, context: StepsContext) -> Steps:
        """Return first-order steps."""
        if self.config.edges == "drawn":
            return DrawnEdgesSteps(context)
        return Steps(context)
