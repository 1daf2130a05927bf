"""Exact and expected costs of chains of one width."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nas_encoder.network.complexity import RowCosts, cost_of
from nas_encoder.spaces.tdnn_chain.network import Chain, build_tdnn
from nas_encoder.spaces.tdnn_chain.space import BLOCKS, ChainArchitecture, ChainConfig, ChainSpace


class ChainCosts(RowCosts):
    """The costs of chains of one width, for an utterance of T ``frames``."""

    def __init__(self, space: ChainSpace, config: ChainConfig, frames: int) -> None:
        inputs: list[Tensor] = []

        def run(number: int, block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            inputs.append(x)
            return x.new_empty(*x.shape[:2], config.channels)

        with torch.device("meta"):
            chain = Chain(config, [None] * space.blocks, lambda _, width: nn.Identity())
            x = torch.empty(1, frames, config.input_size)
            fixed = cost_of(chain, partial(chain.through_blocks, x, None, 0.0, run))
            rows = []
            for x in inputs:
                layers = {op: build_tdnn(op, x.size(2), config.channels) for op in space.choices}
                rows.append({op: cost_of(own, partial(own, x, None)) for op, own in layers.items()})
        super().__init__(BLOCKS, rows, fixed)

    def of(self, architecture: ChainArchitecture) -> dict[str, float]:
        """Return the costs of an architecture's network, by quantity."""
        return self.of_operations(architecture.blocks)


build = ChainCosts
