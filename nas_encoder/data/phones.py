"""TIMIT's phone sets: the folding by which phone error rates are counted.

Lee and Hon 1989, table 1: networks learn 48 phones; in scoring, phones that are often confused
count as one, which leaves 39. lhotse's TIMIT recipe makes the 48 out of the 60 transcribed ones.
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
"""The phones that change; the other 39 stay as they are."""

FOLDINGS: dict[str, Mapping[str, str]] = {"timit39": TIMIT_48_TO_39}


def fold(tokens: Sequence[str], folding: Mapping[str, str]) -> list[str]:
    """Return the tokens used for these in scoring; none is dropped or merged."""
    return [folding.get(token, token) for token in tokens]
