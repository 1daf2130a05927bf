"""What chains of one width cost: each exactly, and expected of probabilities."""

from __future__ import annotations

import torch
from torch import nn

from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.network.choices.parameters import BLOCKS
from nas_encoder.network.costs import RowCosts, cost_of, refuse_latency
from nas_encoder.spaces.tdnn_chain.architecture import ChainArchitecture
from nas_encoder.spaces.tdnn_chain.config import SUBSAMPLE_AFTER, SUBSAMPLING, ChainConfig
from nas_encoder.spaces.tdnn_chain.network import TDNNLayer, build_tdnn
from nas_encoder.spaces.tdnn_chain.space import ChainSpace


class ChainCosts(RowCosts):
    """The costs of chains of one width.

    Args:
        config: The width and the length of the utterance.
        space: Of the chain.
        network: Everything else; its channels are the width where the config has none.
        frame_shift: Of the features, in seconds.

    Raises:
        ConfigError: Latencies are asked for, which are measured for cells alone.
    """

    def __init__(
        self, config: ObjectiveConfig, space: ChainSpace, network: ChainConfig, frame_shift: float
    ) -> None:
        refuse_latency(config, space.name)
        width, channels = network.input_size * (3 if network.deltas else 1), config.channels
        channels = channels or network.channels
        frames = round(config.seconds / frame_shift)
        blocks, fixed = [], []
        with torch.device("meta"):
            for number in range(1, space.blocks + 1):
                x = torch.empty(1, frames, width)
                blocks.append(
                    {op: cost_of(build_tdnn(op, width, channels), x, None) for op in space.choices}
                )
                width = channels
                if number == min(SUBSAMPLE_AFTER, space.blocks):
                    layer = TDNNLayer(width, width, 1, 1, SUBSAMPLING)
                    fixed.append(cost_of(layer, torch.empty(1, frames, width), None))
                    frames = -(-frames // SUBSAMPLING)
            if network.output_size != width:
                head = nn.Linear(width, network.output_size)
                fixed.append(cost_of(head, torch.empty(1, frames, width)))
        super().__init__(BLOCKS, blocks, fixed)

    def of(self, architecture: ChainArchitecture) -> dict[str, float]:
        """Return what the network of an architecture costs, by quantity."""
        return self.of_operations(architecture.blocks)
