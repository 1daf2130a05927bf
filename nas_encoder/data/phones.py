"""TIMIT's phone sets: the folding by which phone error rates are counted.

Lee and Hon 1989, table 1: networks learn 48 phones; scoring treats phones that are often confused
as one, which leaves 39. The glottal stop ``q`` belongs to neither and is left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

TIMIT_61_TO_48: dict[str, str] = {
    "ax-h": "ax", "axr": "er", "em": "m", "eng": "ng", "hv": "hh", "nx": "n", "ux": "uw",
    "pcl": "cl", "tcl": "cl", "kcl": "cl", "bcl": "vcl", "dcl": "vcl", "gcl": "vcl",
    "h#": "sil", "pau": "sil", "q": "",
    **{phone: phone for phone in (
        "aa", "ae", "ah", "ao", "aw", "ax", "ay", "b", "ch", "d", "dh", "dx", "eh", "el", "en",
        "epi", "er", "ey", "f", "g", "hh", "ih", "ix", "iy", "jh", "k", "l", "m", "n", "ng", "ow",
        "oy", "p", "r", "s", "sh", "t", "th", "uh", "uw", "v", "w", "y", "z", "zh",
    )},
}  # fmt: skip
"""The phones as transcribed; '' is left out."""

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

_61_TO_39 = {old: TIMIT_48_TO_39.get(new, new) for old, new in TIMIT_61_TO_48.items()}
_AS_TRANSCRIBED = {phone: phone for phone in TIMIT_61_TO_48}

PHONE_SETS: dict[int, Mapping[str, str]] = {
    61: _AS_TRANSCRIBED,
    60: _AS_TRANSCRIBED,  # as lhotse and Kaldi count, without q, though they keep it too
    48: TIMIT_61_TO_48,
    39: _61_TO_39,
}
"""Size of a set -> transcribed phone -> phone of the set, or ''."""

FOLDINGS: dict[str, Mapping[str, str]] = {"timit39": _61_TO_39 | TIMIT_48_TO_39}
"""Name -> token -> token as scored, or '': of networks with 61, 48 or 39 phones alike."""


def fold(tokens: Sequence[str], folding: Mapping[str, str]) -> list[str]:
    """Return the tokens as scored; those that fold to '' are left out, equal ones stay apart."""
    return [scored for token in tokens if (scored := folding.get(token, token))]
