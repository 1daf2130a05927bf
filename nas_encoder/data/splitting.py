"""How texts become tokens and back, as ESPnet's tokenizers do it for lists that ESPnet makes.

Characters and phones follow ``CharTokenizer`` and ``PhonemeTokenizer`` of espnet2.text to the
letter: every space counts, nothing is stripped or normalized.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from nas_encoder.data.mandarin import UNITS, guess_units, split_units
from nas_encoder.errors import DataError, MissingDependencyError

BLANK = "<blank>"
UNK = "<unk>"
SPACE = "<space>"
SPECIAL = frozenset((BLANK, UNK, SPACE, "<sos/eos>", "<sos>", "<eos>"))
SPLIT_KINDS = ("char", "word", "phone", *UNITS)  # texts are split, nothing is learned
TOKEN_KINDS = (*SPLIT_KINDS, "bpe")
WORD_MARK = "\u2581"  # sentencepiece's, in front of a word
_TAG = re.compile(r"<.+>|\[.+\]", re.DOTALL)
_KINDS_OF_FOLDERS = {"char": "char", "word": "word", "phn": "phone"}  # of ESPnet's recipes


def splitter(kind: str, tokens: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what splits texts into tokens of a kind other than ``bpe``.

    In a list of characters, tokens of several characters (``<noise>``, ``[laughter]``) are what
    ESPnet calls non-linguistic symbols: the longest that fits is one token, wherever it stands.
    """
    if kind == "char":
        tags = sorted((t for t in tokens if len(t) > 1 and t not in SPECIAL), key=len, reverse=True)
        pattern = re.compile("|".join([*map(re.escape, tags), "."]), re.DOTALL)
        return lambda text: [SPACE if p == " " else p for p in pattern.findall(text)]
    others: dict[str, Callable[[str], list[str]]] = {
        "word": lambda text: text.split(),
        "phone": _phones,
        **{units: partial(split_units, units=units) for units in UNITS},
    }
    return others[kind]


def guess_kind(tokens: Sequence[str], folder: str) -> str:
    """Return the kind of the tokens in a list, from its folder in an ESPnet recipe or its look."""
    plain = [token for token in tokens if token not in SPECIAL and not _TAG.fullmatch(token)]
    if any(WORD_MARK in token for token in plain):
        return "bpe"
    short = [token for token in plain if len(token) == 1]
    if folder in _KINDS_OF_FOLDERS and (folder != "char" or short):
        return _KINDS_OF_FOLDERS[folder]
    if SPACE in tokens or len(short) == len(plain):
        return "char"
    return guess_units(plain) or "word"


def fault_of(token: str, kind: str) -> str | None:
    """Return the rule that a token breaks, or None.

    ESPnet's lists hold one token a line and lose white space at its end. A character may be white
    space, and the tags among characters may hold some.
    """
    if not token or "\n" in token or "\r" in token:
        return "one token in a line is expected"
    if not is_unicode(token):
        return "a token must be valid Unicode"
    if len(token) == 1:
        plain = kind in ("char", "bpe") and token != " "
        return None if plain or not token.isspace() else "the space is written <space>"
    if token != token.strip() or (kind != "char" and len(token.split()) != 1):
        return "one token without white space is expected"
    return None


def is_unicode(text: str) -> bool:
    """Whether a file can hold a text; escapes in JSON make some that none can."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _phones(text: str) -> list[str]:
    """Split at every space; three in a row stand for the token ' ', a boundary of words."""
    phones = text.replace("   ", f" {SPACE} ").split(" ")
    return [p.replace(SPACE, " ") for p in phones] if "   " in text else phones


def import_sentencepiece(purpose: str) -> Any:
    """Return the package, or say how to get it."""
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise MissingDependencyError("sentencepiece", "bpe", purpose) from error
    return sentencepiece


def load_model(model: bytes, subject: str) -> Any:
    """Return the processor of a serialized sentencepiece model."""
    processor = import_sentencepiece("reading a BPE model").SentencePieceProcessor()
    try:
        processor.LoadFromSerializedProto(model)
    except (RuntimeError, OSError) as error:
        raise DataError(f"sentencepiece model {subject}", [f"cannot be read: {error}"]) from error
    return processor
