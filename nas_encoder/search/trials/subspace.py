"""The part of a search space that has some candidates only."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from nas_encoder.genotype import Genotype
from nas_encoder.spaces import SearchSpace


class Subspace:
    """The genotypes of a space whose choices have some candidates, as a space with its choices.

    Args:
        whole: A space whose choices are those of its kinds, in their order.
        choices: Kind -> its candidates; those not named have all.
    """

    def __init__(self, whole: SearchSpace, choices: Mapping[str, Sequence[str]]) -> None:
        self.whole, self.name = whole, whole.name
        self.bounds, self.validate = whole.bounds, whole.validate
        self.encode, self.decode = whole.encode, whole.decode  # not only members
        self.values = [
            tuple(kind.operations.index(name) for name in choices.get(title, kind.operations))
            for title, kind in whole.kinds.items()
            for _ in kind.names
        ]

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a member; every combination of candidates is equally likely."""
        return self.decode([rng.choice(values) for values in self.values])

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Return a member that differs in one choice from the one nearest to ``genotype``."""
        vector = self.encode(self.nearest(genotype))
        place = rng.choice([i for i, values in enumerate(self.values) if len(values) > 1])
        vector[place] = rng.choice([v for v in self.values[place] if v != vector[place]])
        return self.decode(vector)

    def nearest(self, genotype: Genotype) -> Genotype:
        """Return the genotype if it is a member, else one that keeps all choices that may stay.

        A sampler that knows no limits draws the other choices; they are spread evenly.
        """
        vector = self.encode(genotype)
        kept = [
            value if value in values else values[value % len(values)]
            for value, values in zip(vector, self.values, strict=True)
        ]
        return genotype if kept == vector else self.decode(kept)
