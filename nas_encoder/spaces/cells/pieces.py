"""The pieces of all cell networks of one size, whose costs add up.

Whatever the genotype, a network of given layers, channels and input consists of a few dozen
different pieces: a stem, a head, preprocessing, and operations at a handful of places. Each is
counted or measured once; a network's cost is a sum.

C channels, T frames, F frequency bins.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import count_parameters
from nas_encoder.network.timed import TimedPart
from nas_encoder.ops import build_operation
from nas_encoder.spaces.cells.architecture import INPUT_STATES, CellArchitecture
from nas_encoder.spaces.cells.cell import State, build_preprocess
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.head import Head
from nas_encoder.spaces.cells.space import KINDS, CellSpace
from nas_encoder.spaces.cells.stack import STEM_WIDTH, StackedCell, live_cells, stack
from nas_encoder.spaces.cells.stem import Stem
from nas_encoder.spaces.latency_table import LatencyTable

STEM, HEAD, POINTWISE, HALVING = "stem", "head", "pointwise", "halving"
_SIZE = ("input_size", "channels", "layers", "output_size", "stem_stride", "hidden_sizes", "deltas")


@dataclass(frozen=True)
class Piece:
    """A module and the shape of its input.

    Attributes:
        name: An operation's name, or ``stem``, ``head``, ``pointwise`` or ``halving`` (the two
            forms of a cell's preprocessing).
        input_channels: Channels of its input; the stem's is 1, the features.
        channels: C, channels of its output.
        stride: Stride in time and frequency; for the stem in time.
        frames: T, frames of its input.
        bins: F, frequency bins of its input.
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


class CellLatencies(LatencyTable):
    """A file of their latencies."""

    piece = Piece


@dataclass(frozen=True)
class CellPieces:
    """The pieces that a cell can be made of.

    Attributes:
        place: Its place in the network.
        preprocess: The pieces that its two inputs go through, if an edge reads them.
        frames: T, frames of its operations' input.
        bins: F, frequency bins of its operations' input.
    """

    place: StackedCell
    preprocess: tuple[Piece, Piece]
    frames: int
    bins: int

    def operation(self, name: str, source: int) -> Piece:
        """Return the piece of an operation on an edge that leaves state ``source``."""
        stride, channels = self.place.stride, self.place.channels
        frames, bins = self.frames, self.bins
        if source >= INPUT_STATES:
            frames, bins, stride = -(-frames // stride), -(-bins // stride), 1
        return Piece(name, channels, channels, stride, frames, bins)


class CellNetwork:
    """The pieces of all cell networks of one size, for an utterance of T ``frames``.

    Cells concatenate all of their nodes.
    """

    def __init__(self, config: CellConfig, frames: int, space: CellSpace) -> None:
        self.config = config
        self.frames = frames
        self.space = space
        self.nodes = space.nodes
        stride, over_bins = config.stem_stride
        stem = Piece(STEM, 1, STEM_WIDTH * config.channels, stride, frames, config.input_size)
        time, bins = -(-frames // stride), -(-config.input_size // over_bins)
        sizes = [(time, bins)] * 2  # of the outputs of the two previous cells
        places, width = stack(config.layers, config.channels, dict.fromkeys(KINDS, space.nodes))
        self.cells: list[CellPieces] = []
        for place in places:
            first = Piece(POINTWISE, place.inputs[0], place.channels, 1, *sizes[-2])
            if place.halves_first:
                first = replace(first, name=HALVING, stride=2)
            second = Piece(POINTWISE, place.inputs[1], place.channels, 1, *sizes[-1])
            self.cells.append(CellPieces(place, (first, second), *sizes[-1]))
            time, bins = sizes[-1]
            sizes.append((-(-time // place.stride), -(-bins // place.stride)))
        head = Piece(HEAD, width, config.output_size, 1, *sizes[-1])
        self.fixed = (stem, head)

    def about(self) -> dict[str, Any]:
        """Return what identifies a table: the space, the network's size and the utterance."""
        values = {name: getattr(self.config, name) for name in _SIZE}
        size = {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}
        return {"space": self.space.name, "network": size, "frames": self.frames}

    def sample(self, rng: random.Random) -> Genotype:
        """Draw one of the networks."""
        return self.space.sample(rng)

    def pieces_of(self, architecture: CellArchitecture) -> list[Piece]:
        """Return the pieces of one network, repeated as often as they occur."""
        found = list(self.fixed)
        for index in sorted(live_cells(architecture, self.config)):
            pieces = self.cells[index]
            cell = architecture.of_kind(pieces.place.kind)
            found += [pieces.preprocess[state] for state in sorted(cell.used_inputs())]
            found += [pieces.operation(edge.op, edge.source) for edge in cell.edges]
        return found

    def all_pieces(self) -> list[Piece]:
        """Return every piece of any network of the space, each once."""
        found = dict.fromkeys(self.fixed)
        for place in self.cells:
            found |= dict.fromkeys(place.preprocess)
            for source in (0, INPUT_STATES):
                found |= dict.fromkeys(place.operation(name, source) for name in self.space.choices)
        return list(found)

    def build(self, piece: Piece, device: str = "cpu", masked: bool = False) -> TimedPart:
        """Build a piece as in an evaluation network, in evaluation mode.

        It is run on one utterance of random values; ``masked``: with a mask of all frames,
        (1, 1, T, 1), as an exported graph has one.
        """
        with torch.device(device):
            module = self._module(piece).eval()
            if piece.name == STEM:
                x = torch.randn(1, piece.frames, piece.bins)
            else:
                x = torch.randn(1, piece.input_channels, piece.frames, piece.bins)
                if device == "cpu":  # the memory layout that the stem chooses
                    x = x.contiguous(memory_format=torch.channels_last)
            mask = (torch.ones(1, 1, piece.frames, 1),) if masked else ()
            lengths = (torch.tensor([piece.frames]),) if masked else ()
        if piece.name == STEM:
            return TimedPart(module, lambda x, n=None: module(x, n).value, (x, *lengths))
        if piece.name == HEAD:
            return TimedPart(module, lambda x, m=None: module(State(x, m)), (x, *mask))
        return TimedPart(module, lambda x, m=None: module(x, m), (x, *mask))

    def _module(self, piece: Piece) -> nn.Module:
        if piece.name == STEM:
            return Stem(self.config)
        if piece.name == HEAD:
            return Head(piece.input_channels, self.config)
        if piece.name in (POINTWISE, HALVING):
            return build_preprocess(piece.input_channels, piece.channels, piece.name == HALVING)
        return build_operation(piece.name, piece.channels, piece.stride)

    def count(self, piece: Piece) -> dict[str, float]:
        """Count without computing, as :func:`.count_parameters` and :func:`.count_macs` do."""
        part = self.build(piece, "meta")
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            part()
        return {
            "parameters": float(count_parameters(part.module)),
            "macs": float(counter.get_total_flops() // 2),
        }
