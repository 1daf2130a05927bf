"""The choices of a supernet as plain data: the candidates and their probabilities.

A supernet has one or more *kinds* of choices (the edges of its normal cells, the blocks of a
chain, ...); each choice of a kind has candidates, by name.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

# kind -> choice -> names of its candidates, in the space's order
Candidates = Mapping[str, tuple[tuple[str, ...], ...]]
# kind -> choice -> candidate -> probability
Probabilities = Mapping[str, Sequence[Mapping[str, float]]]
# kind -> edge -> probability that its node takes it; empty if not learned
EdgeProbabilities = Mapping[str, Sequence[float]]
NO_EDGES: EdgeProbabilities = MappingProxyType({})


def most_probable(choice: Mapping[str, float]) -> str:
    """Return the most probable candidate; on a tie the first."""
    return max(choice, key=lambda name: choice[name])


def prune(
    probabilities: Sequence[Mapping[str, float]], keep: int, limited: Iterable[str | None] = ()
) -> tuple[tuple[str, ...], ...]:
    """Keep the most probable candidates of each choice (Chen et al. 2019, section 3.2).

    Args:
        probabilities: For each choice, candidate -> probability, in the space's order.
        keep: Candidates to keep, at least 1.
        limited: Candidates that a genotype may have only a few times, or never. Each choice keeps
            at least one other (if it has one), so that a genotype can always be derived.

    Returns:
        For each choice the candidates kept, in the order given.
    """
    bound = set(limited)
    kept = []
    for choice in probabilities:
        names = list(choice)
        ranked = sorted(names, key=lambda name: (-choice[name], names.index(name)))
        chosen = ranked[:keep]
        if all(name in bound for name in chosen):
            replacement = next((name for name in ranked if name not in bound), None)
            if replacement is not None:
                chosen[-1] = replacement
        kept.append(tuple(name for name in names if name in chosen))
    return tuple(kept)
