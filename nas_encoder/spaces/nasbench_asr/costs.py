"""Exact and expected costs of NAS-Bench-ASR networks of one size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.network.complexity import RowCosts, cost_of, count_macs, count_parameters, total
from nas_encoder.spaces.nasbench_asr.architecture import ZERO, SkipArchitecture
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig
from nas_encoder.spaces.nasbench_asr.network import NasBenchTrunk, build_node_operation
from nas_encoder.spaces.nasbench_asr.space import NODE, NasBenchSpace


class SkipCosts(RowCosts):
    """The costs of networks of one size, for an utterance of T ``frames``.

    Skips cost nothing, and an operation costs the same on every node.
    """

    def __init__(self, space: NasBenchSpace, config: NasBenchConfig, frames: int) -> None:
        with torch.device("meta"):
            skeleton = _Skeleton(config, nn.LayerNorm)
            fixed = {
                "parameters": float(count_parameters(skeleton)),
                "macs": float(count_macs(skeleton, frames, config.input_size)),
            }
            found: dict[str, list[dict[str, float]]] = {op: [] for op in space.operations}
            for x in skeleton.inputs:
                for op in space.operations:
                    if op != ZERO:
                        layer = build_node_operation(op, x.size(2), config.groups)
                        found[op].append(cost_of(layer, x))
        row = {op: total(costs) for op, costs in found.items()}
        super().__init__(NODE, [row] * space.nodes, fixed, never=(ZERO,))

    def of(self, architecture: SkipArchitecture) -> dict[str, float]:
        """Return the costs of an architecture's network, by quantity."""
        return self.of_operations([node.op for node in architecture.reduced().nodes])


class _Skeleton(NasBenchTrunk):
    """A network whose cells hold only their norm; it records the inputs of the cells."""

    def forward(self, x: Tensor, *_: Any) -> Any:
        """Return (B, ceil(T / 4), D)."""
        self.inputs: list[Tensor] = []

        def run(number: int, cell: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            self.inputs.append(x)
            y: Tensor = cell(x)
            return y

        return self.output(*self.through_cells(x, None, run), 0.0)


build = SkipCosts
