"""Self-attention over all frames, a window or chunks, with relative positions or none.

B batch, T frames, t of a chunk that has arrived, C width, H heads, D = C / H features of a head, W
frames seen before, A frames seen after, N groups of K frames (:mod:`.sight`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.network.streaming import Chunk
from nas_encoder.ops.masking import is_capturing
from nas_encoder.spaces.blocks import positions
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.parts import Parallel, SelfAttention
from nas_encoder.spaces.blocks.sight import Sight
from nas_encoder.spaces.blocks.weighting import weighted

_MOST = 64  # queries at once while streaming, unless the context is larger


class AttentionModule(nn.Module):
    """Multi-head self-attention; what it adds to the stream.

    The score of query q and key k, with relative positions, is
    ``(query_q + u) key_k + (query_q + v) position(q - k)`` over the root of D, where u and v are
    learned for each head and ``position`` is a linear function of sinusoids (Dai et al. 2019,
    section 3.3; ``rel_pos`` of NeMo, of type ``latest`` in ESPnet). Without them it is
    ``query_q key_k`` over the root of D (Vaswani et al. 2017).

    Within a window, groups of frames attend to themselves, W frames before and A frames after them,
    so time and memory grow with T (W + A). With chunks, a frame sees W frames before its chunk and
    the whole chunk.

    Attributes:
        inputs: Queries, keys and values of all heads, stacked in this order.
        position: Linear function of the sinusoids; None without positions.
        content_bias: (H, D), u; None without positions.
        position_bias: (H, D), v; likewise.
        sights: What a frame sees, for each lookahead of the encoder; None for the whole utterance.
        selected: Which of them holds unless ``forward`` is told another.
    """

    def __init__(
        self, part: SelfAttention | Parallel, width: int, config: BlocksConfig, norm_before: bool
    ) -> None:
        super().__init__()
        self.heads, self.scale = part.heads, 1.0 / math.sqrt(width // part.heads)
        self.dropout = config.attention_dropout
        self.sights: tuple[Sight | None, ...] = (Sight.of(part),)
        self.selected = 0
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

    @property
    def reach(self) -> tuple[int, int] | None:
        """The most frames back and ahead that a frame sees; None for the whole utterance."""
        sight = self.sights[self.selected]
        return None if sight is None else sight.reach

    def take(self, parts: Sequence[SelfAttention | Parallel]) -> None:
        """Set what is seen with each lookahead; the parts differ in nothing else."""
        self.sights = tuple(map(Sight.of, parts))

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        batch, time, width = x.shape
        packed = self.inputs(self.norm(x))  # (B, T, 3C)
        sight = self.sights[self.selected if frames.lookahead is None else frames.lookahead]
        if sight is not None and self._in_groups(sight, time):
            context = self._within_groups(packed, frames, sight)
        else:
            context = self._as_a_whole(packed, frames, sight)
        out: Tensor = self.output(context.permute(1, 2, 0, 3).reshape(batch, -1, width)[:, :time])
        return out

    def initial_cache(self, batch: int, like: Tensor) -> Tensor:
        """Return the cache of B streams, (B, 0, 3C)."""
        return like.new_zeros(batch, 0, self.inputs.out_features)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, C) to the frames (B, t', C) whose context is complete.

        The cache holds the queries, keys and values of the frames that are still to be seen.
        """
        sight = self.sights[self.selected]
        assert sight is not None  # else it does not stream
        back, ahead = sight.back, sight.ahead
        packed = chunk.holding(self.inputs(self.norm(chunk.x))).after(cache)
        begin, end, size = max(0, chunk.start - ahead), chunk.end, max(back + ahead, _MOST)
        if sight.chunk:
            begin, size = sight.chunk_start(chunk.start), sight.rounded(size)
        if not chunk.last:
            end = sight.chunk_start(end) if sight.chunk else max(begin, end - ahead)
        # From the first on, so that captured graphs do not depend on where that is.
        parts = [
            self._between(packed, begin + first, min(begin + first + size, end), sight)
            for first in range(0, end - begin, size)
        ]
        out = chunk.x[:, :0] if not parts else self.output(torch.cat(parts, 1))
        kept = max(0, end - back) - packed.start
        return replace(chunk, x=out, start=begin), packed.x[:, kept:].clone()

    def _between(self, packed: Chunk, first: int, end: int, sight: Sight) -> Tensor:
        """Return the context (B, n, C) of the frames at the places from ``first`` to ``end``."""
        last = sight.rounded(end) if sight.chunk else end + sight.ahead
        start, last = max(0, first - sight.back), min(last, packed.end)
        width = self.inputs.in_features
        (query,) = self._in_heads(self._at(packed, first, end)[..., :width], 1)
        key, value = self._in_heads(self._at(packed, start, last)[..., width:], 2)
        rows, keys, offset = end - first, last - start, first - start
        valid, mask = packed.valid(start, last), None
        if valid is not None or not sight.is_all(rows, keys, offset):
            valid = None if valid is None else valid.unsqueeze(1)  # (B, 1, S)
            mask = sight.seen(valid, rows, keys, offset, packed.x.device)
        distances, column = None, 0
        if self.position is not None:
            highest, lowest, column = sight.distances(rows, keys, offset)
            distances = positions.between(highest, lowest, packed.x[..., :width])
            distances = F.pad(distances, (0, 0, 0, max(0, keys + 1 - distances.size(0))))
        context = self._attend(query, key, value, mask, distances, column)
        return context.permute(1, 2, 0, 3).flatten(2)

    @staticmethod
    def _at(packed: Chunk, first: int, end: int) -> Tensor:
        return packed.x[:, first - packed.start : end - packed.start]

    @staticmethod
    def _in_groups(sight: Sight, time: int) -> bool:
        """Whether to attend in groups, of K frames; short batches are faster as a whole."""
        return is_capturing() or time > 2 * (sight.group + sight.back + sight.ahead)

    def _as_a_whole(self, packed: Tensor, frames: Frames, sight: Sight | None) -> Tensor:
        """Attend from (B, T, 3C) to (H, B, T, D)."""
        time = packed.size(1)
        query, key, value = self._in_heads(packed, 3)
        mask = None if frames.mask is None else frames.mask.unsqueeze(1)  # (B, 1, T)
        if sight is not None and not sight.is_all(time, time, 0):
            mask = sight.seen(mask, time, time, 0, packed.device)
        if self.position is None:
            return self._attend(query, key, value, mask)
        assert frames.relative is not None
        # A row more, so that the product has a column more than its rows shall have.
        distances = F.pad(frames.relative, (0, 0, 0, 1))
        return self._attend(query, key, value, mask, distances, time - 1)

    def _within_groups(self, packed: Tensor, frames: Frames, sight: Sight) -> Tensor:
        """Attend from (B, T, 3C) to (H, B, N K, D)."""
        batch, time, width = packed.size(0), packed.size(1), packed.size(2) // 3
        back, ahead, size = sight.back, sight.ahead, sight.group
        keys = size + back + ahead
        count = (time + size - 1) // size
        around = F.pad(packed, (0, 0, size, (count + 1) * size - time))  # (B, (N + 2) K, 3C)
        queries = _groups(around[..., :width], count, size, 1).flatten(0, 1)
        (query,) = self._in_heads(queries, 1)  # (H, B N, K, D)
        beside = _with_neighbours(around[..., width:], count, size, back, ahead).flatten(0, 1)
        key, value = self._in_heads(beside, 2)  # (H, B N, W + K + A, D)
        valid = frames.mask
        if valid is None:
            valid = torch.ones(1, time, dtype=torch.bool, device=packed.device)
        valid = F.pad(valid, (size, (count + 1) * size - time)).unsqueeze(2)
        # Not squeezed, which ONNX takes for a condition on the size.
        valid = _with_neighbours(valid, count, size, back, ahead)[..., 0]
        valid = valid.expand(batch, -1, -1).reshape(batch * count, 1, keys)
        mask = sight.seen(valid, size, keys, back, packed.device)
        distances, column = None, 0
        if self.position is not None:
            assert frames.relative is not None
            highest, lowest, column = sight.distances(size, keys, back)
            # Beyond T there is no key. Then rows for the product's shape.
            beyond = F.pad(frames.relative, (0, 0, highest, -lowest))
            distances = beyond[time - 1 : time + highest - lowest]
            distances = F.pad(distances, (0, 0, 0, max(0, keys - highest + lowest)))
        context = self._attend(query, key, value, mask, distances, column)
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


def _groups(around: Tensor, count: int, size: int, first: int) -> Tensor:
    """Return N groups of (B, (N + 2) K, F) from one on, (B, N, K, F)."""
    found = around.narrow(1, first * size, count * size)
    return found.view(around.size(0), count, size, around.size(2))


def _with_neighbours(around: Tensor, count: int, size: int, back: int, ahead: int) -> Tensor:
    """Return the groups of (B, (N + 2) K, F) but the outer ones, with W and A frames beside them.

    The result is (B, N, W + K + A, F); W and A are at most K.
    """
    before, own, after = (_groups(around, count, size, first) for first in range(3))
    return torch.cat((before[:, :, size - back :], own, after[:, :, :ahead]), 2)
