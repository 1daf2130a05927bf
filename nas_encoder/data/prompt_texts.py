"""What is said in a telephone prompt of Asterisk, from its line in ``core-sounds-LANGUAGE.txt``.

The lines were written for those who record the prompts, not for recognizers: some describe a
sound, hold remarks for the speaker, or name a key by its sign. Where the words that were spoken
are not certain, :func:`spoken` gives the reason instead.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

DIGITS: dict[str, tuple[str, ...]] = {
    "en": tuple("zero one two three four five six seven eight nine".split()),
    "es": tuple("cero uno dos tres cuatro cinco seis siete ocho nueve".split()),
    "fr": tuple("zéro un deux trois quatre cinq six sept huit neuf".split()),
    "it": tuple("zero uno due tre quattro cinque sei sette otto nove".split()),
    "ru": tuple("ноль один два три четыре пять шесть семь восемь девять".split()),
}
"""Language -> the words of 0 to 9, as the prompts ``digits/0`` to ``digits/9`` have them."""

_LATIN = "abcdefghijklmnopqrstuvwxyz"
_LETTERS = {
    "en": _LATIN,
    "es": _LATIN,
    "fr": _LATIN + "àâçéèêëîïôöùûüœæÿ",
    "it": _LATIN + "àèéìòù",
    "ru": "абвгдежзийклмнопрстуфхцчшщъыьэюя",
}
# Most Spanish lines are written without accents and tildes, a few with; ё is optional in Russian.
_FOLDED = {
    "es": str.maketrans("áéíóúüñ", "aeiouun"),
    "ru": str.maketrans("ё", "е"),
}
_SOUNDS = re.compile(
    r"silence/.*|beep|beeperr|(a|de)scending-2tone|tt-monkeys|confbridge-(join|leave)"
)
# Abbreviations of channels, which some languages write in small letters.
_CHANNELS = re.compile(r"spy-(dahdi|h323|iax2?|mgcp|misdn|nbs|sip|usbradio)")
_SIGN = re.compile(r"\[[^\w\]]*\]")  # of the key that the text names
_LOST = re.compile(r"\?(?=\s*[a-zà-ÿ])|\ufffd|\w'(?=\s)")  # "sar? esattamente", "E' in uso"
_ENTRY = re.compile(r"[a-z]+(-[a-z0-9]+)+:")
_ABBREVIATION = re.compile(r"\b[^\W\d_a-zà-ÿа-яё]{2,}\d*\b|\b(\w\.){2,}|\b[^\W\d_]( [A-Z]\b){2,}")
_NUMBER = re.compile(r"\d{2}|\d[.,]\d|[^\W\d_]\d|\d[^\W\d_]")
_PAUSES = re.compile(r"[-.,;:!?¡¿…–—\"«»“”]|'(?!\w)|(?<!\w)'")  # and quotation marks

NO_SPEECH = "a sound, not speech"
NO_TEXT = "no text"
REMARK = "remarks in brackets"
TWO_ENTRIES = "two entries in one line"
LOST = "letters were lost"
ABBREVIATION = "an abbreviation: how it is read is not known"
NUMBER = "a number of several digits"
SIGN = "signs, an address or letters of another language"
LETTER = "a letter: its name is not written"


def entries(lines: Iterable[str]) -> dict[str, list[str]]:
    """Return name -> texts of the lines ``name: text``; usually one text, but some come twice."""
    found: dict[str, list[str]] = {}
    for line in lines:
        name, colon, text = line.lstrip("\ufeff").partition(":")
        if colon and not name.startswith(";"):
            found.setdefault(name.strip(), []).append(text.strip())
    return found


def spoken(name: str, text: str, language: str) -> tuple[str, str]:
    """Return a prompt's text in small letters without punctuation, or why it is not certain.

    Digits become words; hyphens become spaces; apostrophes within words stay. Letters keep their
    diacritics, except in Spanish (accents and tilde) and Russian (ё), where the lines do not agree
    on them.

    Args:
        name: Name of the prompt, ``conf-full``, ``digits/1``.
        text: As written.
        language: A key of DIGITS.

    Returns:
        The text and ``""``, or ``""`` and one of this module's reasons.
    """
    text = unicodedata.normalize("NFC", text).replace("\u2019", "'").replace("\u2018", "'")
    if _SOUNDS.fullmatch(name):
        return "", NO_SPEECH
    text = _SIGN.sub(" ", text).strip()
    if not text:
        return "", NO_TEXT
    refused = {
        REMARK: re.search(r"[()\[\]<>]", text),
        TWO_ENTRIES: _ENTRY.search(text),
        LOST: _LOST.search(text),
        ABBREVIATION: _CHANNELS.fullmatch(name) or _ABBREVIATION.search(text),
        NUMBER: _NUMBER.search(text),
    }
    for reason, match in refused.items():
        if match:
            return "", reason
    words = re.sub(r"\d", lambda digit: f" {DIGITS[language][int(digit[0])]} ", text.lower())
    words = _PAUSES.sub(" ", words.translate(_FOLDED.get(language, {})))
    words = " ".join(words.split())
    if not set(words) <= {*_LETTERS[language], " ", "'"} or "www" in words:
        return "", SIGN
    if not words:
        return "", NO_TEXT
    if len(words) == 1 and name.startswith("letters/"):
        return "", LETTER
    return words, ""
