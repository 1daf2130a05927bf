"""How long things took, in memory that does not grow with their number."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field

_STEP = math.log(1.02)  # so exact are the figures
_LEAST = 1e-6  # seconds


@dataclass
class Quantiles:
    """Counts durations in classes that are 2 % wide.

    Attributes:
        count: How many there were.
    """

    count: int = 0
    _classes: Counter[int] = field(default_factory=Counter)

    def add(self, seconds: float) -> None:
        """Count a duration."""
        self.count += 1
        self._classes[round(math.log(max(seconds, _LEAST)) / _STEP)] += 1

    def at(self, share: float) -> float:
        """Return the duration, in seconds, that so many of them do not exceed; NaN if none are."""
        passed, wanted = 0, max(1, math.ceil(share * self.count))
        for number in sorted(self._classes):
            passed += self._classes[number]
            if passed >= wanted:
                return math.exp(number * _STEP)
        return math.nan

    def to_dict(self) -> dict[str, float | int | None]:
        """Return the number, and p50 and p95 in milliseconds."""
        found: dict[str, float | int | None] = {"count": self.count}
        for name, share in (("p50_ms", 0.5), ("p95_ms", 0.95)):
            found[name] = round(1000 * self.at(share), 2) if self.count else None
        return found


@dataclass
class Figures:
    """What is known about streams that were played.

    Attributes:
        first: Latencies of first words: from the beginning of the word's first frame until its
            text is there. At real time only.
        final: From the last sample until the last text is there; likewise.
        steps: Times of a step of the model, of all streams that were ready together.
        audio: Seconds that were recognized.
        streams: How many ended well.
        failed: How many did not.
    """

    first: Quantiles = field(default_factory=Quantiles)
    final: Quantiles = field(default_factory=Quantiles)
    steps: Quantiles = field(default_factory=Quantiles)
    audio: float = 0.0
    streams: int = 0
    failed: int = 0
