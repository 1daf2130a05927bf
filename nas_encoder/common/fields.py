"""Declared options: fields of a frozen dataclass with their rules, and their reader.

::

    @dataclass(frozen=True)
    class Batches(Declared):
        utterances: int = option(16, integer(1, 4096))
        frames: int | None = option(None, integer(1, 10**9))  # None: may be null
        shortest: int = option(16, integer(1))
        longest: int = option(1024, integer(1))

        def conflicts(self, found: Problems) -> None:
            if self.shortest > self.longest:
                found.conflict("shortest", f"must be at most {self.longest}, ...", "longest")

    batches = Batches.from_dict({"utterances": 8})

All problems are reported at once. A field that breaks its rule is reported and keeps its default,
so that ``conflicts``, which checks fields against each other, sees only valid values.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

from nas_encoder.common.documents import plain
from nas_encoder.common.problems import LARGEST, Problems, check_plain, key_path, show
from nas_encoder.errors import ConfigError

T = TypeVar("T", bound="Declared")
# (value, its path, collects problems) -> the value as stored in the dataclass; None if wrong.
Rule = Callable[[Any, str, Problems], Any]

ACCELERATORS = ("auto", "cpu", "cuda")
PRECISIONS = ("32-true", "bf16-mixed")  # 16-mixed would need a loss scale in every step


def option(default: Any, rule: Rule, null: bool = False, **metadata: Any) -> Any:
    """Declare a field.

    Args:
        default: The default, or a class or function that makes it. With None, null is allowed.
        rule: The rule of its values.
        null: Whether null is allowed with another default.
        **metadata: Further metadata of the field.
    """
    metadata |= {"rule": rule, "null": null or default is None}
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


class Declared:
    """Base of the frozen dataclasses whose fields are declared by :func:`option`."""

    @classmethod
    def from_dict(
        cls: type[T],
        document: object,
        subject: str = "config",
        words: Mapping[str, str] | None = None,
    ) -> T:
        """Read it from plain YAML types.

        Args:
            document: A mapping; missing options get their defaults.
            subject: Name of the document in errors.
            words: See :class:`~nas_encoder.common.problems.Problems`.

        Raises:
            ConfigError: A key is unknown or a value breaks its rule; all are listed.
        """
        problems = Problems(words)
        found = cls.read(document, problems)
        if problems:
            raise ConfigError(subject, problems.lines)
        return found

    @classmethod
    def read(cls: type[T], document: object, problems: Problems) -> T:
        """Read it from plain types, or check an object of the class, and collect the problems."""
        declared = dataclasses.fields(cls)  # type: ignore[arg-type]
        names = [field.name for field in declared]
        if isinstance(document, cls):
            document = {name: getattr(document, name) for name in names}
        elif isinstance(document, Mapping):
            document = cls.prepared(document)
        given = problems.mapping(document, "", (), names) or {}
        values: dict[str, Any] = {}
        for field in declared:
            if field.name in given:
                value = given[field.name]
                if value is None and field.metadata["null"]:
                    values[field.name] = None
                    continue
                kept = field.metadata["rule"](value, field.name, problems)
                if kept is not None:
                    values[field.name] = kept
        found = cls(**values)
        found.conflicts(problems)
        return found

    @classmethod
    def prepared(cls, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return a document with those defaults that depend on its other values."""
        return document

    @classmethod
    def completed(cls, document: Any) -> Any:
        """Return a document completed with options that did not exist when it was written.

        One that cannot be read, being damaged or of another kind, is returned unchanged.
        """
        try:
            return cls.from_dict(document).to_dict()
        except ConfigError:
            return document

    def conflicts(self, found: Problems) -> None:
        """Check the fields against each other."""

    def problems(self, path: str = "") -> list[str]:
        """Return one line per broken rule, starting with the field's path below ``path``."""
        found = Problems()
        self.read(self, found.under(path))
        return found.lines

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML types."""
        return plain(self)  # type: ignore[no-any-return]


# -- rules ------------------------------------------------------------------------------------


def anything(value: Any, path: str, problems: Problems) -> Any:
    """Allow every value."""
    return value


def integer(low: int, high: int | None = None, why: str = "") -> Rule:
    """Allow integers in ``low..high``; ``why`` ends the message."""
    return lambda value, path, problems: problems.integer(value, path, low, high, why)


def number(
    low: float, high: float = LARGEST, *, above: bool = False, below: bool = False, why: str = ""
) -> Rule:
    """Allow numbers in ``low..high``; ``above`` refuses ``low`` itself, ``below`` ``high``."""
    return lambda value, path, problems: problems.number(value, path, low, high, above, below, why)


share = number(0, 1, below=True)
"""A probability below 1."""


def choice(kind: str, known: Collection[str] | Callable[[], Collection[str]]) -> Rule:
    """Allow one of the known names of a kind of things."""
    return lambda value, path, problems: problems.choice(
        value, path, kind, known() if callable(known) else known
    )


precision = choice("precision", PRECISIONS)


def flag(value: Any, path: str, problems: Problems) -> bool | None:
    """Allow true and false."""
    if isinstance(value, bool):
        return value
    problems.add(path, f"must be true or false, got {show(value)}")
    return None


def text(what: str = "a text", pattern: str = ".+") -> Rule:
    """Allow texts that match ``pattern``; ``what`` describes them."""

    def check(value: Any, path: str, problems: Problems) -> str | None:
        if isinstance(value, str) and re.fullmatch(pattern, value, re.DOTALL):
            return value
        problems.add(path, f"must be {what}, got {show(value)}")
        return None

    return check


def tuple_of(
    rule: Rule, least: int, most: int, *, names: tuple[str, ...] = (), once: str = ""
) -> Rule:
    """Allow lists of ``least`` to ``most`` items.

    Args:
        rule: The rule of each item.
        least: Minimum number of items.
        most: Maximum number of items.
        names: Names of the items, for messages; by default their indices.
        once: What an item is, with an article, if items must be unique.
    """

    def check(value: Any, path: str, problems: Problems) -> tuple[Any, ...] | None:
        items = problems.sequence(value, path, least, most)
        if items is None:
            return None
        places = [f" ({name})" for name in names] or [f"[{place}]" for place in range(len(items))]
        kept = [rule(item, path + at, problems) for item, at in zip(items, places, strict=True)]
        if once and len({show(item) for item in items}) < len(items):
            problems.add(path, f"lists {once} twice: {show(items)}")
        return None if None in kept else tuple(kept)

    return check


def mapping_of(rule: Rule) -> Rule:
    """Allow mappings from any names to values of this rule."""

    def check(value: Any, path: str, problems: Problems) -> dict[str, Any] | None:
        names = [key for key in value if isinstance(key, str)] if isinstance(value, Mapping) else []
        if problems.mapping(value, path, (), names) is None:
            return None
        kept = {key: rule(value[key], f"{path}.{key_path(key)}", problems) for key in names}
        return {key: item for key, item in kept.items() if item is not None}

    return check


def network_options(value: Any, path: str, problems: Problems) -> Mapping[str, Any] | None:
    """Allow options of a network, except ``input_size``; they are checked when it is built."""
    here, before = problems.under(path), len(problems.lines)
    if here.mapping(value, "", (), value if isinstance(value, Mapping) else ()) is None:
        return None
    check_plain(value, path, problems)
    if "input_size" in value:
        here.add("input_size", "is features.num_mel_bins; leave it out")
    return None if len(problems.lines) > before else value


def genotype_source(value: Any, path: str, problems: Problems) -> Any:
    """Allow what :func:`~nas_encoder.genotype.load_genotype` takes from a document."""
    if isinstance(value, Mapping):
        before = len(problems.lines)
        check_plain(value, path, problems)
        return None if len(problems.lines) > before else value
    return text("a genotype's name, file or mapping")(value, path, problems)


def section(cls: type[Declared], **defaults: Any) -> Rule:
    """Allow mappings of a declared dataclass; null stands for the defaults, some changed."""

    def check(value: Any, path: str, problems: Problems) -> Any:
        if isinstance(value, Mapping) or value is None:
            value = {**defaults, **(value or {})}
        return cls.read(value, problems.under(path))

    return check
