"""What chains of one width cost: each exactly, and expected of probabilities."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import ChainArchitecture
from nas_encoder.network.chain import TDNNLayer, build_tdnn
from nas_encoder.network.chain_config import SUBSAMPLE_AFTER, SUBSAMPLING, ChainConfig
from nas_encoder.network.complexity import count_parameters
from nas_encoder.search.budgets import ObjectiveConfig
from nas_encoder.search.gradient.choices import BLOCKS, Alive
from nas_encoder.spaces import ChainSpace


class ChainCosts:
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
        if config.latency_ms is not None or config.table is not None:
            raise ConfigError(
                "objective.latency_ms",
                [f"is for spaces of cells, the operations of '{space.name}' are not measured"],
            )
        self.quantities = ["parameters", "macs"]
        width, channels = network.input_size * (3 if network.deltas else 1), config.channels
        channels = channels or network.channels
        frames = round(config.seconds / frame_shift)
        self._blocks: list[dict[str, dict[str, float]]] = []
        fixed: list[dict[str, float]] = []
        with torch.device("meta"):
            for number in range(1, space.blocks + 1):
                self._blocks.append(
                    {
                        op: _count(build_tdnn(op, width, channels), width, frames)
                        for op in space.choices
                    }
                )
                width = channels
                if number == min(SUBSAMPLE_AFTER, space.blocks):
                    layer = TDNNLayer(width, width, 1, 1, SUBSAMPLING)
                    fixed.append(_count(layer, width, frames))
                    frames = -(-frames // SUBSAMPLING)
            if network.output_size != width:
                head = nn.Linear(width, network.output_size)
                fixed.append(_count(head, width, frames))
        self._fixed = {name: sum(part[name] for part in fixed) for name in self.quantities}

    def of(self, architecture: ChainArchitecture) -> dict[str, float]:
        """Return what the network of an architecture costs, by quantity."""
        chosen = list(zip(self._blocks, architecture.blocks, strict=True))
        return {
            name: self._fixed[name] + sum(block[op][name] for block, op in chosen)
            for name in self.quantities
        }

    def cheapest(self, name: str) -> float:
        """Return the least that a network of the space costs."""
        blocks = [min(costs[name] for costs in block.values()) for block in self._blocks]
        return self._fixed[name] + sum(blocks)

    def expected(self, weights: Mapping[str, Tensor], alive: Alive) -> dict[str, Tensor]:
        """Return the expected costs; each block's operation is drawn from its probabilities."""
        probabilities = weights[BLOCKS].double()
        totals = {}
        for name in self.quantities:
            table = [
                [block[op][name] for op in own]
                for block, own in zip(self._blocks, alive[BLOCKS], strict=True)
            ]
            drawn = probabilities * probabilities.new_tensor(table)
            totals[name] = self._fixed[name] + drawn.sum()
        return totals


def _count(module: nn.Module, width: int, frames: int) -> dict[str, float]:
    counter = FlopCounterMode(display=False)
    x = torch.empty(1, frames, width)
    with counter, torch.no_grad():
        module(x, None) if isinstance(module, TDNNLayer) else module(x)
    return {
        "parameters": float(count_parameters(module)),
        "macs": float(counter.get_total_flops() // 2),
    }
