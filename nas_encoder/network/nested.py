"""Nested caches of streams, in a row.

B batch, n numbers of a cache of one stream.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor


class Shape(tuple[int, ...]):
    """The sizes of a cache but the first."""


def shapes(caches: Any) -> Any:
    """Return nested caches with the shapes of tensors in their places."""
    if isinstance(caches, Tensor):
        return Shape(caches.shape[1:])
    if isinstance(caches, dict):
        return {name: shapes(own) for name, own in caches.items()}
    return None if caches is None else tuple(shapes(own) for own in caches)


def leaves(caches: Any) -> list[Any]:
    """Return the tensors or shapes of nested caches in a row."""
    if isinstance(caches, Tensor | Shape):
        return [caches]
    parts = caches.values() if isinstance(caches, dict) else caches or ()
    return [leaf for part in parts for leaf in leaves(part)]


def filled(form: Any, pieces: Iterator[Tensor], like: Tensor) -> Any:
    """Return nested caches of these shapes from their values (B, n) in a row; ``like`` has B."""
    if isinstance(form, Shape):
        if not math.prod(form):
            return like.new_zeros(like.size(0), *form)
        return next(pieces).reshape(like.size(0), *form)
    if isinstance(form, dict):
        return {name: filled(own, pieces, like) for name, own in form.items()}
    return None if form is None else tuple(filled(own, pieces, like) for own in form)
