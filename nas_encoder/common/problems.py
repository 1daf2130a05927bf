"""Checking plain documents: collects every problem with its path in the document."""

from __future__ import annotations

import difflib
import reprlib
from collections.abc import Iterable, Mapping
from typing import Any


class _Repr(reprlib.Repr):
    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to print integers of more than some thousand digits.
        return f"an integer of {x.bit_length()} bits" if x.bit_length() > 128 else repr(x)


_REPR = _Repr()
_REPR.maxstring = 60
_REPR.maxother = 60
_REPR.maxlevel = 3


def show(value: object) -> str:
    """Return a short ``repr`` that stays short however large the value is."""
    return _REPR.repr(value)


def key_path(key: object) -> str:
    """Return a key as written in a path: quoted unless it is short printable text."""
    plain = isinstance(key, str) and 0 < len(key) < 60 and key.isprintable()
    return str(key) if plain else show(key)


def _guess(value: object, known: Iterable[str]) -> str:
    if not isinstance(value, str) or len(value) > 60:
        return ""
    close = difflib.get_close_matches(value, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


class Problems:
    """A list of problems, each led by its path in the document."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def add(self, path: str, text: str) -> None:
        """Record one problem at ``path`` (empty for the document itself)."""
        self.lines.append(f"{path}: {text}" if path else text)

    def __bool__(self) -> bool:
        return bool(self.lines)

    def mapping(
        self, value: object, path: str, required: Iterable[str], optional: Iterable[str] = ()
    ) -> Mapping[str, Any] | None:
        """Check that ``value`` is a mapping with these keys; None where it is no mapping."""
        if not isinstance(value, Mapping):
            self.add(path, f"must be a mapping, got {type(value).__name__} {show(value)}")
            return None
        required = list(required)
        known = [*required, *optional]
        known_text = ", ".join(known)
        dot = f"{path}." if path else ""
        for key in required:
            if key not in value:
                self.add(f"{dot}{key}", "is missing")
        for key in value:
            if key not in known:
                self.add(
                    f"{dot}{key_path(key)}", f"unknown key{_guess(key, known)}; known: {known_text}"
                )
        return value

    def sequence(self, value: object, path: str, at_least: int, at_most: int) -> list[Any] | None:
        """Check that ``value`` is a list of a length in range; None where it is not."""
        if not isinstance(value, (list, tuple)):
            self.add(path, f"must be a list, got {type(value).__name__} {show(value)}")
            return None
        if not at_least <= len(value) <= at_most:
            self.add(path, f"must have {at_least} to {at_most} entries, has {len(value)}")
            return None
        return list(value)

    def integer(self, value: object, path: str, low: int, high: int, why: str = "") -> int | None:
        """Check that ``value`` is an int (not a bool) in ``low..high``; None where it is not."""
        if isinstance(value, bool) or not isinstance(value, int):
            self.add(path, f"must be an integer, got {type(value).__name__} {show(value)}")
            return None
        if not low <= value <= high:
            self.add(path, f"must be in {low}..{high}, got {show(value)}{why}")
            return None
        return value

    def choice(self, value: object, path: str, kind: str, known: Iterable[str]) -> str | None:
        """Check that ``value`` is one of the known names; None where it is not."""
        known = list(known)
        if isinstance(value, str) and value in known:
            return value
        what = "is missing" if value is None else f"unknown {kind} {show(value)}"
        self.add(path, f"{what}{_guess(value, known)}; known: {', '.join(known)}")
        return None


def check_plain(value: object, path: str, problems: Problems, depth: int = 0) -> None:
    """Check that a document holds nothing but plain, bounded YAML types."""
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
        problems.add(path, f"has a character that UTF-8 cannot hold: {show(value)}")
