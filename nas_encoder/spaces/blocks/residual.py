"""A residual block, and what changes the width and the rate of the stream between stages.

B batch, T frames of a stage, C its width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from nas_encoder.ops.dropout import dropout
from nas_encoder.spaces.blocks.architecture import Stage
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.frames import Frames
from nas_encoder.spaces.blocks.modules import build_module

Reach = tuple[int, int] | None  # frames back and ahead; None: all


class Block(nn.Module):
    """Residual modules in a row, with layer norms before or after each.

    Attributes:
        drop_path: Probability of dropping a module for an utterance, in training.
        output_channels: C.
        reach: Frames back and ahead that a frame depends on; None for all.
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
        self.reach = joined([layer.reach for layer in self.layers])  # type: ignore[misc]

    def forward(self, x: Tensor, frames: Frames) -> Tensor:
        """Map (B, T, C) to (B, T, C); padding frames may hold anything finite."""
        for place, (step, layer) in enumerate(zip(self.steps, self.layers, strict=True)):
            y = dropout(layer(x, frames), self.dropout, self.training)
            if self.training and self.drop_path:
                y = _dropped(y, self.drop_path)
            x = x + y if step == 1.0 else torch.add(x, y, alpha=step)
            if self.norms:
                x = self.norms[place](x)
        out: Tensor = self.final_norm(x)
        return out


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


def _dropped(y: Tensor, probability: float) -> Tensor:
    """Set (B, T, C) to zero for a random part of the utterances, and scale up the others."""
    kept = torch.rand(y.size(0), 1, 1, device=y.device) >= probability
    return y * (kept.to(y.dtype) / (1.0 - probability))


def joined(reaches: Sequence[Reach]) -> Reach:
    """Return the reach of parts in a row."""
    back = ahead = 0
    for reach in reaches:
        if reach is None:
            return None
        back, ahead = back + reach[0], ahead + reach[1]
    return back, ahead
