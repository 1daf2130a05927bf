"""Exact and expected costs of chains of one width."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.network.complexity import RowCosts, cost_of
from nas_encoder.spaces.tdnn_chain.network import Chain, build_tdnn
from nas_encoder.spaces.tdnn_chain.space import BLOCKS, ChainArchitecture, ChainConfig, ChainSpace


class ChainCosts(RowCosts):
    """The costs of chains of one width, for an utterance of T ``frames``."""

    def __init__(self, space: ChainSpace, config: ChainConfig, frames: int) -> None:
        with torch.device("meta"):
            skeleton = _Skeleton(config, [None] * space.blocks, lambda _, width: nn.Identity())
            fixed = cost_of(skeleton, torch.empty(1, frames, config.input_size))
            rows = [
                {
                    op: cost_of(build_tdnn(op, x.size(2), config.channels), x, None)
                    for op in space.choices
                }
                for x in skeleton.inputs
            ]
        super().__init__(BLOCKS, rows, fixed)

    def of(self, architecture: ChainArchitecture) -> dict[str, float]:
        """Return the costs of an architecture's network, by quantity."""
        return self.of_operations(architecture.blocks)


class _Skeleton(Chain):
    """A chain whose blocks compute nothing; it records the inputs of the blocks."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        """Return (B, ceil(T / 3), D)."""
        self.inputs: list[Tensor] = []

        def run(number: int, block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            self.inputs.append(x)
            return x.new_empty(*x.shape[:2], self.config.channels)

        return self.through_blocks(x, None, 0.0, run)


build = ChainCosts
