"""One cell of the network, built from its genotype."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops import FactorizedReduce, Identity, build_operation
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.spaces.cells.architecture import INPUT_STATES, Cell
from nas_encoder.spaces.cells.stack import StackedCell


class State(NamedTuple):
    """A feature map and its frame mask.

    ``value`` (B, C, T, F) is zero in padding frames; ``mask`` is (B, 1, T, 1), or None if no
    utterance is padded.
    """

    value: Tensor
    mask: Tensor | None


class PointwiseNorm(nn.Module):
    """ReLU, 1x1 convolution from C to D channels, batch norm."""

    def __init__(self, channels: int, output_channels: int, affine: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, output_channels, 1, bias=False)
        self.norm = MaskedBatchNorm2d(output_channels, affine=affine)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, D, T, F); zero in padding frames."""
        return self.norm(self.conv(F.relu(x)), mask)  # type: ignore[no-any-return]


def build_preprocess(
    channels: int, output_channels: int, halve: bool, affine: bool = True
) -> nn.Module:
    """Build the layer that gives an input the cell's channels and, if asked, resolution."""
    if halve:
        return FactorizedReduce(channels, output_channels, affine)
    return PointwiseNorm(channels, output_channels, affine)


class CellModule(nn.Module):
    """A cell of an evaluation network.

    Only what the genotype uses is built: an input that no edge reads has no preprocessing.

    Args:
        cell: The genotype of this cell.
        place: Its place in the network.
    """

    def __init__(self, cell: Cell, place: StackedCell) -> None:
        super().__init__()
        channels = place.channels
        self.sources = tuple(tuple(edge.source for edge in node) for node in cell.nodes)
        self.concat = cell.concat
        self.output_channels = channels * len(cell.concat)
        self.halve_first = place.halves_first
        self.stride = place.stride
        self.used_inputs = cell.used_inputs()
        if 0 in self.used_inputs:
            self.preprocess0 = build_preprocess(place.inputs[0], channels, place.halves_first)
        if 1 in self.used_inputs:
            self.preprocess1 = build_preprocess(place.inputs[1], channels, False)
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                build_operation(edge.op, channels, self.stride if edge.source < INPUT_STATES else 1)
                for edge in node
            )
            for node in cell.nodes
        )

    def forward(self, first: State, second: State, drop_path: float = 0.0) -> State:
        """Compute (B, C * len(concat), ceil(T / stride), ceil(F / stride)) and its mask.

        Args:
            first: Output of the cell before the previous one.
            second: Output of the previous cell, (B, C', T, F).
            drop_path: Probability of dropping an operation's output.
        """
        # At this cell's input resolution both inputs have the same mask; the mask of an input
        # that no edge reads does not matter.
        if 1 in self.used_inputs:
            mask = second.mask
        else:
            mask = strided(first.mask, 2 if self.halve_first else 1)
        states: dict[int, Tensor] = {}
        if 0 in self.used_inputs:
            states[0] = self.preprocess0(first.value, first.mask)
        if 1 in self.used_inputs:
            states[1] = self.preprocess1(second.value, second.mask)
        inner = strided(mask, self.stride)
        for index, (sources, operations) in enumerate(zip(self.sources, self.nodes, strict=True)):
            assert isinstance(operations, nn.ModuleList)
            total: Tensor | None = None
            for source, operation in zip(sources, operations, strict=True):
                value = operation(states[source], mask if source < INPUT_STATES else inner)
                if drop_path and self.training and not isinstance(operation, Identity):
                    value = _drop_path(value, drop_path)
                total = value if total is None else total + value
            assert total is not None
            states[INPUT_STATES + index] = total
        return State(torch.cat([states[state] for state in self.concat], dim=1), inner)


def _drop_path(x: Tensor, probability: float) -> Tensor:
    """Drop (B, C, T, F) for whole utterances, scaled to keep the expectation."""
    kept = torch.rand(x.size(0), 1, 1, 1, device=x.device) >= probability
    return x * (kept.to(x.dtype) / (1 - probability))
