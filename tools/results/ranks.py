"""Rank tests of a few numbers against others, and what the best of some draws is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence


def rank_test(errors: Sequence[float], others: Sequence[float]) -> dict[str, float]:
    """Compare a strategy's errors with those of random genotypes by Mann-Whitney's U.

    Returns:
        ``lower``, the probability that a genotype of the strategy has a lower error than a random
        one (ties count half), 0.5 if there is no difference; ``p``, two-sided, exact without ties:
        how often chance ranks at least as unequally; ``smallest_p``, that of a complete separation
        of this many genotypes.
    """
    from scipy.stats import mannwhitneyu

    pairs = len(errors) * len(others)
    larger = float(mannwhitneyu(errors, others).statistic)  # pairs in which `errors` is larger
    apart = mannwhitneyu(range(len(errors)), range(100, 100 + len(others)), method="exact")
    return {
        "lower": 1.0 - larger / pairs,
        # Of nothing but ties scipy gives 1 or nan, by version.
        "p": float(mannwhitneyu(errors, others).pvalue) if len({*errors, *others}) > 1 else 1.0,
        "smallest_p": float(apart.pvalue),
    }


def expected_best(errors: Sequence[float], count: int) -> float:
    """Return the expected minimum of ``count`` errors drawn without replacement."""
    ranked = sorted(errors)
    size = len(ranked)
    count = min(count, size)
    ways = math.comb(size, count)
    return sum(
        error * math.comb(size - place - 1, count - 1) / ways for place, error in enumerate(ranked)
    )
