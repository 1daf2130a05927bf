"""Self-attention over all frames or within a window, with relative positions or none.

B batch, T frames, C width, H heads, D = C / H features of a head, W frames of a window's side,
N chunks of K frames.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops.masking import is_capturing
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.parts import Parallel, SelfAttention

_LEAST_CHUNK = 16  # smaller matrix products gain nothing


class AttentionModule(nn.Module):
    """Multi-head self-attention; what it adds to the stream.

    The score of query q and key k, with relative positions, is
    ``(query_q + u) key_k + (query_q + v) position(q - k)`` over the root of D, where u and v are
    learned for each head and ``position`` is a linear function of sinusoids (Dai et al. 2019,
    section 3.3; ``rel_pos`` of NeMo, of type ``latest`` in ESPnet). Without them it is
    ``query_q key_k`` over the root of D (Vaswani et al. 2017).

    Within a window, chunks of frames attend to themselves and W frames on either side, so memory
    and time grow with T W.

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
        # Within a window as long as the batch all frames see each other.
        if not self.window or (not is_capturing() and time <= self.window + 1):
            mask = None if frames.mask is None else frames.mask[:, None, None, :]
            query, key, value = self._heads(packed, 3)
            context = self._attend(query, key, value, mask, frames.relative)
        else:
            context = self._attend_chunks(packed, frames)
        out: Tensor = self.output(context.transpose(1, 2).reshape(batch, -1, width)[:, :time])
        return out

    def _heads(self, packed: Tensor, parts: int) -> tuple[Tensor, ...]:
        """Split (B, T, parts * C) into parts of (B, H, T, D)."""
        batch, time, _ = packed.shape
        split = packed.view(batch, time, parts, self.heads, -1)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def _attend(
        self, query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, relative: Tensor | None
    ) -> Tensor:
        """Attend over all frames; ``mask`` is (B, 1, 1, T), true for keys of the utterance."""
        if self.position is None:
            return self._weighted(query * _scale(query), key, value, mask)
        query, shifted = self._biased(query)
        assert relative is not None
        time = query.size(2)
        # A row more, never seen, so that rows of 2T read as rows of 2T - 1 start one later each:
        # a product's row q begins with the distance T - 1, and from column T - 1 - q with key 0.
        positions = F.pad(self._positions(relative), (0, 0, 0, 1))  # (H, 2T, D)
        bias = torch.matmul(shifted, positions.transpose(1, 2)).flatten(2)  # (B, H, T 2T)
        bias = bias[..., time - 1 : -1].unflatten(2, (time, 2 * time - 1))[..., :time]
        return self._weighted(query, key, value, mask, bias)

    def _attend_chunks(self, packed: Tensor, frames: Frames) -> Tensor:
        """Attend within the window; (B, T, 3C) to (B, H, N K, D)."""
        batch, time, width = packed.size(0), packed.size(1), packed.size(2) // 3
        size, window = max(self.window, _LEAST_CHUNK), self.window
        chunks = (time + size - 1) // size
        spare = chunks * size - time
        queries = F.pad(packed[..., :width], (0, 0, 0, spare)).view(-1, size, width)
        beside = F.pad(packed[..., width:], (0, 0, size, size + spare))
        (query,) = self._heads(queries, 1)  # (B N, H, K, D)
        key, value = self._heads(_with_neighbours(beside, chunks, size, window).flatten(0, 1), 2)
        valid = frames.mask
        if valid is None:
            valid = torch.ones(1, time, dtype=torch.bool, device=packed.device)
        valid = F.pad(valid, (size, size + spare)).unsqueeze(2)
        valid = _with_neighbours(valid, chunks, size, window)  # (B or 1, N, K + 2W, 1)
        valid = valid.squeeze(3).expand(batch, -1, -1).flatten(0, 1)[:, None, None, :]
        if self.position is None:
            query = query * _scale(query)
            band = query.new_zeros(1, 1, size, 2 * window + 1)
        else:
            query, shifted = self._biased(query)
            assert frames.relative is not None
            # Distances W to -W; beyond the batch's length there is no key.
            padded = F.pad(frames.relative, (0, 0, window, window))[time - 1 : time + 2 * window]
            band = torch.matmul(shifted, self._positions(padded).transpose(1, 2))
        bias = _in_columns(band, size + 2 * window)
        context = self._weighted(query, key, value, valid, bias)
        return context.unflatten(0, (batch, chunks)).transpose(1, 2).flatten(2, 3)

    def _biased(self, query: Tensor) -> tuple[Tensor, Tensor]:
        """Return the scaled queries (B, H, T, D) for the contents and for the positions."""
        assert self.content_bias is not None and self.position_bias is not None
        scale = _scale(query)
        query = query * scale
        contents = (self.content_bias * scale).to(query.dtype).unsqueeze(1)
        positions = (self.position_bias * scale).to(query.dtype).unsqueeze(1)
        return query + contents, query + positions

    def _positions(self, relative: Tensor) -> Tensor:
        """Map sinusoids (P, C) to (H, P, D)."""
        assert self.position is not None
        mapped: Tensor = self.position(relative)
        return mapped.view(relative.size(0), self.heads, -1).transpose(0, 1)

    def _weighted(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        bias: Tensor | None = None,
    ) -> Tensor:
        """Return the values (B, H, T, D) weighted by the scores plus ``bias`` under the mask."""
        rate = self.dropout if self.training else 0.0
        if bias is None:
            return F.scaled_dot_product_attention(query, key, value, mask, rate, scale=1.0)
        learning = torch.is_grad_enabled() and bias.requires_grad
        if query.device.type == "cpu" and learning:
            # No fused kernel of CPUs has a gradient for the bias.
            scores = torch.matmul(query, key.transpose(2, 3)) + bias
            weights = torch.softmax(_masked(scores, mask), -1)
            return torch.matmul(F.dropout(weights, rate, self.training).to(value.dtype), value)
        # Fused kernels of GPUs want aligned rows.
        bias = _masked(bias, mask).contiguous()
        return F.scaled_dot_product_attention(query, key, value, bias, rate, scale=1.0)


def _scale(query: Tensor) -> float:
    return float(query.size(-1)) ** -0.5


def _lowest(scores: Tensor) -> float:
    # Finite, so that a row without any key stays finite; half, so that no sum overflows.
    return torch.finfo(scores.dtype).min / 2


def _masked(scores: Tensor, mask: Tensor | None) -> Tensor:
    return scores if mask is None else scores.masked_fill(~mask, _lowest(scores))


def _with_neighbours(x: Tensor, chunks: int, size: int, window: int) -> Tensor:
    """Return the chunks of (B, (N + 2) K, F) but the outer ones, with W frames on either side.

    The result is (B, N, K + 2W, F); W is at most K.
    """
    cut = x.unflatten(1, (chunks + 2, size))
    before, after = cut[:, :-2, size - window :], cut[:, 2:, :window]
    return torch.cat((before, cut[:, 1:-1], after), 2)


def _in_columns(band: Tensor, keys: int) -> Tensor:
    """Move row q of (B, H, K, 2W + 1) q columns to the right, among ``keys`` = K + 2W columns.

    The result, (B, H, K, K + 2W), has a very low score where no column came from.
    """
    size = band.size(2)
    wide = F.pad(band, (0, size), value=_lowest(band))
    return wide.flatten(2)[..., : size * keys].unflatten(2, (size, keys))
