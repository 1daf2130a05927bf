"""The residual modules of blocks: what each adds to the stream.

``forward(x, frames)`` maps (B, T, C) to (B, T, C). Padding frames of ``x``, of the result and of
the gradients may hold anything finite; no other frame depends on them, in training mode either.
``reach`` is how many frames back and ahead a frame depends on at most, None for all of them.

``step(chunk, cache)`` does the same for frames as they arrive, in evaluation mode
(:mod:`nas_encoder.network.streaming`): it returns the frames that are complete, and the next cache.
The first is ``initial_cache(batch, like)``, of the type and on the device of ``like``.

B batch, T frames, t of a chunk, C width, U hidden units, K taps over time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.network.streaming import Chunk, slide
from nas_encoder.ops.dropout import Dropout
from nas_encoder.ops.feed_forward import can_fuse, feed_forward
from nas_encoder.ops.masking import is_tracing
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.ops.temporal import depthwise_over_time
from nas_encoder.spaces.blocks.architecture import hidden_units
from nas_encoder.spaces.blocks.attention import AttentionModule
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    GatedMlp,
    Memory,
    Parallel,
    SelfAttention,
)


def build_module(part: Part, width: int, config: BlocksConfig, norm_before: bool) -> nn.Module:
    """Build the residual module of a part.

    Args:
        part: One of :data:`~nas_encoder.spaces.blocks.parts.MODULES`.
        width: C.
        config: Options of the encoder.
        norm_before: Whether it begins with layer norm (in a :class:`Parallel`, each branch).
    """
    return _BUILDERS[type(part)](part, width, config, norm_before)


def _norm(width: int, config: BlocksConfig, wanted: bool = True) -> nn.Module:
    return nn.LayerNorm(width, config.norm_eps) if wanted else nn.Identity()


class FeedForwardModule(nn.Module):
    """Linear, swish or ReLU, dropout, linear (Vaswani et al. 2017, section 3.3)."""

    reach = (0, 0)

    def __init__(
        self, part: FeedForward, width: int, config: BlocksConfig, norm_before: bool
    ) -> None:
        super().__init__()
        hidden = hidden_units(part.expansion, width)
        self.norm = _norm(width, config, norm_before)
        self.expand = nn.Linear(width, hidden)
        self.activation = nn.SiLU() if part.activation == "swish" else nn.ReLU()
        self.dropout = Dropout(config.dropout)
        self.project = nn.Linear(hidden, width)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        x = self.norm(x)
        if can_fuse(x, self.expand, self.activation, self.dropout, self.project):
            return feed_forward(x, self.expand, self.activation, self.dropout.p, self.project)
        out: Tensor = self.project(self.dropout(self.activation(self.expand(x))))
        return out

    def initial_cache(self, batch: int, like: Tensor) -> tuple[()]:
        """Return the cache of B streams: nothing."""
        return ()

    def step(self, chunk: Chunk, cache: tuple[()]) -> tuple[Chunk, tuple[()]]:
        """Map a chunk (B, t, C) to (B, t, C)."""
        return chunk.holding(self(chunk.x, Frames())), cache


class DepthwiseOverTime(nn.Module):
    """A depthwise convolution over time, (B, T, C), with the frame its middle or its last tap.

    Attributes:
        weight: (C, 1, K), as of ``nn.Conv1d``.
        bias: (C,).
        back: Taps before the frame.
        ahead: Taps after it.
    """

    def __init__(self, width: int, kernel: int, causal: bool = False) -> None:
        super().__init__()
        self.back = kernel - 1 if causal else kernel // 2
        self.ahead = kernel - 1 - self.back
        bound = kernel**-0.5  # as of nn.Conv1d
        self.weight = nn.Parameter(torch.empty(width, 1, kernel).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(width).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, C), zero in padding frames, to (B, T, C)."""
        return depthwise_over_time(x, self.weight, self.bias, self.back)

    def initial_cache(self, batch: int, like: Tensor) -> Tensor:
        """Return the cache of B streams: the zeros before their first frame, (B, K', C)."""
        return like.new_zeros(batch, self.back, self.weight.size(0))

    def step(
        self, chunk: Chunk, cache: Tensor, run: Callable[[Tensor], Tensor] | None = None
    ) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, C), cleared, to the frames whose taps have all come in.

        ``run`` is what maps (B, T, C) to (B, T, C) in place of :meth:`forward`.
        """
        under, cache = slide(chunk, cache, self.back + 1 + self.ahead, 1, self.ahead)
        return within(under, self.back, self.ahead, run or self), cache


def within(under: Chunk, back: int, ahead: int, run: Callable[[Tensor], Tensor]) -> Chunk:
    """Return what ``run`` makes of frames (B, n, C) that have ``back`` and ``ahead`` beside them.

    Args:
        under: Frames with those beside them, or none.
        back: Frames before the first one.
        ahead: Frames after the last one.
        run: Maps (B, n, C) to (B, n, C), with zeros outside.
    """
    frames = under.size
    x = run(under.x)[:, back : frames - ahead] if frames else under.x
    return replace(under, x=x, start=under.start + back)


class ConvolutionModule(nn.Module):
    """A Conformer's convolution (Gulati et al. 2020, section 2.2).

    The layer norm of the depthwise layer's output has the eps of all layer norms, its batch norm
    1e-5, as in both toolkits. Batch statistics are those of the utterances' frames only.
    """

    def __init__(
        self, part: Convolution, width: int, config: BlocksConfig, norm_before: bool
    ) -> None:
        super().__init__()
        self.reach = part.reach
        self.gated = part.glu
        self.norm = _norm(width, config, norm_before)
        self.expand = nn.Linear(width, 2 * width if part.glu else width)
        self.depthwise = DepthwiseOverTime(width, part.kernel, part.causal)
        self.inner_norm: nn.Module = _norm(width, config)
        if part.norm == "batch":
            self.inner_norm = MaskedBatchNorm2d(width)
        self.project = nn.Linear(width, width)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        y = self._over_time(frames.clear(self._gated(x)), frames)
        out: Tensor = self.project(F.silu(y))
        return out

    def initial_cache(self, batch: int, like: Tensor) -> Tensor:
        """Return the cache of B streams, (B, K', C)."""
        return self.depthwise.initial_cache(batch, like)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, C) to the frames (B, t', C) that are complete."""
        chunk = chunk.holding(self._gated(chunk.x))
        run = partial(self._over_time, frames=Frames())
        out, cache = self.depthwise.step(chunk.holding(chunk.cleared()), cache, run)
        return out.holding(self.project(F.silu(out.x))), cache

    def _gated(self, x: Tensor) -> Tensor:
        y: Tensor = self.expand(self.norm(x))
        return F.glu(y, -1) if self.gated else F.silu(y)

    def _over_time(self, y: Tensor, frames: Frames) -> Tensor:
        norm = self.inner_norm
        if not isinstance(norm, MaskedBatchNorm2d):
            out: Tensor = norm(self.depthwise(y))
            return out
        mean, variance = norm.running_mean, norm.running_var
        if not norm.training and mean is not None and variance is not None:
            # The norm is a part of the convolution then.
            scale = norm.weight * torch.rsqrt(variance + norm.eps)
            shift = norm.bias + (self.depthwise.bias - mean) * scale
            weight = self.depthwise.weight * scale[:, None, None]
            return depthwise_over_time(y, weight, shift, self.depthwise.back)
        # Frames as images of a pixel: the layout in which PyTorch is fast.
        y = self.depthwise(y)
        mask = None if frames.mask is None else frames.mask.reshape(-1, 1, 1, 1)
        flat = norm(y.reshape(-1, y.size(2), 1, 1), mask)
        return flat.view(y.shape)  # type: ignore[no-any-return]


class GatedMlpModule(nn.Module):
    """cgMLP: linear, GELU, half of it gated by the other half, linear (Sakuma et al. 2022).

    The gate is a depthwise convolution over time of the normalized half.
    """

    def __init__(
        self, part: GatedMlp | Parallel, width: int, config: BlocksConfig, norm_before: bool
    ) -> None:
        super().__init__()
        half = hidden_units(part.expansion, width, 2) // 2
        self.reach = GatedMlp(part.expansion, part.kernel, part.causal).reach
        self.norm = _norm(width, config, norm_before)
        self.expand = nn.Linear(width, 2 * half)
        self.gate_norm = _norm(half, config)
        self.gate = DepthwiseOverTime(half, part.kernel, part.causal)
        self.reset_gate()
        self.dropout = Dropout(config.dropout)
        self.project = nn.Linear(half, width)

    def reset_gate(self) -> None:
        """Let the gate begin near 1."""
        nn.init.normal_(self.gate.weight, std=1e-6)
        nn.init.ones_(self.gate.bias)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        kept, gate = F.gelu(self.expand(self.norm(x))).chunk(2, -1)
        gated = kept * self.gate(frames.clear(self.gate_norm(gate)))
        out: Tensor = self.project(self.dropout(gated))
        return out

    def initial_cache(self, batch: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Return the caches of B streams: of the gate (B, K', U / 2), and of what it gates."""
        return self.gate.initial_cache(batch, like), like.new_zeros(
            batch, 0, self.gate.weight.size(0)
        )

    def step(
        self, chunk: Chunk, cache: tuple[Tensor, Tensor]
    ) -> tuple[Chunk, tuple[Tensor, Tensor]]:
        """Map a chunk (B, t, C) to the frames (B, t', C) that are complete."""
        kept, gate = F.gelu(self.expand(self.norm(chunk.x))).chunk(2, -1)
        normed = chunk.holding(chunk.holding(self.gate_norm(gate)).cleared())
        out, gates = self.gate.step(normed, cache[0])
        ready, waiting = chunk.holding(kept).after(cache[1]).split(out.size)
        return out.holding(self.project(ready.x * out.x)), (gates, waiting)


class ParallelModule(nn.Module):
    """Self-attention beside cgMLP, each with a norm of its own, merged.

    The branches side by side, y (B, T, 2C), go through a linear layer (Branchformer, Peng et al.
    2022, ``concat``); before it a depthwise convolution of y over time is added if there is a merge
    kernel (E-Branchformer, Kim et al. 2023, section 3.2).
    """

    def __init__(self, part: Parallel, width: int, config: BlocksConfig, norm_before: bool) -> None:
        super().__init__()
        self.attention = AttentionModule(part, width, config, norm_before)
        self.mlp = GatedMlpModule(part, width, config, norm_before)
        self.dropout = Dropout(config.dropout)
        self.merge: DepthwiseOverTime | None = None
        if part.merge_kernel:
            self.merge = DepthwiseOverTime(2 * width, part.merge_kernel, part.causal)
        self.project = nn.Linear(2 * width, width)
        self.take((part,))

    @property
    def reach(self) -> tuple[int, int] | None:
        """The most frames back and ahead that a frame depends on; None for all of them."""
        return self._reaches[self.attention.selected]

    def take(self, parts: Sequence[Parallel]) -> None:
        """Set what is seen with each lookahead; see :meth:`.AttentionModule.take`."""
        self._reaches = [part.reach for part in parts]
        self.attention.take(parts)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        branches = (self.attention(x, frames), self.mlp(x, frames))
        y = self.dropout(torch.cat(branches, -1))
        if self.merge is not None:
            y = y + self.merge(frames.clear(y))
        out: Tensor = self.project(y)
        return out

    def initial_cache(self, batch: int, like: Tensor) -> tuple[Any, ...]:
        """Return the caches of B streams: of the branches, of what waits behind them, the merge."""
        width = self.project.out_features
        waiting = [like.new_zeros(batch, 0, width) for _ in range(2)]
        merge = like.new_zeros(batch, 0, 2 * width)
        if self.merge is not None:
            merge = self.merge.initial_cache(batch, like)
        branches = (branch.initial_cache(batch, like) for branch in (self.attention, self.mlp))
        return (*branches, *waiting, merge)

    def step(self, chunk: Chunk, cache: tuple[Any, ...]) -> tuple[Chunk, tuple[Any, ...]]:
        """Map a chunk (B, t, C) to the frames (B, t', C) that are complete."""
        attended, first = self.attention.step(chunk, cache[0])
        gated, second = self.mlp.step(chunk, cache[1])
        attended, gated = attended.after(cache[2]), gated.after(cache[3])
        count = min(attended.size, gated.size)
        attended, third = attended.split(count)
        gated, fourth = gated.split(count)
        y, merge = attended.holding(torch.cat((attended.x, gated.x), -1)), cache[4]
        if self.merge is not None:
            y = y.holding(y.cleared())
            y, merge = self.merge.step(y, merge, lambda x: x + self.merge(x))  # type: ignore[misc]
        return y.holding(self.project(y.x)), (first, second, third, fourth, merge)


class MemoryModule(nn.Module):
    """FSMN memory: p plus a weighted sum of p's neighbours (Zhang et al. 2018, equation 8).

    p is V relu(U norm(x)) with hidden units, norm(x) without.

    Attributes:
        taps: (C, 1, back + 1 + ahead), the earliest frame first.
    """

    def __init__(self, part: Memory, width: int, config: BlocksConfig, norm_before: bool) -> None:
        super().__init__()
        self.back, self.ahead, self.stride = part.back, part.ahead, part.stride
        self.reach = part.reach
        self.norm = _norm(width, config, norm_before)
        hidden = hidden_units(part.expansion, width)
        self.expand = nn.Linear(width, hidden) if hidden else None
        self.dropout = Dropout(config.dropout)
        self.project = nn.Linear(hidden, width) if hidden else None
        count = part.back + 1 + part.ahead
        bound = count**-0.5
        self.taps = nn.Parameter(torch.empty(width, 1, count).uniform_(-bound, bound))

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C)."""
        return self._with_neighbours(frames.clear(self._projected(x)))

    def initial_cache(self, batch: int, like: Tensor) -> Tensor:
        """Return the cache of B streams: the zeros before their first frame, (B, n, C)."""
        return like.new_zeros(batch, self.back * self.stride, self.taps.size(0))

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, C) to the frames (B, t', C) that are complete."""
        chunk = chunk.holding(self._projected(chunk.x))
        back, ahead = self.back * self.stride, self.ahead * self.stride
        under, cache = slide(chunk.holding(chunk.cleared()), cache, back + 1 + ahead, 1, ahead)
        return within(under, back, ahead, self._with_neighbours), cache

    def _projected(self, x: Tensor) -> Tensor:
        p: Tensor = self.norm(x)
        if self.expand is not None and self.project is not None:
            p = self.project(self.dropout(torch.relu(self.expand(p))))
        return p

    def _with_neighbours(self, p: Tensor) -> Tensor:
        """Add to each frame of (B, T, C) its neighbours; zeros lie outside."""
        if is_tracing():  # ONNX wants to know the shape of a kernel
            return p + depthwise_over_time(p, self.taps, None, self.back, self.stride)
        # p itself is one more on its frame's tap.
        taps = self.taps + F.pad(self.taps.new_ones(1, 1, 1), (self.back, self.ahead))
        return depthwise_over_time(p, taps, None, self.back, self.stride)


_BUILDERS: dict[type[Part], Callable[[Any, int, BlocksConfig, bool], nn.Module]] = {
    FeedForward: FeedForwardModule,
    SelfAttention: AttentionModule,
    Convolution: ConvolutionModule,
    GatedMlp: GatedMlpModule,
    Parallel: ParallelModule,
    Memory: MemoryModule,
}
