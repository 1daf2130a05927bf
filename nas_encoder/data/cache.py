"""Cache of features in one block of memory that data loader workers share."""

from __future__ import annotations

import mmap
from collections.abc import Sequence

import torch
from torch import Tensor


class FeatureCache:
    """Bounded cache of feature matrices, filled on first use.

    Memory is an anonymous shared mapping: pages cost nothing until they are written, forked
    workers see each other's entries, and the size of /dev/shm does not matter. The cached
    utterances are fixed at the start (the first that fit); the cache changes speed, not batches.

    Args:
        frames: Frames of each utterance.
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
        data, filled = (mmap.mmap(-1, max(size, 4)) for size in (self.num_bytes, len(frames)))
        self._data = torch.frombuffer(data, dtype=torch.float32)
        self._filled = torch.frombuffer(filled, dtype=torch.uint8)

    def get(self, index: int) -> Tensor | None:
        """Return a copy of the features (T, F), or None if they are not cached."""
        if not self._filled[index]:
            return None
        return self._place(index).clone()

    def put(self, index: int, features: Tensor) -> None:
        """Cache features (T, F) if space is reserved for them."""
        if self._offsets[index] >= 0:
            self._place(index).copy_(features)
            self._filled[index] = 1  # after the data: another worker may be reading

    def _place(self, index: int) -> Tensor:
        start, count = self._offsets[index] * self.dim, self._frames[index]
        return self._data[start : start + count * self.dim].view(count, self.dim)
