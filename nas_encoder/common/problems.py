"""Checks plain documents and collects every problem with its path in the document."""

from __future__ import annotations

import copy
import difflib
import re
import reprlib
import sys
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nas_encoder.registry import Names, Registry

EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-3 as text
LARGEST = sys.float_info.max


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to print integers of more than some thousand digits.
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 128 else repr(x)


_REPR = _Repr()
_REPR.maxstring = 60
_REPR.maxother = 60
_REPR.maxlevel = 3


def show(value: object) -> str:
    """Return a ``repr`` that is short however large the value is."""
    return _REPR.repr(value)


def one_line(said: str | BaseException, most: int = 300) -> str:
    """Return at most so many characters of a text or an error on one line.

    An error without a text has the name of its type.
    """
    text = " ".join(str(said).split())
    return (text or (type(said).__name__ if isinstance(said, BaseException) else ""))[:most]


def key_path(key: object) -> str:
    """Return a key as written in a path, quoted unless it is short printable text."""
    plain = isinstance(key, str) and 0 < len(key) < 60 and key.isprintable()
    return str(key) if plain else show(key)


def guess(value: object, known: Iterable[str]) -> str:
    """Return the known name that is like a value, for the end of a message; else nothing."""
    if not isinstance(value, str) or len(value) > 60:
        return ""
    close = difflib.get_close_matches(value, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def is_integer(value: object, low: float = -LARGEST, high: float = LARGEST) -> bool:
    """Return whether a value is an integer (not a bool) in ``low..high``."""
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high


def is_number(value: object, low: float = -LARGEST, high: float = LARGEST) -> bool:
    """Return whether a value is a finite number (not a bool) in ``low..high``."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


class Problems:
    """A list of problems, each starting with its path in the document.

    ``words`` maps keys to the user's names of them, where these differ; an empty name hides a key
    that is not the user's to set.
    """

    def __init__(self, words: Mapping[str, str] | None = None) -> None:
        self.lines: list[str] = []
        self._words = words or {}
        self._places: list[str] = []  # paths of the problems, in the document's keys
        self._prefix = ""

    def under(self, path: str) -> Problems:
        """Return a view of the part of the document at ``path`` that shares the problems."""
        view = copy.copy(self)
        view._prefix = self._full(path)
        return view

    def word(self, key: str) -> str:
        """Return the user's name of a key."""
        return key if self._prefix else self._words.get(key, key) or key

    def add(self, path: str, text: str) -> None:
        """Record one problem at ``path`` (empty for the document itself)."""
        self._places.append(self._full(path))
        shown = self._full(re.sub(r"^\w+", lambda key: self.word(key[0]), path))
        self.lines.append(f"{shown}: {text}" if shown else text)

    def conflict(self, path: str, text: str, *others: str) -> None:
        """Record that a value conflicts with others, unless one of them is itself a problem."""
        if self.sound(path, *others):
            self.add(path, text)

    def sound(self, *paths: str) -> bool:
        """Return whether there is no problem at, above or below any of these paths."""
        return not any(
            re.match(re.escape(outer) + r"($|\W)", inner)
            for path in map(self._full, paths)
            for place in self._places
            for outer, inner in ((path, place), (place, path))
        )

    def _full(self, path: str) -> str:
        dot = "." if self._prefix and path and not path.startswith("[") else ""
        return f"{self._prefix}{dot}{path}"

    def __bool__(self) -> bool:
        return bool(self.lines)

    def mapping(
        self, value: object, path: str, required: Iterable[str], optional: Iterable[str] = ()
    ) -> Mapping[str, Any] | None:
        """Check that ``value`` is a mapping with these keys; None if it is no mapping."""
        if not isinstance(value, Mapping):
            self.add(path, f"must be a mapping, got {type(value).__name__} {show(value)}")
            return None
        required = list(required)
        known = [*required, *optional]
        hidden = {key for key, word in self._words.items() if not word}
        shown = known if path else [self.word(key) for key in known if key not in hidden]
        dot = f"{path}." if path else ""
        for key in required:
            if key not in value:
                self.add(f"{dot}{key}", "is missing")
        for key in value:
            if key not in known:
                self.add(
                    f"{dot}{key_path(key)}",
                    f"unknown key{guess(key, shown)}; known: {', '.join(shown)}",
                )
        return value

    def sequence(self, value: object, path: str, at_least: int, at_most: int) -> list[Any] | None:
        """Check that ``value`` is a list of a length in range; None if not."""
        if not isinstance(value, (list, tuple)):
            self.add(path, f"must be a list, got {type(value).__name__} {show(value)}")
            return None
        if not at_least <= len(value) <= at_most:
            count = f"{at_least} to {at_most}" if at_least < at_most else f"{at_least}"
            self.add(path, f"must have {count} entries, has {len(value)}")
            return None
        return list(value)

    def integer(
        self, value: object, path: str, low: int, high: int | None, why: str = ""
    ) -> int | None:
        """Check that ``value`` is an int (not a bool) in ``low..high``; None if not."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.add(path, f"must be an integer, got {type(value).__name__} {show(value)}")
        elif value < low or high is not None and value > high:
            rule = f"at least {low}" if high is None else f"in {low}..{high}"
            rule = f"{low}" if low == high else rule
            self.add(path, f"must be {rule}, got {show(value)}{why}")
        else:
            return value
        return None

    def number(
        self,
        value: object,
        path: str,
        low: float,
        high: float = LARGEST,
        above: bool = False,
        below: bool = False,
        why: str = "",
    ) -> float | None:
        """Check that ``value`` is a finite number in ``low..high``; None if not.

        ``above`` refuses ``low`` itself, ``below`` refuses ``high``; ``why`` ends the message.
        """
        if is_number(value, low, high) and not (above and value == low or below and value == high):
            return value  # type: ignore[return-value]
        rule = f"{'above' if above else 'from'} {low:g}"
        if not above and not below and high < LARGEST:
            rule = f"in {low:g}..{high:g}"
        elif high < LARGEST:
            rule += f"{' to below' if below else ', at most'} {high:g}"
        if isinstance(value, str) and EXPONENT.fullmatch(value):
            why += " (YAML reads that as text; write 0.001 or 1.0e-3)"
        self.add(path, f"must be a number {rule}, got {show(value)}{why}")
        return None

    def choice(self, value: object, path: str, kind: str, known: Collection[str]) -> str | None:
        """Check that ``value`` is one of the known names; None if not."""
        if isinstance(value, str) and value in known:
            return value
        note = known.note() if isinstance(known, (Names, Registry)) else ""
        what = "is missing" if value is None else f"unknown {kind} {show(value)}"
        self.add(path, f"{what}{guess(value, known)}; known: {', '.join(known)}{note}")
        return None


def check_plain(value: object, path: str, problems: Problems, depth: int = 0) -> None:
    """Check that a document holds only plain, bounded YAML types."""
    if depth > 8:
        problems.add(path, "is nested more than 8 levels deep")
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                problems.add(path, f"keys must be strings, got {show(key)}")
            else:
                _check_text(key, path, problems)
                check_plain(item, f"{path}.{key_path(key)}", problems, depth + 1)
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            check_plain(item, f"{path}[{index}]", problems, depth + 1)
    elif isinstance(value, str):
        _check_text(value, path, problems)
    elif isinstance(value, int) and not isinstance(value, bool):
        if value.bit_length() > 64:
            problems.add(path, "is an integer of more than 64 bits")
    elif value is not None and not isinstance(value, (bool, float)):
        problems.add(
            path,
            "must be a string, number, boolean, null, list or mapping, "
            f"got {type(value).__name__} {show(value)}",
        )


def _check_text(value: str, path: str, problems: Problems) -> None:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        problems.add(path, f"has a character that UTF-8 cannot encode: {show(value)}")
