"""Rules that the options of all networks share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields
from typing import Any

from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import ConfigError


def read_options(
    cls: type[Any],
    options: Mapping[str, Any],
    subject: str,
    foreign: type[Any] | None = None,
    who: str = "",
) -> tuple[dict[str, Any], Problems]:
    """Return the options of a configuration's class, lists as tuples, and the problems so far.

    Args:
        cls: A frozen dataclass.
        options: Plain YAML types.
        subject: What to call them in an error.
        foreign: Another class whose other options may be given with the value that switches them
            off, its default; ``layers`` plays no part.
        who: What does not have those, for the error.

    Raises:
        ConfigError: They are no mapping.
    """
    problems = Problems()
    own = [field.name for field in fields(cls)]
    others = {f.name: f.default for f in fields(foreign or cls) if f.name not in own}
    if problems.mapping(options, "", (), [*own, *others]) is None:
        raise ConfigError(subject, problems.lines)
    for name, off in others.items():
        value = _tupled(options.get(name, off))
        if name != "layers" and value != off:
            shown = show(list(off) if isinstance(off, tuple) else off)
            problems.add(name, f"{who} has no such part; leave it at {shown}, got {show(value)}")
    return {key: _tupled(value) for key, value in options.items() if key in own}, problems


def check_integers(config: object, bounds: Mapping[str, tuple[int, int]], found: Problems) -> None:
    """Check that fields are integers in their ranges."""
    for name, (low, high) in bounds.items():
        found.integer(getattr(config, name), name, low, high)


def check_shares(config: object, names: Iterable[str], found: Problems) -> None:
    """Check that fields are probabilities below 1."""
    for name in names:
        value = getattr(config, name)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1:
            found.add(name, f"must be a number from 0 to below 1, got {show(value)}")


def check_flags(config: object, names: Iterable[str], found: Problems) -> None:
    """Check that fields are true or false."""
    for name in names:
        if not isinstance(getattr(config, name), bool):
            found.add(name, f"must be true or false, got {show(getattr(config, name))}")


def check_taps(taps: Sequence[Any], first: int, last: int, part: str, found: Problems) -> None:
    """Check the places of intermediate outputs.

    Args:
        taps: As given.
        first: The first place, from 1, that can be tapped.
        last: The last one.
        part: What is counted: ``cell`` or ``block``.
        found: Takes the problems.
    """
    why = f" ({part}s {first} to {last} have the output's frame rate)"
    for place, tap in enumerate(taps):
        found.integer(tap, f"taps[{place}]", first, last, why)
    if len({show(tap) for tap in taps}) < len(taps):
        found.add("taps", f"lists a {part} twice: {show(taps)}")


def check_conditioning(config: Any, part: str, found: Problems) -> None:
    """Check that what is fed back is taken somewhere."""
    if config.conditioning is True and not config.taps:
        found.add("conditioning", f"needs at least one {part} in 'taps'")


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value
