"""What a search space offers to a strategy. This folder imports no torch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Protocol

from nas_encoder.genotype import Genotype


class SearchSpace(Protocol):
    """A set of architectures.

    Attributes:
        name: As in a genotype's ``space``.
        size: Number of genotypes that can be written down in it (isomorphic ones counted
            apart, unless the space says otherwise).
    """

    name: str
    size: int

    @property
    def operations(self) -> tuple[str, ...]:
        """Names of the candidates of one choice, in the supernet's order."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Those of them that a genotype can hold."""

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`."""

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a genotype uniformly."""

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Return a member of the space that differs from ``genotype`` in one choice."""

    def validate(self, genotype: Genotype) -> None:
        """Raise GenotypeError, listing all problems, if ``genotype`` is no member."""

    def encode(self, genotype: Genotype) -> list[int]:
        """Return the choices as integers; :meth:`decode` is its inverse."""

    def decode(self, vector: list[int]) -> Genotype:
        """Return the genotype of a vector of choices."""


class EnumerableSpace(SearchSpace, Protocol):
    """A space that is small enough to be listed."""

    def enumerate(self) -> Iterator[Genotype]:
        """Yield every genotype once, in a fixed order."""
