"""The front: what nothing beats in both cost and error."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TypeVar

T = TypeVar("T")


def front(items: Iterable[T], cost: Callable[[T], float], error: Callable[[T], float]) -> list[T]:
    """Return the items that no other one beats in both cost and error, by cost."""
    kept: list[T] = []
    for item in sorted(items, key=lambda one: (cost(one), error(one))):
        if not kept or error(item) < error(kept[-1]):
            kept.append(item)
    return kept
