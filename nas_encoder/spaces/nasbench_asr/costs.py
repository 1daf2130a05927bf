"""What networks of NAS-Bench-ASR of one size cost: each exactly, and expected of probabilities."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.network.choices.parameters import NODES
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.network.costs import RowCosts, cost_of, refuse_latency, total
from nas_encoder.spaces.nasbench_asr.architecture import NODES as COUNT
from nas_encoder.spaces.nasbench_asr.architecture import ZERO, SkipArchitecture
from nas_encoder.spaces.nasbench_asr.config import STRIDES, NasBenchConfig, spread_cells
from nas_encoder.spaces.nasbench_asr.layers import SkipTrunk, build_node_operation
from nas_encoder.spaces.nasbench_asr.space import NasBenchSpace


class SkipCosts(RowCosts):
    """The costs of networks of one size.

    Skips cost nothing, and an operation the same on every node.

    Args:
        config: The size and the length of the utterance.
        space: The nodes' operations.
        network: Everything else; its channels count where the config has none.
        frame_shift: Of the features, in seconds.

    Raises:
        ConfigError: Latencies are asked for, which are measured for cells of edges alone.
    """

    def __init__(
        self,
        config: ObjectiveConfig,
        space: NasBenchSpace,
        network: NasBenchConfig,
        frame_shift: float,
    ) -> None:
        refuse_latency(config, space.name)
        size = replace(network, channels=config.channels or network.channels)
        if config.layers is not None:
            size = replace(size, block_cells=spread_cells(config.layers))
        frames = round(config.seconds / frame_shift)
        with torch.device("meta"):
            skeleton = _Skeleton(size)
            fixed = {
                "parameters": float(count_parameters(skeleton)),
                "macs": float(count_macs(skeleton, frames, size.input_size)),
            }
            found: dict[str, list[dict[str, float]]] = {op: [] for op in space.operations}
            for filters, stride, count in zip(size.filters, STRIDES, size.block_cells, strict=True):
                frames = -(-frames // stride)
                x = torch.empty(1, frames, filters)
                for op in space.operations:
                    if op != ZERO and count:
                        one = cost_of(build_node_operation(op, filters, size.groups), x)
                        found[op] += [one] * count
        row = {op: total(costs) for op, costs in found.items()}
        super().__init__(NODES, [row] * COUNT, [fixed], never=(ZERO,))

    def of(self, architecture: SkipArchitecture) -> dict[str, float]:
        """Return what the network of an architecture costs, by quantity."""
        return self.of_operations([node.op for node in architecture.reduced().nodes])


class _Skeleton(SkipTrunk):
    """A network whose cells hold nothing but their norm."""

    def __init__(self, config: NasBenchConfig) -> None:
        super().__init__()
        self.config = config
        self.build(nn.LayerNorm)

    def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
        """Map (B, T, F) to (B, ceil(T / 4), D); the lengths play no part."""
        x, _ = self.through_cells(x, None, lambda number, cell, x, mask: cell(x))
        return self.output(x, None, 0.0)
