"""Kendall's tau and its interval, against scipy."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import kendalltau

from nas_encoder.common.ranks import LEAST, MOST, kendall


def pairs(count: int, noise: float, seed: int = 0) -> tuple[list[float], list[float]]:
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 12, count).astype(float)  # with ties
    return list(x), list(x + noise * rng.standard_normal(count))


@pytest.mark.parametrize("count", [2, 5, LEAST, 24, 300])
def test_tau_is_scipys(count: int) -> None:
    x, y = pairs(count, 4.0)
    found = kendall(x, y)
    assert found is not None and found.count == count
    assert found.tau == pytest.approx(float(kendalltau(x, y).statistic), abs=1e-6)
    assert (found.low is None) == (count < LEAST)
    assert ("too few" in found.told()) == (count < LEAST)


def test_the_interval_is_that_of_resampled_pairs() -> None:
    x, y = pairs(24, 6.0)
    found = kendall(x, y)
    assert found is not None and found.low is not None and found.high is not None
    assert found.low < found.tau < found.high and kendall(x, y) == found
    rng, taus = np.random.default_rng(9), []
    for _ in range(1500):
        own = rng.integers(0, 24, 24)
        taus.append(kendalltau(np.take(x, own), np.take(y, own)).statistic)
    assert (found.low, found.high) == pytest.approx(np.quantile(taus, [0.025, 0.975]), abs=0.05)
    wider = kendall(x[:10], y[:10])
    assert wider is not None and wider.low is not None and wider.high is not None
    assert wider.high - wider.low > found.high - found.low


def test_what_cannot_be_ranked() -> None:
    assert kendall([1.0], [2.0]) is None
    assert kendall([], []) is None
    assert kendall([1.0, 2.0, 3.0], [5.0, 5.0, 5.0]) is None
    with pytest.raises(ValueError, match="NaN"):
        kendall([1.0, float("nan")], [1.0, 2.0])
    with pytest.raises(ValueError, match="2 numbers against 1"):
        kendall([1.0, 2.0], [1.0])


def test_of_very_many_some_are_compared() -> None:
    x = [float(n) for n in range(3 * MOST)]
    found = kendall(x, x[::-1])
    assert found is not None and (found.tau, found.count) == (-1.0, MOST)
