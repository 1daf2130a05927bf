"""Rank correlation of a cheap score with what it stands for.

N things that have both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

LEAST = 8  # things without which there is no interval: resamples of fewer are nearly all alike
MOST = 2000  # things that are compared; of more, as many at even distances
LEVEL = 0.95
_RESAMPLES, _LEAST_RESAMPLES = 2000, 200
_WORK = 5e8  # pairs that all resamples may weigh


@dataclass(frozen=True)
class Tau:
    """Kendall's rank correlation.

    Attributes:
        tau: 1 if both rank alike, 0 for no relation, -1 if they rank in opposite order.
        low: Lower end of its 95 % interval; None for fewer than :data:`LEAST` things.
        high: Upper end.
        count: N.
    """

    tau: float
    low: float | None
    high: float | None
    count: int

    def to_dict(self) -> dict[str, float | None]:
        """Return everything as plain values."""
        return asdict(self)

    def told(self) -> str:
        """Return it in words: ``0.52 [0.21, 0.75], n = 24``."""
        if self.low is None or self.high is None:
            return f"{self.tau:.2f}, n = {self.count}, too few for an interval"
        return f"{self.tau:.2f} [{self.low:.2f}, {self.high:.2f}], n = {self.count}"


def kendall(first: Sequence[float], second: Sequence[float], seed: int = 0) -> Tau | None:
    """Return Kendall's tau-b of two numbers of each thing, with a bootstrap percentile interval.

    Things are resampled with replacement; pairs of a thing with itself count as tied. The interval
    covers the choice of things, not the noise of a repeated training.

    Args:
        first: (N,).
        second: (N,).
        seed: Of the resamples.

    Returns:
        None where nothing can be ranked: fewer than two things, or one of the numbers is the same
        for all.

    Raises:
        ValueError: The lengths differ, or a number is NaN.
    """
    if len(first) != len(second):
        raise ValueError(f"{len(first)} numbers against {len(second)}")
    x, y = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    if np.isnan(x).any() or np.isnan(y).any():
        raise ValueError("NaN has no rank")
    if len(x) > MOST:
        places = np.linspace(0, len(x) - 1, MOST).round().astype(int)
        x, y = x[places], y[places]
    # Signs of all differences: (N, N). With how often each thing was drawn they give tau-b.
    a, b = (np.sign(v[:, None] - v[None, :]).astype(np.float32) for v in (x, y))
    same, own, other = a * b, np.abs(a), np.abs(b)

    def taus(drawn: np.ndarray) -> np.ndarray:
        agree, mine, theirs = (((drawn @ m) * drawn).sum(1) for m in (same, own, other))
        untied = np.sqrt(mine * theirs)
        return np.asarray(agree[untied > 0] / untied[untied > 0])

    count = len(x)
    whole = taus(np.ones((1, count), dtype=np.float32))
    if not len(whole):
        return None
    if count < LEAST:
        return Tau(float(whole[0]), None, None, count)
    resamples = max(_LEAST_RESAMPLES, min(_RESAMPLES, int(_WORK / count**2)))
    chances = np.full(count, 1 / count)
    drawn = np.random.default_rng(seed).multinomial(count, chances, resamples)
    found = taus(drawn.astype(np.float32))  # its sums, at most MOST squared, are exact
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(found, [tail, 1 - tail])
    return Tau(float(whole[0]), float(low), float(high), count)
