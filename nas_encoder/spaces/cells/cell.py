"""One cell of the network, built from its genotype."""

from __future__ import annotations

from functools import reduce
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops import FactorizedReduce, Identity, build_operation
from nas_encoder.ops.chunks import Chunk, aligned
from nas_encoder.ops.fused import can_fuse, pointwise_norm
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.spaces.cells.architecture import INPUT_STATES, Cell
from nas_encoder.spaces.cells.stack import StackedCell

# What is kept of each input; of each node's edges, and what waits there; and what waits behind.
CellCache = tuple[tuple[Any, ...], tuple[Any, ...], tuple[Tensor, ...]]


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
        if can_fuse(x, mask, self.norm, self.conv):
            return pointwise_norm(x, self.conv, self.norm, mask)
        return self.norm(self.conv(F.relu(x)), mask)  # type: ignore[no-any-return]

    def first_cache(self, empty: Tensor) -> tuple[()]:
        """Return the cache of streams (B, 0, F, C): nothing."""
        return ()

    def step(self, chunk: Chunk, cache: tuple[()]) -> tuple[Chunk, tuple[()]]:
        """Map a chunk (B, t, F, C) to (B, t, F, D), zero past the ends of utterances."""
        if not chunk.size:
            shape = *chunk.x.shape[:3], self.conv.out_channels
            return chunk.holding(chunk.x.new_zeros(shape)), cache
        x = self(chunk.x.permute(0, 3, 1, 2), None).permute(0, 2, 3, 1)
        return chunk.holding(chunk.holding(x).cleared()), cache


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
        causal: Whether it sees no further than a frame's own frames of its inputs.

    Attributes:
        streams: Whether all of its operations have caches of their own.

    Raises:
        ConfigError: An operation cannot be causal.
    """

    def __init__(self, cell: Cell, place: StackedCell, causal: bool = False) -> None:
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
        strides = self.stride, 1
        self.nodes = nn.ModuleList(
            nn.ModuleList(
                build_operation(
                    edge.op, channels, strides[edge.source >= INPUT_STATES], causal=causal
                )
                for edge in node
            )
            for node in cell.nodes
        )
        self.streams = all(hasattr(own, "step") for node in self._edges() for _, own in node)

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

    def first_cache(self, first: Tensor, second: Tensor) -> tuple[CellCache, Tensor]:
        """Return what is kept of streams in the beginning, and the output of no frames.

        Args:
            first: (B, 0, F, C), of the output of the cell before the previous one.
            second: (B, 0, F', C'), of the output of the previous cell.
        """
        given = [Chunk(own, 0, False) for own in (first, second)]
        inputs, edges, states = [], [], {}
        for number, own in self._inputs():
            inputs.append(own.first_cache(given[number].x))
            states[number], _ = own.step(given[number], inputs[-1])
        for index, node in enumerate(self._edges()):
            kept = [operation.first_cache(states[source].x) for source, operation in node]
            source, operation = node[0]
            out, _ = operation.step(states[source], kept[0])
            states[INPUT_STATES + index] = out
            edges.append((tuple(kept), (out.x,) * len(node)))
        joined = tuple(states[state].x for state in self.concat)
        return (tuple(inputs), tuple(edges), joined), torch.cat(joined, dim=3)

    def step(self, first: Chunk, second: Chunk, cache: CellCache) -> tuple[Chunk, CellCache]:
        """Map what has come of both inputs to the frames that are complete.

        Frames that have come on one edge of a node wait for those of the others.

        Args:
            first: (B, t, F, C), of the output of the cell before the previous one.
            second: (B, t', F', C'), of the output of the previous cell.
            cache: What was kept.

        Returns:
            (B, t'', F'', C * len(concat)), and what is kept.
        """
        given = (first, second)
        inputs, edges, states = [], [], {}
        for (number, own), before in zip(self._inputs(), cache[0], strict=True):
            states[number], kept = own.step(given[number], before)
            inputs.append(kept)
        for index, (node, (before, waiting)) in enumerate(
            zip(self._edges(), cache[1], strict=True)
        ):
            came = [
                operation.step(states[source], own)
                for (source, operation), own in zip(node, before, strict=True)
            ]
            ready, waiting = aligned([chunk for chunk, _ in came], waiting)
            total = reduce(torch.add, [chunk.x for chunk in ready])
            states[INPUT_STATES + index] = ready[0].holding(total)
            edges.append((tuple(kept for _, kept in came), waiting))
        ready, joined = aligned([states[state] for state in self.concat], cache[2])
        out = ready[0].holding(torch.cat([chunk.x for chunk in ready], dim=3))
        return out, (tuple(inputs), tuple(edges), joined)

    def _inputs(self) -> list[tuple[int, Any]]:
        return [
            (number, getattr(self, f"preprocess{number}")) for number in sorted(self.used_inputs)
        ]

    def _edges(self) -> list[list[tuple[int, Any]]]:
        nodes: Any = self.nodes
        return [
            list(zip(sources, operations, strict=True))
            for sources, operations in zip(self.sources, nodes, strict=True)
        ]


def _drop_path(x: Tensor, probability: float) -> Tensor:
    """Drop (B, C, T, F) for whole utterances, scaled to keep the expectation."""
    kept = torch.rand(x.size(0), 1, 1, 1, device=x.device) >= probability
    return x * (kept.to(x.dtype) / (1 - probability))
