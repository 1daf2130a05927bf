"""Bootstrap intervals of error rates (Bisani and Ney 2004, ICASSP).

Utterances are drawn with replacement; a resample's rate is its errors over its reference length.
Two systems are compared on the *same* resamples, which cancels what makes an utterance hard for
both. The intervals cover the choice of test utterances, not that of the training's seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tools.results.scoring import Score

RESAMPLES = 10_000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """An estimate and its bootstrap percentile interval; rates, not percent."""

    estimate: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether both ends are on the same side of 0."""
        return self.low > 0 or self.high < 0


def rate_interval(score: Score, seed: int = 0, resamples: int = RESAMPLES) -> Interval:
    """Return the error rate with its interval."""
    return _interval(score.rate, _rates(score, seed, resamples))


def paired_difference(
    first: Score, second: Score, seed: int = 0, resamples: int = RESAMPLES
) -> Interval:
    """Return the rate of ``first`` minus that of ``second``; below 0, the first is better.

    Raises:
        ValueError: The systems were scored on different utterances or references.
    """
    if first.utterances != second.utterances or first.lengths != second.lengths:
        raise ValueError("the two systems were not scored on the same utterances")
    differences = _rates(first, seed, resamples) - _rates(second, seed, resamples)
    return _interval(first.rate - second.rate, differences)


def _rates(score: Score, seed: int, resamples: int) -> NDArray[np.float64]:
    """Return the rate in each resample (R,); the same seed draws the same utterances."""
    count = len(score.utterances)
    # How often each utterance is drawn: (R, N). Its sums are exact in float64.
    drawn = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), resamples)
    errors = drawn @ np.asarray(score.errors, dtype=np.float64)
    lengths = drawn @ np.asarray(score.lengths, dtype=np.float64)
    # A resample may draw only utterances with empty references.
    return np.divide(errors, lengths, out=np.zeros_like(errors), where=lengths > 0)


def _interval(estimate: float, values: NDArray[np.float64]) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(values, [tail, 1 - tail])
    return Interval(float(estimate), float(low), float(high))
