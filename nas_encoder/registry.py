"""A table from names to things that may be extended."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Generic, TypeVar

from nas_encoder.errors import RegistryError

T = TypeVar("T")


class Registry(Mapping[str, T], Generic[T]):
    """Ordered mapping in which a duplicate name and an unknown name are errors.

    Args:
        kind: What the table holds, in the singular, for messages
            (``"operation"``, ``"search space"``).
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._entries: dict[str, T] = {}

    def add(self, name: str, entry: T) -> T:
        """Add one entry.

        Raises:
            RegistryError: The name is taken by something else. Adding the very
                same object twice is allowed, so that registration is idempotent.
        """
        if name in self._entries and self._entries[name] is not entry:
            raise RegistryError(
                f"{self.kind} '{name}' is registered already ({self._entries[name]!r}); "
                "choose another name"
            )
        self._entries[name] = entry
        return entry

    def __getitem__(self, name: str) -> T:
        try:
            return self._entries[name]
        except (KeyError, TypeError):
            raise RegistryError(self.unknown(name)) from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._entries

    def get(self, name: str, default: T | None = None) -> T | None:  # type: ignore[override]
        """Return the entry, or ``default`` where the name is unknown."""
        return self._entries[name] if name in self else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def unknown(self, name: object) -> str:
        """Return the message for an unknown name: the known ones, the closest first guess."""
        text = f"unknown {self.kind} {name!r}"
        close = difflib.get_close_matches(str(name), self._entries, n=1)
        if close:
            text += f" (did you mean '{close[0]}'?)"
        return f"{text}; known: {', '.join(self._entries) or 'none'}"
