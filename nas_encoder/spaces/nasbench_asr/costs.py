"""Exact and expected costs of NAS-Bench-ASR networks of one size."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from nas_encoder.network.complexity import RowCosts, cost_of, total
from nas_encoder.spaces.nasbench_asr.architecture import ZERO, SkipArchitecture
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig
from nas_encoder.spaces.nasbench_asr.layers import build_node_operation
from nas_encoder.spaces.nasbench_asr.network import NasBenchTrunk
from nas_encoder.spaces.nasbench_asr.space import NODE, NasBenchSpace


class SkipCosts(RowCosts):
    """The costs of networks of one size, for an utterance of T ``frames``.

    Skips cost nothing, and an operation costs the same on every node.
    """

    def __init__(self, space: NasBenchSpace, config: NasBenchConfig, frames: int) -> None:
        inputs: list[Tensor] = []

        def run(number: int, cell: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            inputs.append(x)
            y: Tensor = cell(x)
            return y

        with torch.device("meta"):
            trunk = NasBenchTrunk(config, nn.LayerNorm)  # cells hold only their norm
            x = torch.empty(1, frames, config.input_size)
            fixed = cost_of(trunk, lambda: trunk.output(*trunk.through_cells(x, None, run), 0.0))
            row = {ZERO: total([])}
            for op in space.operations:
                if op != ZERO:
                    layers = [build_node_operation(op, x.size(2), config.groups) for x in inputs]
                    costs = map(cost_of, layers, map(partial, layers, inputs))
                    row[op] = total(list(costs))
        super().__init__(NODE, [row] * space.nodes, fixed, never=(ZERO,))

    def of(self, architecture: SkipArchitecture) -> dict[str, float]:
        """Return the costs of an architecture's network, by quantity."""
        return self.of_operations([node.op for node in architecture.reduced().nodes])


build = SkipCosts
