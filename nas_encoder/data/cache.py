"""Features of many utterances in one block of memory that data loader workers share."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor


class FeatureCache:
    """Bounded cache of feature matrices, filled on first use.

    Memory is an anonymous shared mapping: pages cost nothing until they are written, forked
    workers see each other's entries, and the size of /dev/shm does not matter. Which
    utterances have a place is fixed at the start (the first ones that fit), so the cache
    never changes what a batch holds, only how fast it comes.

    Args:
        frames: Number of frames of each utterance.
        dim: F.
        max_bytes: Upper bound on memory.
    """

    def __init__(self, frames: Sequence[int], dim: int, max_bytes: int) -> None:
        self.dim = dim
        self._frames = list(frames)
        self._offsets: list[int] = []
        rows, room = 0, max_bytes // (4 * dim)
        for count in self._frames:
            fits = rows + count <= room
            self._offsets.append(rows if fits else -1)
            rows += count if fits else 0
        self.num_bytes = 4 * dim * rows
        self.num_places = sum(offset >= 0 for offset in self._offsets)
        self._data = torch.frombuffer(_shared(self.num_bytes), dtype=torch.float32)
        self._filled = torch.frombuffer(_shared(len(self._frames)), dtype=torch.uint8)

    def get(self, index: int) -> Tensor | None:
        """Return a copy of the features (T, F), or None where they are not there (yet)."""
        if not self._filled[index]:
            return None
        return self._place(index).clone()

    def put(self, index: int, features: Tensor) -> None:
        """Keep features (T, F) where they have a place."""
        if self._offsets[index] >= 0:
            self._place(index).copy_(features)
            self._filled[index] = 1  # after the data: another worker may be reading

    def _place(self, index: int) -> Tensor:
        start = self._offsets[index] * self.dim
        count = self._frames[index]
        return self._data[start : start + count * self.dim].view(count, self.dim)


def _shared(num_bytes: int) -> mmap.mmap:
    return mmap.mmap(-1, max(num_bytes, 4))
