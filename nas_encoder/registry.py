"""A table from names to things that may be extended."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from importlib import import_module
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
        self._references: dict[str, str] = {}  # name -> "module:attribute"

    def add(self, name: str, entry: T) -> T:
        """Add one entry.

        Raises:
            RegistryError: The name is taken by something else. Adding the very
                same object twice is allowed, so that registration is idempotent.
        """
        if name in self and self[name] is not entry:
            raise RegistryError(
                f"{self.kind} '{name}' is registered already ({self[name]!r}); choose another name"
            )
        self._references.setdefault(name, "")  # keeps the order
        self._entries[name] = entry
        return entry

    def refer(self, name: str, reference: str) -> None:
        """Add one entry by its address, which is imported when the entry is first asked for.

        Args:
            name: Of the entry.
            reference: ``module:attribute``.

        Raises:
            RegistryError: The name is taken by something else.
        """
        before = self._references.setdefault(name, reference)
        if before != reference:
            raise RegistryError(
                f"{self.kind} '{name}' is registered already ({before or self[name]!r}); "
                "choose another name"
            )

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise RegistryError(self.unknown(name))
        if name not in self._entries:
            module, attribute = self._references[name].split(":")
            self._entries[name] = getattr(import_module(module), attribute)
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._references

    def get(self, name: str, default: T | None = None) -> T | None:  # type: ignore[override]
        """Return the entry, or ``default`` where the name is unknown."""
        return self[name] if name in self else default

    def __iter__(self) -> Iterator[str]:
        return iter(self._references)

    def __len__(self) -> int:
        return len(self._references)

    def unknown(self, name: object) -> str:
        """Return the message for an unknown name: the known ones, the closest first guess."""
        text = f"unknown {self.kind} {name!r}"
        close = difflib.get_close_matches(str(name), self, n=1)
        if close:
            text += f" (did you mean '{close[0]}'?)"
        return f"{text}; known: {', '.join(self) or 'none'}"
