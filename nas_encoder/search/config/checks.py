"""Reading and checking the sections of a search configuration."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from nas_encoder.common.problems import Problems, show
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.training.config import StopConfig

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


def check_tokens(config: Any, kinds: Sequence[str], problems: Problems) -> None:
    """Check what belongs to ``config.tokens``."""
    if config.tokens == "bpe" or config.bpe_size is not None:
        problems.integer(config.bpe_size, "bpe_size", 2, 10**6, " (the pieces of 'tokens: bpe')")
        if config.tokens != "bpe":
            problems.add("bpe_size", f"is for 'tokens: bpe', got tokens {show(config.tokens)}")
    if config.token_kind is not None:
        problems.choice(config.token_kind, "token_kind", "kind of tokens", kinds)
        if config.tokens in kinds:
            problems.add("token_kind", "is for a list in a file: 'tokens' says it already")


def check_seeds(config: Any, problems: Problems) -> None:
    """Check several seeds and how the best of them is chosen."""
    seeds = problems.sequence(config.seeds, "seeds", 0, 1000) or []
    for place, seed in enumerate(seeds):
        problems.integer(seed, f"seeds[{place}]", 0, 10**9)
    if len({show(seed) for seed in seeds}) < len(seeds):
        problems.add("seeds", f"lists a seed twice: {show(list(seeds))}")
    selection = config.selection
    if selection is None:
        return
    problems.integer(selection.epochs, "selection.epochs", 1, 10**5)
    for name, low in (("layers", 3), ("channels", 1)):
        if getattr(selection, name) is not None:
            problems.integer(getattr(selection, name), f"selection.{name}", low, 65536)
    check_number(selection.dropout, "selection.dropout", 0, 0.99, problems)
    if config.stages and config.stages[-1].phase == "retrain":
        problems.add("selection", "the last stage trains the derived network already")


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
