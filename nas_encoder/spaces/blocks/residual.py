"""A residual block, and what changes the width and the rate of the stream between stages.

B batch, T frames of a stage, t of a chunk that has arrived, C its width.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.network.streaming import Chunk, slide
from nas_encoder.ops.dropout import add_dropped, dropout
from nas_encoder.ops.masking import reduced_lengths
from nas_encoder.spaces.blocks.architecture import Stage
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.modules import build_module


class Block(nn.Module):
    """Residual modules in a row, with layer norms before or after each.

    Attributes:
        drop_path: Probability of dropping a module for an utterance, in training.
        output_channels: C.
    """

    def __init__(self, stage: Stage, config: BlocksConfig) -> None:
        super().__init__()
        before, size = stage.norm == "before", stage.width
        self.output_channels = size
        self.steps = [float(getattr(part, "step", 1.0)) for part in stage.modules]
        self.dropout, self.drop_path = config.dropout, config.drop_path
        self.layers = nn.ModuleList(
            build_module(part, size, config, before) for part in stage.modules
        )
        self.norms = nn.ModuleList(
            nn.LayerNorm(size, config.norm_eps) for _ in stage.modules if not before
        )
        self.final_norm: nn.Module = nn.Identity()
        if stage.final_norm:
            self.final_norm = nn.LayerNorm(size, config.norm_eps)

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C); padding frames may hold anything finite."""
        for place, (step, layer) in enumerate(zip(self.steps, self.layers, strict=True)):
            y = layer(x, frames)
            if self.training and self.drop_path:
                y = _dropped(dropout(y, self.dropout, True), self.drop_path)
                x = torch.add(x, y, alpha=step)
            else:
                x = add_dropped(x, y, self.dropout, self.training, step)
            if self.norms:
                x = self.norms[place](x)
        out: Tensor = self.final_norm(x)
        return out

    def initial_cache(self, batch: int, like: Tensor) -> tuple[Any, ...]:
        """Return the caches of B streams: of each module, and of the stream that waits for it."""
        layers: Any = self.layers
        waiting = like.new_zeros(batch, 0, self.output_channels)
        return tuple((layer.initial_cache(batch, like), waiting) for layer in layers)

    def step(self, chunk: Chunk, cache: tuple[Any, ...]) -> tuple[Chunk, tuple[Any, ...]]:
        """Map a chunk (B, t, C) to the frames (B, t', C) that are complete."""
        layers: Any = self.layers
        kept = []
        for place, (step, layer) in enumerate(zip(self.steps, layers, strict=True)):
            y, own = layer.step(chunk, cache[place][0])
            ready, waiting = chunk.after(cache[place][1]).split(y.size)
            assert ready.start == y.start
            x = torch.add(ready.x, y.x, alpha=step)
            chunk = ready.holding(self.norms[place](x) if self.norms else x)
            kept.append((own, waiting))
        return chunk.holding(self.final_norm(chunk.x)), tuple(kept)


class Transition(nn.Module):
    """Changes width and rate between two stages.

    The rate falls by a depthwise convolution of 2f - 1 frames and stride f, and rises by repeating
    each frame f times and adding the skip; a linear layer changes the width (Squeezeformer, Kim et
    al. 2022, section 3.1).

    Args:
        width: Of the stage before.
        to: Of the stage after.
        fall: f, if the rate falls; else 1.
        rise: f, if the rate rises; else 1.
        skip: Width of the skip, if the rate rises.
    """

    def __init__(self, width: int, to: int, fall: int, rise: int, skip: int = 0) -> None:
        super().__init__()
        self.fall, self.rise = fall, rise
        self.widths = width, to, skip
        self.reduce: nn.Module = nn.Identity()
        if fall > 1:
            self.reduce = nn.Conv1d(
                width, width, 2 * fall - 1, stride=fall, padding=fall - 1, groups=width
            )
        self.project = nn.Identity() if width == to and rise == 1 else nn.Linear(width, to)
        self.skip = nn.Identity() if skip in (0, to) else nn.Linear(skip, to)

    def forward(self, x: Tensor, frames: Frames, skip: Tensor | None) -> Tensor:
        """Map (B, T, C) to (B, T', C'); ``skip`` is (B, T', C'') where the rate rises."""
        if self.fall > 1:
            x = self.reduce(frames.clear(x).transpose(1, 2)).transpose(1, 2)
        x = self.project(x)
        if skip is None:
            return x
        x = x.repeat_interleave(self.rise, dim=1)[:, : skip.size(1)]
        y: Tensor = x + self.skip(skip)
        return y

    def initial_cache(self, batch: int, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return the caches of B streams: of the convolution, the frames and skips that wait."""
        width, to, skip = self.widths
        return (
            like.new_zeros(batch, self.fall - 1, width),
            like.new_zeros(batch, 0, to),
            like.new_zeros(batch, 0, skip),
        )

    def step(
        self, chunk: Chunk, cache: tuple[Tensor, ...], skip: Chunk | None
    ) -> tuple[Chunk, tuple[Tensor, ...]]:
        """Map a chunk (B, t, C) to the frames (B, t', C') that are complete.

        Args:
            chunk: Frames of the stage before.
            cache: What was kept.
            skip: (B, t'', C''), what has arrived at the new rate, where the rate rises.
        """
        before, frames, skips = cache
        if self.fall > 1:
            chunk, before = self._fallen(chunk, before)
        chunk = chunk.holding(self.project(chunk.x))
        if skip is None:
            return chunk, (before, frames, skips)
        x = chunk.x.repeat_interleave(self.rise, dim=1)
        risen = replace(skip, x=x, start=chunk.start * self.rise).after(frames)
        beside = skip.after(skips)
        count = min(risen.size, beside.size)
        risen, frames = risen.split(count)
        beside, skips = beside.split(count)
        return risen.holding(risen.x + self.skip(beside.x)), (before, frames, skips)

    def _fallen(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        layer: Any = self.reduce
        before, size = self.fall - 1, 2 * self.fall - 1
        under, cache = slide(chunk.holding(chunk.cleared()), cache, size, self.fall, before)
        x = under.x
        if under.size:
            x = torch.conv1d(
                x.transpose(1, 2), layer.weight, layer.bias, self.fall, groups=layer.groups
            ).transpose(1, 2)
        lengths = None if chunk.lengths is None else reduced_lengths(chunk.lengths, self.fall)
        start, begins = (under.start + before) // self.fall, chunk.begins_after(self.fall)
        return replace(under, x=x, start=start, lengths=lengths, begins=begins), cache


def _dropped(y: Tensor, probability: float) -> Tensor:
    """Set (B, T, C) to zero for a random part of the utterances, and scale up the others."""
    kept = torch.rand(y.size(0), 1, 1, device=y.device) >= probability
    return y * (kept.to(y.dtype) / (1.0 - probability))
