"""Reading and checking the sections of a search configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from nas_encoder.genotype.validation import Problems, show
from nas_encoder.search.sections import StageConfig, StopConfig

EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-3 as text


def read_section(cls: type[Any], value: object, path: str, problems: Problems) -> Any:
    """Read one section; what it does not hold is left at its default."""
    names = [f.name for f in fields(cls)]
    mapping = problems.mapping(value, path, (), names)
    known = {key: tupled(item) for key, item in (mapping or {}).items() if key in names}
    return cls(**known)


def read_stage(value: object, path: str, problems: Problems) -> StageConfig:
    """Read one stage."""
    if isinstance(value, Mapping) and value.get("stop") is not None:
        stop = read_section(StopConfig, value["stop"], f"{path}.stop", problems)
        value = {**value, "stop": stop}
    found: StageConfig = read_section(StageConfig, value, path, problems)
    return found


def check_stop(stop: StopConfig, path: str, problems: Problems) -> None:
    """Check when a stage ends."""
    check_integers(
        stop,
        path,
        {"min_epochs": (0, 10**5), "patience": (1, 10**5), "decays": (0, 100)},
        problems,
    )
    check_number(stop.min_gain, f"{path}.min_gain", 0, 1e6, problems)
    check_number(stop.factor, f"{path}.factor", 1e-6, 1, problems)


def tupled(value: Any) -> Any:
    """Return lists as tuples, which frozen dataclasses hold."""
    return tuple(value) if isinstance(value, list) else value


def plain_types(value: Any) -> Any:
    """Return a document in plain YAML types."""
    if isinstance(value, Mapping):
        return {key: plain_types(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain_types(item) for item in value]
    return value


def check_number(value: object, path: str, low: float, high: float, problems: Problems) -> None:
    """Check that a value is a number in ``low..high``."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        text = f"must be a number in {low:g}..{high:g}, got {show(value)}"
        if isinstance(value, str) and EXPONENT.fullmatch(value):
            text += " (YAML reads that as text; write 0.001 or 1.0e-3)"
        problems.add(path, text)


def check_integers(
    section: object, path: str, bounds: Mapping[str, tuple[int, int]], problems: Problems
) -> None:
    """Check that fields of a section are integers in their ranges."""
    for name, (low, high) in bounds.items():
        problems.integer(getattr(section, name), f"{path}.{name}", low, high)
