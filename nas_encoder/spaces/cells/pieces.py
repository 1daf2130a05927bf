"""The pieces that cell networks of one size are made of, so that costs can be added up.

Whatever genotype a cell space holds, its network of given layers, channels and input consists of
a few dozen different pieces: a stem, a head, preprocessing, and operations at a handful of
places. Each is counted or measured once; a network's cost is a sum.

C channels, T frames, F frequency bins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_encoder.network.complexity import count_parameters
from nas_encoder.ops import build_operation
from nas_encoder.spaces.cells.architecture import INPUT_STATES, CellArchitecture
from nas_encoder.spaces.cells.cell import State, build_preprocess
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.head import Head
from nas_encoder.spaces.cells.network import live_cells
from nas_encoder.spaces.cells.stem import Stem

NORMAL, REDUCTION = "normal", "reduction"
STEM, HEAD, POINTWISE, HALVING = "stem", "head", "pointwise", "halving"


@dataclass(frozen=True)
class Piece:
    """A module and what it works on.

    Attributes:
        name: An operation's name, or ``stem``, ``head``, ``pointwise`` or ``halving`` (the two
            forms of a cell's preprocessing).
        input_channels: Channels of its input; the stem's is 1, the features.
        channels: C, of its output.
        stride: In time and frequency; the stem's is that in time.
        frames: T, of its input.
        bins: F, of its input.
    """

    name: str
    input_channels: int
    channels: int
    stride: int
    frames: int
    bins: int

    def __str__(self) -> str:
        return (
            f"{self.name}, {self.input_channels} to {self.channels} channels, stride "
            f"{self.stride}, {self.frames} x {self.bins}"
        )


@dataclass(frozen=True)
class CellPlace:
    """Where a cell stands in the network.

    Attributes:
        kind: ``normal`` or ``reduction``.
        preprocess: The pieces that its two inputs go through, if an edge reads them.
        channels: C, of its operations.
        frames: T, of its operations' input.
        bins: F, likewise.
    """

    kind: str
    preprocess: tuple[Piece, Piece]
    channels: int
    frames: int
    bins: int

    def operation(self, name: str, source: int) -> Piece:
        """Return the piece of an operation on an edge that leaves state ``source``."""
        stride = 2 if self.kind == REDUCTION else 1
        frames, bins = self.frames, self.bins
        if source >= INPUT_STATES:
            frames, bins, stride = -(-frames // stride), -(-bins // stride), 1
        return Piece(name, self.channels, self.channels, stride, frames, bins)


class CellNetwork:
    """The pieces of all cell networks of one size.

    Args:
        config: The network's size; its cells concatenate ``nodes`` states.
        frames: T, of the utterance.
        nodes: Intermediate nodes of a cell.
    """

    def __init__(self, config: EncoderConfig, frames: int, nodes: int) -> None:
        self.config = config
        self.frames = frames
        self.nodes = nodes
        stride, over_bins = config.stem_stride
        stem = Piece(STEM, 1, 3 * config.channels, stride, frames, config.input_size)
        time, bins = -(-frames // stride), -(-config.input_size // over_bins)
        sizes = [(time, bins)] * 2  # of the outputs of the two cells before
        widths = [stem.channels] * 2
        channels, after_reduction = config.channels, False
        self.cells: list[CellPlace] = []
        for index in range(config.layers):
            reduction = index in config.reductions
            channels *= 2 if reduction else 1
            first = Piece(POINTWISE, widths[-2], channels, 1, *sizes[-2])
            if after_reduction:
                first = replace(first, name=HALVING, stride=2)
            second = Piece(POINTWISE, widths[-1], channels, 1, *sizes[-1])
            kind = REDUCTION if reduction else NORMAL
            self.cells.append(CellPlace(kind, (first, second), channels, *sizes[-1]))
            time, bins = sizes[-1]
            sizes.append((-(-time // 2), -(-bins // 2)) if reduction else (time, bins))
            widths.append(channels * nodes)
            after_reduction = reduction
        head = Piece(HEAD, widths[-1], config.output_size, 1, *sizes[-1])
        self.fixed = (stem, head)

    def pieces_of(self, architecture: CellArchitecture) -> list[Piece]:
        """Return the pieces of one network, those that occur several times as often."""
        found = list(self.fixed)
        for index in sorted(live_cells(architecture, self.config)):
            place = self.cells[index]
            cell = architecture.reduction if place.kind == REDUCTION else architecture.normal
            found += [place.preprocess[state] for state in sorted(cell.used_inputs())]
            found += [place.operation(edge.op, edge.source) for edge in cell.edges]
        return found

    def all_pieces(self, operations: tuple[str, ...]) -> list[Piece]:
        """Return every piece that some network of these operations holds, each once."""
        found = dict.fromkeys(self.fixed)
        for place in self.cells:
            found |= dict.fromkeys(place.preprocess)
            for source in (0, INPUT_STATES):
                found |= dict.fromkeys(place.operation(name, source) for name in operations)
        return list(found)

    def build(self, piece: Piece, device: str = "cpu") -> tuple[nn.Module, Callable[[], Any]]:
        """Build a piece as it stands in an evaluation network, and a call of it.

        Returns:
            The module, in evaluation mode, and a function that runs it on one utterance of random
            values without padding.
        """
        with torch.device(device):
            module = self._module(piece).eval()
            if piece.name == STEM:
                features = torch.randn(1, piece.frames, piece.bins)
                return module, lambda: module(features, None)
            x = torch.randn(1, piece.input_channels, piece.frames, piece.bins)
        if device == "cpu":  # the layout that the stem chooses
            x = x.contiguous(memory_format=torch.channels_last)
        if piece.name == HEAD:
            return module, lambda: module(State(x, None))
        return module, lambda: module(x, None)

    def _module(self, piece: Piece) -> nn.Module:
        if piece.name == STEM:
            return Stem(self.config)
        if piece.name == HEAD:
            return Head(piece.input_channels, self.config)
        if piece.name in (POINTWISE, HALVING):
            return build_preprocess(piece.input_channels, piece.channels, piece.name == HALVING)
        return build_operation(piece.name, piece.channels, piece.stride)

    def count(self, piece: Piece) -> dict[str, float]:
        """Return a piece's parameters and multiply-adds, without computing anything.

        They are those of :func:`~nas_encoder.network.complexity.count_parameters` and
        :func:`~nas_encoder.network.complexity.count_macs`.
        """
        module, call = self.build(piece, "meta")
        counter = FlopCounterMode(display=False)
        with counter, torch.no_grad():
            call()
        return {
            "parameters": float(count_parameters(module)),
            "macs": float(counter.get_total_flops() // 2),
        }
