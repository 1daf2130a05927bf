"""Mandarin texts as the units of He et al. 2020: tonal syllables, and phones of English.

They model "1394 Mandarin syllables, 39 English phones, and a blank" (section 4.1), without a list.
The rules here:

* One syllable for each hanzi, with its tone (5 is the neutral one, ü is written v): ``r``-coloured
  syllables stay two, ``hua1 er2``.
* Hanzi with several readings get the one that pypinyin's dictionary of phrases gives them where
  they stand (it looks for the longest phrases, which is not always right), else their most
  frequent. Tones are those of that dictionary, which has the sandhi of
  some phrases (``bu2 shi4``) and not of others.
* Latin letters, of any width and case, are read by their English names: ``T`` is ``T IY``.
* Tags such as ``<unk>`` stay. Anything else, and hanzi that have no reading, is refused.
* A text without hanzi is taken for units already, and split at white space.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

from nas_encoder.common.problems import show
from nas_encoder.errors import DataError, MissingDependencyError

UNITS = ("syllable", "initial_final")
HANZI = "\u3007\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
ENGLISH_PHONES = tuple(
    "AA AE AH AO AW AY B CH D DH EH ER EY F G HH IH IY JH K L M N NG OW OY P R S SH T TH UH UW V W "
    "Y Z ZH".split()
)
"""The 39 of the CMU dictionary, without stress."""

_NAMES = (
    "EY|B IY|S IY|D IY|IY|EH F|JH IY|EY CH|AY|JH EY|K EY|EH L|EH M|EH N|OW|P IY|K Y UW|AA R|EH S|"
    "T IY|Y UW|V IY|D AH B AH L Y UW|EH K S|W AY|Z IY"
)
LETTERS = dict(zip("ABCDEFGHIJKLMNOPQRSTUVWXYZ", _NAMES.split("|"), strict=True))
"""Letter -> phones of its name."""

INITIALS = frozenset("b p m f d t n l g k h j q x zh ch sh r z c s".split())
_SYLLABLE = re.compile(r"[a-zê]+[1-5]")
_PIECES = re.compile(
    rf"(?P<hanzi>[{HANZI}]+)|(?P<latin>[A-Z]+)|(?P<tag><[^<>\s]+>)|\s+|(?P<other>.)"
)
_HANZI = re.compile(f"[{HANZI}]")
_NARROW = {code: code - 0xFEE0 for code in range(0xFF01, 0xFF5F)}


def has_hanzi(text: str) -> bool:
    """Whether a text holds hanzi, and so is not yet in units."""
    return _HANZI.search(text) is not None


def convert(text: str, units: str) -> list[str]:
    """Return the units of a text in hanzi.

    Args:
        text: As written, with or without white space between words.
        units: ``syllable`` (``jin1``) or ``initial_final`` (``j in1``; a syllable without an
            initial is its final alone, ``i1`` for ``yi1``).

    Raises:
        DataError: A character has no reading by the rules above.
        MissingDependencyError: pypinyin is not installed.
    """
    found: list[str] = []
    wrong: list[str] = []
    tags = re.split(r"(<[^<>\s]+>)", text)  # these keep their case
    plain = "".join(part if i % 2 else narrowed(part).upper() for i, part in enumerate(tags))
    for piece in _PIECES.finditer(plain):
        if piece["hanzi"]:
            found += _read(piece["hanzi"], units, wrong)
        elif piece["latin"]:
            found += " ".join(LETTERS[letter] for letter in piece["latin"]).split()
        elif piece["tag"]:
            found.append(piece["tag"])
        elif piece["other"]:
            wrong.append(piece["other"])
    if wrong:
        rule = "has no reading: only hanzi and Latin letters have; write digits out, and no marks"
        raise DataError(
            f"text {show(text)}", [f"{show(one)} {rule}" for one in dict.fromkeys(wrong)]
        )
    return found


def narrowed(text: str) -> str:
    """Return a text with full-width Latin letters, digits and marks in their usual width."""
    return text.translate(_NARROW)


def split_units(text: str, units: str) -> list[str]:
    """Return the units of a text in hanzi, or of one that is in units already."""
    return convert(text, units) if has_hanzi(text) else text.split()


def inventory(units: str) -> list[str]:
    """Return all units that texts of GB 2312's 6,763 hanzi and of Latin letters can have, sorted.

    Readings in pypinyin's dictionaries, of single hanzi and of phrases: 1,349 syllables, and the
    39 phones of English.

    Raises:
        MissingDependencyError: pypinyin is not installed.
    """
    _import_pypinyin()
    from pypinyin.constants import PHRASES_DICT, PINYIN_DICT

    readings = {r for code, all_ in PINYIN_DICT.items() if _common(code) for r in all_.split(",")}
    readings |= {syllable[0] for phrase in PHRASES_DICT.values() for syllable in phrase}
    return [*sorted({unit for one in readings for unit in _spelled(one, units)}), *ENGLISH_PHONES]


def guess_units(tokens: Iterable[str]) -> str | None:
    """Return which units a list of tokens holds, if any."""
    left = set(tokens) - set(ENGLISH_PHONES)
    toned = {token for token in left if _SYLLABLE.fullmatch(token)}
    if not toned or left - toned - INITIALS:
        return None
    return "initial_final" if left - toned else "syllable"


def _common(code: int) -> bool:
    """Whether a character is in GB 2312."""
    try:
        return len(chr(code).encode("gb2312")) == 2
    except UnicodeEncodeError:
        return False


def _read(hanzi: str, units: str, wrong: list[str]) -> Iterator[str]:
    """Yield the units of a run of hanzi; add those without a reading to ``wrong``."""
    style = _import_pypinyin().Style.TONE
    # With tone marks, from which both kinds of units are spelled.
    for one, reading in zip(hanzi, _import_pypinyin().lazy_pinyin(hanzi, style=style), strict=True):
        if one == reading or has_hanzi(reading):
            wrong.append(one)
        else:
            yield from _spelled(reading, units)


@lru_cache(maxsize=4096)
def _spelled(reading: str, units: str) -> tuple[str, ...]:
    """Return the units of a syllable with a tone mark."""
    from pypinyin.style import convert as styled

    style = _import_pypinyin().Style
    if units == "syllable":
        return (_toned(styled(reading, style.TONE3, strict=True)),)
    initial = styled(reading, style.INITIALS, strict=True)
    final = _toned(styled(reading, style.FINALS_TONE3, strict=True))
    return (initial, final) if initial else (final,)


def _toned(unit: str) -> str:
    return unit if unit[-1:].isdigit() else f"{unit}5"


def _import_pypinyin() -> Any:
    try:
        import pypinyin
    except ModuleNotFoundError as error:
        raise MissingDependencyError("pypinyin", "search", "turning hanzi to syllables") from error
    return pypinyin
