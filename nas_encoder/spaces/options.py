"""Options of networks: those that all share, and their common rules.

Each family of spaces has its own frozen dataclass; importing it does not load torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, TypeVar

from nas_encoder.common.fields import Declared, Rule, flag, integer, option
from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import ConfigError
from nas_encoder.tables import SPACES

T = TypeVar("T", bound="NetworkOptions")
ANYTHING = object()


def shared(default: Any, rule: Rule, off: Any = None) -> Any:
    """Declare an option that every network accepts, even without the part that it configures.

    Args:
        default: Its default.
        rule: The rule for its values.
        off: The value that networks without such a part accept; the default if None, ``ANYTHING``
            if the value is ignored there.
    """
    return option(default, rule, off=default if off is None else off)


@dataclass(frozen=True)
class SearchedNetwork(Declared):
    """The section ``network`` of a search: what the supernets share with the derived network.

    A family adds its own options, whose defaults switch them off.

    Attributes:
        output_size: D, features of an output frame.
        deltas: Whether to append delta and delta-delta features.
    """

    output_size: int = option(512, integer(1, 65536))
    deltas: bool = option(True, flag)


@dataclass(frozen=True)
class NetworkOptions(Declared):
    """Everything but the genotype that a network is built from.

    A family's dataclass has at least the fields ``input_size``, ``channels`` and ``output_size``
    and, for intermediate outputs, ``taps`` and ``conditioning``.
    """

    # Names of the network and of its parts in errors.
    network: ClassVar[str] = "this network"
    part: ClassVar[str] = "cell"

    @classmethod
    def from_dict(
        cls: type[T],
        document: object,
        subject: str = "encoder",
        words: Mapping[str, str] | None = None,
        architecture: Any = None,
    ) -> T:
        """Build it from plain YAML types.

        Options that only other networks have may be given if those declare them :func:`shared`,
        with the value that switches them off.

        Args:
            document: The options.
            subject: Their name in errors.
            words: The user's names of options, where they differ.
            architecture: What the network is built of, if known.

        Raises:
            ConfigError: A key is unknown or a value breaks its rule; all are listed.
        """
        found = Problems(words)
        config = cls.read(document, found)
        if architecture is not None:
            config.fits(architecture, found)
        if found:
            raise ConfigError(subject, found.lines)
        return config

    @classmethod
    def read(cls: type[T], document: object, problems: Problems) -> T:
        """Read it from plain types, or check an object of the class; collect the problems."""
        if isinstance(document, Mapping):
            own = {item.name for item in fields(cls)}
            others = {
                item.name: item.metadata["off"]
                for space in SPACES.values()
                for item in fields(space.options)
                if "off" in item.metadata and item.name not in own
            }
            for name, off in others.items():
                value = tupled(document.get(name, off))
                if off is not ANYTHING and value != off:
                    shown = show(list(off) if isinstance(off, tuple) else off)
                    rule = f"{cls.network} has no such part; leave it at {shown}"
                    problems.add(name, f"{rule}, got {show(value)}")
            document = {name: value for name, value in document.items() if name not in others}
        return super().read(document, problems)

    @property
    def subsampling_factor(self) -> int:
        """Input frames per output frame."""
        raise NotImplementedError

    def problems(self, path: str = "", architecture: Any = None) -> list[str]:
        """Return one line per broken rule, starting with the field's name below ``path``.

        ``architecture`` is what the network is built of, None if not yet known.
        """
        found = Problems()
        self.read(self, found.under(path))
        if architecture is not None:
            self.fits(architecture, found.under(path))
        return found.lines

    def conflicts(self, found: Problems) -> None:
        """Check that conditioning has taps to feed back."""
        given: Any = self
        if given.conditioning and not given.taps:
            rule = f"needs at least one {self.part} in '{found.word('taps')}'"
            found.conflict("conditioning", rule, "taps")

    def fits(self, architecture: Any, found: Problems) -> None:
        """Check the options against what the network is built of."""

    def check_taps(self, first: int, last: int, found: Problems) -> None:
        """Check that taps are among the parts ``first`` to ``last``, counted from 1."""
        given: Any = self
        why = f" ({self.part}s {first} to {last} have the output's frame rate)"
        for place, tap in enumerate(given.taps):
            if found.sound(f"taps[{place}]"):
                found.integer(tap, f"taps[{place}]", first, last, why)


def known_options() -> dict[str, Any]:
    """Return the options of all networks with their defaults, those of the first space first."""
    found: dict[str, Any] = {}
    for space in SPACES.values():
        found = {**defaults_of(space.options), **found}
    return {name: found[name] for name in {**first_options(), **found}}


def first_options() -> dict[str, Any]:
    """Return the options of the first space's networks, which represent all of them."""
    return defaults_of(next(iter(SPACES.values())).options)


def defaults_of(options: type[Any]) -> dict[str, Any]:
    """Return the names and defaults of a dataclass of options."""
    return {item.name: item.default for item in fields(options)}


def tupled(value: Any) -> Any:
    """Return lists as tuples, as frozen dataclasses hold them."""
    return tuple(value) if isinstance(value, list) else value
