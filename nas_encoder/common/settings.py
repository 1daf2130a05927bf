"""Settings of the command line (``--set key=value``) on top of a document."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from nas_encoder.common.documents import parse_yaml
from nas_encoder.common.problems import EXPONENT, show
from nas_encoder.errors import ConfigError


def apply_settings(document: Any, settings: Sequence[str]) -> None:
    """Apply ``key=value`` settings to a configuration document, in place.

    Raises:
        ConfigError: A setting is wrong; all problems are listed.
    """
    problems: list[str] = []
    for setting in settings:
        try:
            _apply_setting(document, setting)
        except ConfigError as error:
            problems += [f"{error.subject}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError("command line", problems)


def _apply_setting(document: Any, setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError("--set", [f"must be key=value, got {show(setting)}"])
    value = parse_yaml(text, f"--set {key}", ConfigError)
    if isinstance(value, str) and EXPONENT.fullmatch(value):
        value = float(value)
    *parents, last = key.strip().split(".")
    place = document
    for step in parents:
        place = place[_place(place, step, key)] if _present(place, step) else _new(place, step, key)
    place[_place(place, last, key)] = value


def _present(place: Any, step: str) -> bool:
    return isinstance(place, list) or (isinstance(place, dict) and place.get(step) is not None)


def _new(place: Any, step: str, key: str) -> Any:
    place[_place(place, step, key)] = {}
    return place[step]


def _place(place: Any, step: str, key: str) -> int | str:
    """Return the index or key that ``step`` means in a list or mapping."""
    if isinstance(place, dict):
        return step
    if not isinstance(place, list):
        raise ConfigError(f"--set {key}", [f"{step!r}: its parent is no mapping and no list"])
    if not step.isdecimal() or int(step) >= len(place):
        raise ConfigError(f"--set {key}", [f"{step!r} must be an index in 0..{len(place) - 1}"])
    return int(step)
