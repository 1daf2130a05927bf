"""Configurations: shipped or a file, with settings of the command line (``--set key=value``)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import parse_yaml, read_yaml
from nas_encoder.common.problems import EXPONENT, show
from nas_encoder.common.resources import find_config
from nas_encoder.errors import ConfigError


def read_config(kind: str, name_or_path: str | Path, settings: Sequence[str]) -> tuple[Any, Path]:
    """Return the document of a shipped configuration or a file, with settings, and its path.

    Raises:
        ConfigError: There is no such file, or a setting is wrong; all problems are listed.
    """
    path = find_config(name_or_path, kind)
    document = read_yaml(path, ConfigError)
    if isinstance(document, dict) and {"schema", "space", "provenance"} <= set(document):
        raise ConfigError(str(path), [f"is a genotype, not a configuration ({kind})"])
    problems: list[str] = []
    for setting in settings:
        try:
            _apply_setting(document, setting)
        except ConfigError as error:
            problems += [f"{error.subject}: {problem}" for problem in error.problems]
    if problems:
        raise ConfigError("command line", problems)
    return document, path


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
        at = _place(place, step, key)
        if isinstance(place, dict) and place.get(at) is None:
            place[at] = {}
        place = place[at]
    place[_place(place, last, key)] = value


def _place(place: Any, step: str, key: str) -> int | str:
    """Return the index or key that ``step`` means in a list or mapping."""
    if isinstance(place, dict):
        return step
    if not isinstance(place, list):
        raise ConfigError(f"--set {key}", [f"{step!r}: its parent is no mapping and no list"])
    if not step.isdecimal() or int(step) >= len(place):
        raise ConfigError(f"--set {key}", [f"{step!r} must be an index in 0..{len(place) - 1}"])
    return int(step)
