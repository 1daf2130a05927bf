"""Statistics of comparisons, against values by hand and by scipy."""

from __future__ import annotations

import math
import random

import pytest

from nas_encoder.errors import DataError
from tools.results.bootstrap import rate_interval
from tools.results.matched_pairs import matched_pairs, pooled
from tools.results.scoring import Score


def scored(errors: list[int], lengths: list[int] | None = None) -> Score:
    """A score of utterances ``u0``, ``u1``, ...; all errors are substitutions."""
    names = tuple(f"u{place}" for place in range(len(errors)))
    return Score(names, tuple(errors), tuple(lengths or [10] * len(errors)), sum(errors), 0, 0)


def test_matched_pairs_by_hand() -> None:
    # Differences -1, -1, -1, 1: mean -1/2, standard deviation 1, standard error 1/2, so z = -1.
    found = matched_pairs(scored([0, 1, 2, 4]), scored([1, 2, 3, 3]))
    assert (found.mean, found.utterances) == (-0.5, 4)
    assert found.z == pytest.approx(-1.0)
    assert found.p == pytest.approx(0.31731050786)  # two-sided, of |z| = 1


def test_matched_pairs_is_scipys_paired_t_of_many_utterances() -> None:
    from scipy.stats import norm, ttest_rel

    rng = random.Random(1)
    first = [rng.randrange(6) for _ in range(4000)]
    second = [max(0, errors + rng.choice((-1, 0, 0, 1, 1))) for errors in first]
    found = matched_pairs(scored(first), scored(second))
    other = ttest_rel(first, second)
    assert found.z == pytest.approx(float(other.statistic))  # the same; its p has a t distribution
    assert found.p == pytest.approx(2 * float(norm.sf(abs(found.z))))
    assert found.p < 1e-3 and found.mean < 0
    again = matched_pairs(scored(second), scored(first))
    assert (again.mean, again.z, again.p) == (-found.mean, -found.z, found.p)


def test_matched_pairs_without_variation() -> None:
    same = matched_pairs(scored([1, 2]), scored([1, 2]))
    assert (same.z, same.p) == (0.0, 1.0)
    always = matched_pairs(scored([0, 1]), scored([1, 2]))
    assert (always.z, always.p) == (-math.inf, 0.0)


def test_matched_pairs_refuses_other_utterances() -> None:
    with pytest.raises(DataError, match="not scored on the same"):
        matched_pairs(scored([1, 2], [3, 4]), scored([1, 2], [3, 5]))
    with pytest.raises(DataError, match="at least 2 utterances are needed, got 1"):
        matched_pairs(scored([1]), scored([2]))


def test_pooled_trainings_stay_one_observation_an_utterance() -> None:
    first, second = scored([1, 0, 3], [5, 6, 7]), scored([2, 0, 0], [5, 6, 7])
    found = pooled([first, second])
    assert (found.errors, found.lengths) == ((3, 0, 3), (10, 12, 14))
    assert found.rate == pytest.approx((first.rate + second.rate) / 2)
    assert found.substitutions == 6
    # Seeds that err alike do not narrow the interval, as six independent utterances would.
    assert rate_interval(pooled([first, first])) == rate_interval(first)
    with pytest.raises(DataError, match="there are none"):
        pooled([])
    with pytest.raises(DataError, match="not of the same utterances"):
        pooled([first, scored([1, 0, 3])])
