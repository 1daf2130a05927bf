"""Which frames those of a stage attend to, within a window or chunks.

B batch, R queries, S keys; W frames seen before, A frames seen after, groups of K frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from nas_encoder.ops.masking import is_capturing
from nas_encoder.spaces.blocks.contexts import Attention, context

_LEAST = 16  # frames of a group; smaller matrix products gain nothing


@dataclass(frozen=True)
class Sight:
    """What a frame sees of its stage.

    Attributes:
        back: W; with chunks, before its chunk.
        ahead: A; with chunks 0, as all of the chunk is seen.
        chunk: Frames of a chunk; 0 for no chunks.
    """

    back: int
    ahead: int
    chunk: int = 0

    @classmethod
    def of(cls, part: Attention) -> Sight | None:
        """Return what attention of a genotype sees; None for the whole utterance."""
        found = context(part)
        return None if found is None else cls(*found, part.chunk)

    @property
    def reach(self) -> tuple[int, int]:
        """The most frames back and ahead that a frame sees."""
        beside = max(self.chunk - 1, 0)
        return self.back + beside, self.ahead + beside

    @property
    def group(self) -> int:
        """K, at least W and A, and a multiple of the chunk."""
        return self.rounded(max(self.back, self.ahead, _LEAST))

    def chunk_start(self, frame: int) -> int:
        """Return the first frame of the chunk of a frame."""
        return frame - frame % self.chunk

    def rounded(self, frames: int) -> int:
        """Return the next multiple of the chunk, if there are chunks."""
        return -(-frames // self.chunk) * self.chunk if self.chunk else frames

    def distances(self, rows: int, keys: int, offset: int) -> tuple[int, int, int]:
        """Return the largest and the smallest distance to a key seen, and the scores' column.

        Query r is key r + ``offset``; see :func:`~.weighting.weighted` for the column.
        """
        back, ahead = self.reach
        highest = min(back, offset + rows - 1)
        return highest, max(-ahead, offset + 1 - keys), highest - offset

    def is_all(self, rows: int, keys: int, offset: int) -> bool:
        """Whether all queries see all keys; see :meth:`seen`."""
        if self.chunk:
            return offset <= self.back and keys - offset <= self.chunk
        return offset + rows - 1 <= self.back and keys - 1 - offset <= self.ahead

    def seen(
        self, valid: Tensor | None, rows: int, keys: int, offset: int, device: torch.device
    ) -> Tensor:
        """Return which keys a query sees, (B or 1, R, S): valid ones in its context, and itself.

        Query r is key r + ``offset``, and the first of a chunk if r is 0. Were it not for itself,
        padding queries would see none.
        """
        make = _near if is_capturing() else _near_table
        near, own = make(self, rows, keys, offset, device)
        return near if valid is None else (near & valid) | own


def _near(
    sight: Sight, rows: int, keys: int, offset: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return which keys are in a query's context, and which is its own; both (1, R, S)."""
    own = torch.arange(rows, device=device).unsqueeze(1)
    key = torch.arange(keys, device=device) - offset
    first = own - own % sight.chunk if sight.chunk else own
    last = first + sight.chunk - 1 if sight.chunk else own + sight.ahead
    near = (key >= first - sight.back) & (key <= last)
    return near.unsqueeze(0), (key == own).unsqueeze(0)


@lru_cache(maxsize=32)
def _near_table(
    sight: Sight, rows: int, keys: int, offset: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return _near(sight, rows, keys, offset, device)
