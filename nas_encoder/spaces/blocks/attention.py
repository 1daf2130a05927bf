"""Self-attention over all frames or within a window, with relative positions or none.

B batch, T frames, C width, H heads, D = C / H features of a head, W frames of a window's side,
N chunks of K frames.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops.masking import is_capturing
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.parts import Parallel, SelfAttention
from nas_encoder.spaces.blocks.weighting import weighted

_LEAST_CHUNK = 16  # smaller matrix products gain nothing


class AttentionModule(nn.Module):
    """Multi-head self-attention; what it adds to the stream.

    The score of query q and key k, with relative positions, is
    ``(query_q + u) key_k + (query_q + v) position(q - k)`` over the root of D, where u and v are
    learned for each head and ``position`` is a linear function of sinusoids (Dai et al. 2019,
    section 3.3; ``rel_pos`` of NeMo, of type ``latest`` in ESPnet). Without them it is
    ``query_q key_k`` over the root of D (Vaswani et al. 2017).

    Within a window, chunks of frames attend to themselves and W frames on either side, so time and
    memory grow with T W.

    Attributes:
        inputs: Queries, keys and values of all heads, stacked in this order.
        position: Linear function of the sinusoids; None without positions.
        content_bias: (H, D), u; None without positions.
        position_bias: (H, D), v; likewise.
        reach: (W, W), or None if every frame sees the whole utterance.
    """

    def __init__(
        self, part: SelfAttention | Parallel, width: int, config: BlocksConfig, norm_before: bool
    ) -> None:
        super().__init__()
        self.heads, self.window = part.heads, part.window
        self.scale = 1.0 / math.sqrt(width // part.heads)
        self.dropout = config.attention_dropout
        self.reach = (self.window, self.window) if self.window else None
        self.norm: nn.Module = nn.Identity()
        if norm_before:
            self.norm = nn.LayerNorm(width, config.norm_eps)
        self.inputs = nn.Linear(width, 3 * width)
        self.output = nn.Linear(width, width)
        self.position: nn.Linear | None = None
        self.content_bias: nn.Parameter | None = None
        self.position_bias: nn.Parameter | None = None
        if part.positions == "relative":
            self.position = nn.Linear(width, width, bias=False)
            self.content_bias = nn.Parameter(torch.zeros(self.heads, width // self.heads))
            self.position_bias = nn.Parameter(torch.zeros(self.heads, width // self.heads))

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        batch, time, width = x.shape
        packed = self.inputs(self.norm(x))  # (B, T, 3C)
        size = max(self.window, _LEAST_CHUNK)
        # Short batches are faster as a whole.
        if self.window and (is_capturing() or time > 2 * (size + 2 * self.window)):
            context = self._within_chunks(packed, frames, size)
        else:
            context = self._as_a_whole(packed, frames)
        out: Tensor = self.output(context.permute(1, 2, 0, 3).reshape(batch, -1, width)[:, :time])
        return out

    def _as_a_whole(self, packed: Tensor, frames: Frames) -> Tensor:
        """Attend from (B, T, 3C) to (H, B, T, D)."""
        time = packed.size(1)
        query, key, value = self._in_heads(packed, 3)
        mask = None if frames.mask is None else frames.mask.unsqueeze(1)  # (B, 1, T)
        if self.window and time > self.window + 1:
            mask = _seen(mask, time, time, 0, self.window, packed.device)
        if self.position is None:
            return self._attend(query, key, value, mask)
        assert frames.relative is not None
        # A row more, so that the product has a column more than its rows shall have.
        distances = F.pad(frames.relative, (0, 0, 0, 1))
        return self._attend(query, key, value, mask, distances, time - 1)

    def _within_chunks(self, packed: Tensor, frames: Frames, size: int) -> Tensor:
        """Attend from (B, T, 3C) to (H, B, N K, D)."""
        batch, time, width = packed.size(0), packed.size(1), packed.size(2) // 3
        window, keys = self.window, size + 2 * self.window
        count = (time + size - 1) // size
        around = F.pad(packed, (0, 0, size, (count + 1) * size - time))  # (B, (N + 2) K, 3C)
        queries = _chunks(around[..., :width], count, size, 1).flatten(0, 1)
        (query,) = self._in_heads(queries, 1)  # (H, B N, K, D)
        beside = _with_neighbours(around[..., width:], count, size, window).flatten(0, 1)
        key, value = self._in_heads(beside, 2)  # (H, B N, K + 2W, D)
        valid = frames.mask
        if valid is None:
            valid = torch.ones(1, time, dtype=torch.bool, device=packed.device)
        valid = F.pad(valid, (size, (count + 1) * size - time)).unsqueeze(2)
        valid = _with_neighbours(valid, count, size, window).squeeze(3)
        valid = valid.expand(batch, -1, -1).reshape(batch * count, 1, keys)
        mask = _seen(valid, size, keys, window, window, packed.device)
        distances = None
        if self.position is not None:
            assert frames.relative is not None
            # From W down to -W; beyond T there is no key. Then rows for the product's shape.
            beyond = F.pad(frames.relative, (0, 0, window, window))
            distances = beyond[time - 1 : time + 2 * window]
            distances = F.pad(distances, (0, 0, 0, size))
        context = self._attend(query, key, value, mask, distances)
        return context.reshape(self.heads, batch, count * size, -1)

    def _in_heads(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (N, T, parts * C) into parts of (H, N, T, D)."""
        count, time, _ = packed.shape
        split = packed.view(count, time, parts, self.heads, -1)
        return split.permute(2, 3, 0, 1, 4).unbind(0)

    def _attend(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        distances: Tensor | None = None,
        start: int = 0,
    ) -> Tensor:
        """Return the context (H, N, R, D) of queries, given a mask (N, 1 or R, S)."""
        scale, rate = self.scale, self.dropout if self.training else 0.0
        query = query * scale
        if self.position is None:
            return weighted(query, key, value, mask, rate)
        assert distances is not None
        assert self.content_bias is not None and self.position_bias is not None
        content = (self.content_bias * scale).to(query.dtype)[:, None, None]
        place = (self.position_bias * scale).to(query.dtype)[:, None, None]
        positions = self.position(distances).view(distances.size(0), self.heads, -1)
        places = (query + place, positions.transpose(0, 1), start)
        return weighted(query + content, key, value, mask, rate, places)


