"""A part of a genotype of block encoders: a tagged dataclass, its rules and its reader."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, ClassVar

from nas_encoder.common.documents import plain
from nas_encoder.common.fields import Declared, Rule, number
from nas_encoder.common.problems import Problems, show


class Part(Declared):
    """A tagged part of a genotype."""

    kind: ClassVar[str]
    later: ClassVar[tuple[str, ...]] = ()  # fields that hashes hold only if they are not default

    def document(self) -> dict[str, Any]:
        """Return the YAML form: the tag, and what differs from the defaults."""
        given = {item.name: getattr(self, item.name) for item in fields(self)}  # type: ignore[arg-type]
        default = type(self)()
        kept = {name: v for name, v in given.items() if v != getattr(default, name)}
        return {"kind": self.kind, **plain(kept)}

    def values(self) -> list[Any]:
        """Return the kind and the values of all fields, as JSON values."""
        given = {item.name: plain(getattr(self, item.name)) for item in fields(self)}  # type: ignore[arg-type]
        default = type(self)()
        more = [
            [name, given[name]]
            for name in self.later
            if getattr(self, name) != getattr(default, name)
        ]
        return [self.kind, *(v for name, v in given.items() if name not in self.later), *more]

    def span(self, frame: int) -> tuple[int, int] | None:
        """Return the first and the last frame that a frame's output depends on; None for all.

        Both grow with the frame. Negative ones and those past the end are zeros, or do not exist.
        """
        return frame, frame

    @property
    def reach(self) -> tuple[int, int] | None:
        """The most frames back and ahead that a frame's output depends on; None for all."""
        back = ahead = 0
        for frame in range(max(1, getattr(self, "chunk", 0))):
            found = self.span(frame)
            if found is None:
                return None
            back, ahead = max(back, frame - found[0]), max(ahead, found[1] - frame)
        return back, ahead

    def text(self) -> str:
        """Return it as a line of text."""
        raise NotImplementedError


def odd(high: int) -> Rule:
    """Allow odd numbers, so that a frame is in the middle."""

    def check(value: Any, path: str, problems: Problems) -> Any:
        kept = problems.integer(value, path, 1, high)
        if kept is not None and kept % 2 == 0:
            problems.add(path, f"must be odd, so that a frame is in the middle, got {kept}")
            return None
        return kept

    return check


def one_of(*values: float) -> Rule:
    """Allow these numbers; 4 and 4.0 have one hash."""

    def check(value: Any, path: str, problems: Problems) -> Any:
        if isinstance(value, bool) or value not in values:
            problems.add(path, f"must be {' or '.join(map(str, values))}, got {show(value)}")
            return None
        return values[values.index(value)]  # of one type, for one hash

    return check


def expansion_rule(above: bool) -> Rule:
    """Allow hidden units per unit of width; ``above`` refuses 0."""
    rule = number(0, 64, above=above)

    def check(value: Any, path: str, problems: Problems) -> Any:
        kept = rule(value, path, problems)
        return None if kept is None else float(kept)  # 4 and 4.0 have one hash

    return check


def shown(value: float) -> str:
    """Return a number without needless digits."""
    return f"{value:.4g}"


def read_part(table: Mapping[str, type[Part]], what: str) -> Rule:
    """Return the rule of a part: a mapping with its ``kind``, or the dataclass."""

    def check(value: Any, path: str, problems: Problems) -> Any:
        if isinstance(value, Part):
            return type(value).read(value, problems.under(path))
        if not isinstance(value, Mapping):
            problems.add(path, f"must be a mapping with a 'kind', got {show(value)}")
            return None
        kind = problems.choice(value.get("kind"), f"{path}.kind", what, table)
        if kind is None:
            return None
        rest = {name: item for name, item in value.items() if name != "kind"}
        before = len(problems.lines)
        found = table[kind].read(rest, problems.under(path))
        return found if len(problems.lines) == before else None

    return check
