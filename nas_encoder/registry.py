"""Extensible tables by name."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from operator import attrgetter
from typing import Generic, TypeVar

from nas_encoder.errors import MissingDependencyError, RegistryError
from nas_encoder.extensions import Extensions

T = TypeVar("T")


class Names(list[str]):
    """Some names of a table, with the note of :meth:`Registry.note`."""

    def __init__(self, names: Iterable[str], note: Callable[[], str]) -> None:
        super().__init__(names)
        self.note = note


class Registry(Mapping[str, T], Generic[T]):
    """Ordered mapping in which a duplicate name and an unknown name are errors.

    Args:
        kind: What the table holds, in the singular, for messages (``"search space"``).
        extensions: Packages that may add to it, loaded if a name is missing or all are listed.
        reserved: Class names that no entry may have. If given, entries are classes and their names
            must be unique, since toolkits find ours by name.
    """

    def __init__(
        self,
        kind: str,
        extensions: Extensions | None = None,
        reserved: Iterable[str] | None = None,
    ) -> None:
        self.kind = kind
        self._extensions = extensions
        self._reserved = None if reserved is None else set(reserved)
        self._entries: dict[str, T] = {}
        self._references: dict[str, str] = {}  # name -> "module:attribute"
        self._added_by: dict[str, str] = {}  # name -> extension

    def add(self, name: str, entry: T) -> T:
        """Add one entry.

        Raises:
            RegistryError: The name is taken by something else; adding the same object twice is
                allowed, so that registration is idempotent.
        """
        if name in self._references and self[name] is not entry:
            raise self._taken(name)
        if name not in self._references:
            self._refer(name, f":{getattr(entry, '__qualname__', '')}")
        self._entries[name] = entry
        return entry

    def refer(self, name: str, reference: str) -> None:
        """Add one entry by its address ``module:attribute``, imported when first used.

        Raises:
            RegistryError: The name is taken by something else, or the address is malformed.
        """
        if not all(reference.partition(":")[::2]):
            raise RegistryError(f"{self.kind} '{name}': must be module:attribute, got {reference}")
        if name not in self._references:
            self._refer(name, reference)
        elif self._references[name] != reference:
            raise self._taken(name)

    def _refer(self, name: str, reference: str) -> None:
        attribute = reference.partition(":")[2]
        if self._reserved is not None:
            if attribute in self._reserved:
                raise RegistryError(f"{self.kind} '{name}': a class '{attribute}' is there already")
            self._reserved.add(attribute)
        self._references[name] = reference
        if self._extensions is not None and self._extensions.adding is not None:
            self._added_by[name] = self._extensions.adding

    def _taken(self, name: str) -> RegistryError:
        what = self._entries.get(name, self._references[name])
        return RegistryError(
            f"{self.kind} '{name}' is registered already ({what!r}); choose another name"
        )

    def attribute(self, name: str) -> str:
        """Return the last part of an entry's address (a class's name) without importing it."""
        if name not in self:
            raise RegistryError(self.unknown(name))
        return self._references[name].partition(":")[2]

    def __getitem__(self, name: str) -> T:
        if name not in self:
            raise RegistryError(self.unknown(name))
        if name not in self._entries:
            module, _, attribute = self._references[name].partition(":")
            try:
                self._entries[name] = attrgetter(attribute)(import_module(module))
            except MissingDependencyError:
                raise
            except (ImportError, AttributeError) as error:
                raise RegistryError(
                    f"{self.kind} '{name}' cannot be imported from {self._references[name]}: "
                    f"{type(error).__name__}: {error}"
                ) from error
        return self._entries[name]

    def __contains__(self, name: object) -> bool:
        if not isinstance(name, str):
            return False
        return name in self._references or name in self._all()

    def _all(self) -> dict[str, str]:
        if self._extensions is not None:
            self._extensions.load()
        return self._references

    def get(self, name: str, default: T | None = None) -> T | None:  # type: ignore[override]
        """Return the entry, or ``default`` if the name is unknown."""
        return self[name] if name in self else default

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._all()))

    def __len__(self) -> int:
        return len(self._all())

    def items(self) -> list[tuple[str, T]]:  # type: ignore[override]
        """Return names and entries; one of an extension that cannot be imported is left out."""
        return [(name, self[name]) for name in self if self._is_usable(name)]

    def values(self) -> list[T]:  # type: ignore[override]
        """Return the entries; one of an extension that cannot be imported is left out."""
        return [entry for _, entry in self.items()]

    def names(self, keep: Callable[[T], bool]) -> Names:
        """Return the names of some entries."""
        return Names((name for name, entry in self.items() if keep(entry)), self.note)

    def _is_usable(self, name: str) -> bool:
        extension = self._added_by.get(name)
        if extension is None or name in self._entries:
            return True
        assert self._extensions is not None
        try:
            self[name]
        except Exception as error:
            if extension not in self._extensions.failed:  # log once
                self._extensions.fail(extension, error)
            return False
        return True

    def note(self) -> str:
        """Return what to add to a message about an unknown name; often empty."""
        return "" if self._extensions is None else self._extensions.note()

    def unknown(self, name: object) -> str:
        """Return the message for an unknown name: the closest guess and the known ones."""
        text = f"unknown {self.kind} {name!r}"
        close = difflib.get_close_matches(str(name), self, n=1)
        if close:
            text += f" (did you mean '{close[0]}'?)"
        return f"{text}; known: {', '.join(self) or 'none'}{self.note()}"
