"""What a gradient strategy decides; everything else is the loop's."""

from __future__ import annotations

from typing import Protocol

from nas_encoder.genotype import CellArchitecture
from nas_encoder.search.config import SearchConfig, StageConfig
from nas_encoder.search.gradient.choices import Alive, ArchitectureParameters, Probabilities


class GradientStrategy(Protocol):
    """A way to search with gradients on a supernet."""

    def __init__(self, config: SearchConfig) -> None:
        """Take the checked configuration."""

    def first_alive(self) -> Alive:
        """Return the choices of the first stage."""

    def next_alive(self, stage: int, probabilities: Probabilities) -> Alive:
        """Return the choices of stage ``stage + 1`` from the result of stage ``stage``."""

    def moves_architecture(self, stage: StageConfig, epoch: int) -> bool:
        """Return whether the architecture parameters move in this epoch of a stage."""

    def operation_dropout(self, stage: StageConfig, epoch: int) -> float:
        """Return the probability of dropout behind regularized operations in this epoch."""

    def derive(self, parameters: ArchitectureParameters) -> CellArchitecture:
        """Return the architecture that the parameters stand for."""

    def derive_from(self, probabilities: Probabilities) -> CellArchitecture:
        """Return the same from recorded probabilities; draws nothing at random."""
