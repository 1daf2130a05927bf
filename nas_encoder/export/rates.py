"""Error rates of exported models, with bootstrap intervals (Bisani and Ney 2004, ICASSP)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from nas_encoder.errors import MissingDependencyError

_RESAMPLES, _TAIL = 2000, 0.025


@dataclass(frozen=True)
class Rate:
    """Errors of each utterance and the lengths of the references, in words or characters."""

    errors: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def total(self) -> int:
        """All errors."""
        return sum(self.errors)

    def to_dict(self) -> dict[str, Any]:
        """Return the rate in percent with its 95 % interval over utterances, and the counts."""
        import numpy as np

        count = len(self.errors)
        draws = np.random.default_rng(0).multinomial(count, np.full(count, 1 / count), _RESAMPLES)
        lengths = np.maximum(draws @ np.asarray(self.lengths), 1)
        rates = 100 * (draws @ np.asarray(self.errors)) / lengths
        low, high = np.quantile(rates, [_TAIL, 1 - _TAIL])
        rate = 100 * self.total / max(1, sum(self.lengths))
        interval = [round(float(low), 2), round(float(high), 2)]
        return {"percent": round(rate, 2), "interval": interval, "errors": self.total}


def rates_of(said: Sequence[str], heard: Sequence[str]) -> dict[str, Rate]:
    """Return ``wer`` and ``cer`` of texts; characters include the spaces between words.

    Raises:
        MissingDependencyError: kaldialign is missing.
    """
    try:
        from kaldialign import edit_distance
    except ModuleNotFoundError as error:
        if error.name != "kaldialign":
            raise
        raise MissingDependencyError("kaldialign", "export", "counting errors") from error
    found = {}
    for name, units in (("wer", str.split), ("cer", lambda text: list(" ".join(text.split())))):
        pairs = [(units(a), units(b)) for a, b in zip(said, heard, strict=True)]
        errors = tuple(int(edit_distance(a, b)["total"]) for a, b in pairs)
        found[name] = Rate(errors, tuple(len(a) for a, _ in pairs))
    return found
