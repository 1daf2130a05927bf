"""The part of a search space that a table covers."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Protocol

from nas_encoder.genotype import Genotype
from nas_encoder.spaces import SearchSpace


class TrialSpace(Protocol):
    """What trials are drawn from: a :class:`~nas_encoder.spaces.SearchSpace`, or a part of one."""

    @property
    def bounds(self) -> list[int]:
        """Number of values of each choice of :meth:`encode`."""

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a genotype."""

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Return a genotype near another one."""

    def encode(self, genotype: Genotype) -> list[int]:
        """Return the choices as integers."""

    def decode(self, vector: Sequence[int]) -> Genotype:
        """Return the genotype of a vector of choices."""


class Members:
    """Some genotypes of a space (at least two, in a fixed order), as a space with its choices."""

    def __init__(self, whole: SearchSpace, genotypes: Sequence[Genotype]) -> None:
        self.name, self.bounds, self.validate = whole.name, whole.bounds, whole.validate
        self.encode, self.decode = whole.encode, whole.decode  # not only members
        self.genotypes = list(genotypes)
        self.size = len(self.genotypes)
        self.vectors = [whole.encode(genotype) for genotype in genotypes]
        self._nearest: dict[tuple[int, ...], Genotype] = {}

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a member uniformly."""
        return rng.choice(self.genotypes)

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Return another member, probably a near one.

        If the members are sparse, hardly any differs from another in one choice only. So a member
        d choices away is drawn with probability proportional to exp(-d).
        """
        own = self.encode(genotype)
        distances = [distance(own, vector) for vector in self.vectors]
        others = [place for place, d in enumerate(distances) if d]
        powers = [math.exp(-distances[place]) for place in others]
        return self.genotypes[rng.choices(others, powers)[0]]

    def nearest(self, genotype: Genotype) -> Genotype:
        """Return the member that differs in the fewest choices; on a tie the first."""
        vector = tuple(self.encode(genotype))
        if vector not in self._nearest:
            distances = [distance(vector, other) for other in self.vectors]
            self._nearest[vector] = self.genotypes[distances.index(min(distances))]
        return self._nearest[vector]


def distance(a: Sequence[int], b: Sequence[int]) -> int:
    """Return the number of choices in which two vectors differ."""
    return sum(x != y for x, y in zip(a, b, strict=True))