def _chunks(around: Tensor, count: int, size: int, first: int) -> Tensor:
    """Return N chunks of (B, (N + 2) K, F) from one on, (B, N, K, F)."""
    found = around.narrow(1, first * size, count * size)
    return found.view(around.size(0), count, size, around.size(2))


def _with_neighbours(around: Tensor, count: int, size: int, window: int) -> Tensor:
    """Return the chunks of (B, (N + 2) K, F) but the outer ones, with W frames on either side.

    The result is (B, N, K + 2W, F); W is at most K.
    """
    before, own, after = (_chunks(around, count, size, first) for first in range(3))
    return torch.cat((before[:, :, size - window :], own, after[:, :, :window]), 2)


def _seen(
    valid: Tensor | None, rows: int, keys: int, offset: int, window: int, device: torch.device
) -> Tensor:
    """Return which keys a query sees, (N or 1, R, S): valid ones in its window, and itself.

    Query r is key r + ``offset``. Were it not for itself, padding queries would see none.
    """
    make = _near if is_capturing() else _near_table
    near, own = make(rows, keys, offset, window, device)
    return near if valid is None else (near & valid) | own


def _near(
    rows: int, keys: int, offset: int, window: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Return which keys are in a query's window, and which is its own; both (1, R, S)."""
    distance = torch.arange(keys, device=device) - torch.arange(
        offset, offset + rows, device=device
    ).unsqueeze(1)
    return (distance.abs() <= window).unsqueeze(0), (distance == 0).unsqueeze(0)


@lru_cache(maxsize=32)
def _near_table(
    rows: int, keys: int, offset: int, window: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(False):
        return _near(rows, keys, offset, window, device)
