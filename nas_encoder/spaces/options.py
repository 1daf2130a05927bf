"""The options of networks: what all of them share, and the rules that they have in common.

Each family of spaces has a frozen dataclass of its own; importing it loads no torch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from nas_encoder.common.fields import Declared, flag, integer, option
from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import ConfigError
from nas_encoder.tables import SPACES

T = TypeVar("T", bound="NetworkOptions")
ANYTHING = object()


def shared(default: Any, off: Any = None) -> Any:
    """Declare an option that every network takes, also those that have no such part.

    Args:
        default: Its default.
        off: What networks without such a part take; the default if it is None, ``ANYTHING`` where
            the value plays no part there.
    """
    return field(default=default, metadata={"off": default if off is None else off})


@dataclass(frozen=True)
class SearchedNetwork(Declared):
    """The section ``network`` of a search: what the supernets share with the derived network.

    A family adds its own options, with values that switch them off as defaults.

    Attributes:
        output_size: D, features of an output frame.
        deltas: Whether delta and delta-delta stand beside the features.
    """

    output_size: int = option(512, integer(1, 65536))
    deltas: bool = option(True, flag)


@dataclass(frozen=True)
class NetworkOptions:
    """Everything but the genotype that a network is built from.

    A family's dataclass has at least the fields ``input_size``, ``channels`` and ``output_size``
    and, for intermediate outputs, ``taps`` and ``conditioning``.
    """

    # What the network is called in an error.
    network: ClassVar[str] = "this network"

    @classmethod
    def from_dict(
        cls: type[T], options: Mapping[str, Any], subject: str = "encoder", architecture: Any = None
    ) -> T:
        """Build it from plain YAML types.

        Options that only other networks have may be given where those declare them
        :func:`shared`, with the value that switches them off.

        Args:
            options: The mapping.
            subject: What to call it in an error.
            architecture: What the network is built of, where that is known.

        Raises:
            ConfigError: A key is unknown or a value breaks its rule; all are listed.
        """
        problems = Problems()
        own = [item.name for item in fields(cls)]
        others = {name: off for name, off in shared_options().items() if name not in own}
        if problems.mapping(options, "", (), [*own, *others]) is None:
            raise ConfigError(subject, problems.lines)
        for name, off in others.items():
            value = tupled(options.get(name, off))
            if off is not ANYTHING and value != off:
                shown = show(list(off) if isinstance(off, tuple) else off)
                problems.add(
                    name, f"{cls.network} has no such part; leave it at {shown}, got {show(value)}"
                )
        config = cls(**{key: tupled(value) for key, value in options.items() if key in own})
        problems.lines.extend(config.problems(architecture))
        if problems:
            raise ConfigError(subject, problems.lines)
        return config

    @property
    def subsampling_factor(self) -> int:
        """Input frames for each output frame."""
        raise NotImplementedError

    def problems(self, architecture: Any = None) -> list[str]:
        """Return one line for each rule that is broken, led by the field's name.

        Args:
            architecture: What the network is built of; None where that is not known yet.
        """
        raise NotImplementedError


def shared_options() -> dict[str, Any]:
    """Return the options that every network takes, with what switches them off elsewhere."""
    return {
        item.name: item.metadata["off"]
        for space in SPACES.values()
        for item in fields(space.options)
        if "off" in item.metadata
    }


def known_options() -> dict[str, Any]:
    """Return the options of all networks with their defaults, those of the first space first."""
    found: dict[str, Any] = {}
    for space in SPACES.values():
        found = {**defaults_of(space.options), **found}
    return {name: found[name] for name in {**first_options(), **found}}


def first_options() -> dict[str, Any]:
    """Return the options of the first space's networks, which stand for those of all."""
    return defaults_of(next(iter(SPACES.values())).options)


def defaults_of(options: type[Any]) -> dict[str, Any]:
    """Return the names and defaults of a dataclass of options."""
    return {item.name: item.default for item in fields(options)}


def tupled(value: Any) -> Any:
    """Return lists as tuples, which frozen dataclasses hold."""
    return tuple(value) if isinstance(value, list) else value


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
