"""The receptive field in time."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ReceptiveField:
    """Number of input frames before and after its own that an output frame depends on.

    ``right`` counts from the first of the S input frames that an output frame represents.
    """

    left: int = 0
    right: int = 0

    @property
    def frames(self) -> int:
        """Its width in input frames."""
        return self.left + 1 + self.right

    def plus(self, left: int, right: int | None = None) -> ReceptiveField:
        """Return the field widened on both sides."""
        return ReceptiveField(self.left + left, self.right + (left if right is None else right))

    def union(self, other: ReceptiveField) -> ReceptiveField:
        """Return the smallest field that covers both."""
        return ReceptiveField(max(self.left, other.left), max(self.right, other.right))
