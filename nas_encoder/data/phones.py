"""TIMIT's phone sets: the folding by which phone error rates are counted.

Lee and Hon 1989, table 1: networks learn 48 phones; scoring treats phones that are often confused
as one, which leaves 39. lhotse's TIMIT recipe maps the 60 transcribed ones to the 48.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TIMIT_48_TO_39: dict[str, str] = {
    "ao": "aa",
    "ax": "ah",
    "ix": "ih",
    "el": "l",
    "en": "n",
    "zh": "sh",
    "cl": "sil",
    "vcl": "sil",
    "epi": "sil",
}
"""The phones that change; the other 39 map to themselves."""

FOLDINGS: dict[str, Mapping[str, str]] = {"timit39": TIMIT_48_TO_39}


def fold(tokens: Sequence[str], folding: Mapping[str, str]) -> list[str]:
    """Return the tokens as scored; none is dropped, equal neighbours stay apart."""
    return [folding.get(token, token) for token in tokens]
