"""The network of NAS-Bench-ASR as an encoder.

Mehrotra et al. 2021, section 3: four blocks, each a convolution over time (ReLU clipped at 20,
layer norm) and some cells of the searched form; then, optionally, an LSTM. Values that the paper
leaves open (padding, epsilon, position of dropout) are those of the published PyTorch code,
https://github.com/SamsungLabs/nb-asr. Deviations:

* Padding frames are masked everywhere, so an utterance gives the same output in any batch.
* An operation without effect (because of ``zero``) has no module, and all genotypes of the same
  published hash are the same network, see
  :meth:`~nas_encoder.spaces.nasbench_asr.architecture.SkipArchitecture.reduced`. The
  published code keeps such operations, with their parameters, and lets a skip from a ``zero``
  carry what was added there.
* The published data are those of the TensorFlow code, whose convolutions ignore the dilation, so
  that its ``conv5d2`` is ``conv5``, and whose list of branches begins with the identity. We
  follow the paper and the PyTorch code: dilation 2, and a 1 in a vector is a skip.

B batch, T frames, F frequency bins, C filters, D output features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.deltas import WINDOW, DeltaStream, input_frames
from nas_encoder.network.tapped import TappedEncoder, Taps, output_layer
from nas_encoder.ops.chunks import Chunk, aligned
from nas_encoder.ops.masking import apply_mask
from nas_encoder.spaces.nasbench_asr.architecture import NODES, ZERO, SkipArchitecture
from nas_encoder.spaces.nasbench_asr.config import EPSILON, KERNEL, STRIDES, NasBenchConfig
from nas_encoder.spaces.nasbench_asr.layers import (
    CONVOLUTIONS,
    BlockStart,
    build_node_operation,
    padding,
)


class NasBenchTrunk(TappedEncoder):
    """The part of NAS-Bench-ASR's networks that does not depend on the contents of cells.

    Args:
        config: Sizes.
        build_cell: Builds a cell with a given number of filters.

    Attributes:
        subsampling_factor: Input frames per output frame: 4.
        possible_taps: The cells, counted from 1, of the last block but the last.
    """

    def __init__(self, config: NasBenchConfig, build_cell: Callable[[int], nn.Module]) -> None:
        super().__init__(config)
        width = config.input_size * (3 if config.deltas else 1)
        self.starts = nn.ModuleList()
        self.cells = nn.ModuleDict()
        for filters, stride, count in zip(config.filters, STRIDES, config.block_cells, strict=True):
            self.starts.append(BlockStart(width, filters, stride))
            for _ in range(count):
                self.cells[str(len(self.cells))] = build_cell(filters)
            width = filters
        self.possible_taps = tuple(
            range(len(self.cells) - config.block_cells[-1] + 1, len(self.cells))
        )
        # It reads from left to right, so trailing padding never affects a valid frame.
        self.lstm = nn.LSTM(width, config.lstm_size, batch_first=True) if config.lstm_size else None
        self.head = output_layer(config.lstm_size or width, config.output_size)

    def through_cells(
        self,
        x: Tensor,
        lengths: Tensor | None,
        run: Callable[[int, nn.Module, Tensor, Tensor | None], Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the last cell's output, (B, ceil(T / 4), C), and its mask, (B, T', 1) or None.

        Args:
            x: (B, T, F); values in padding frames are ignored.
            lengths: (B,), or None if no utterance is padded.
            run: Called with each cell's number from 1, the cell, its input and the mask; returns
                its output.
        """
        x, mask = input_frames(x, lengths, self.config.deltas)
        cells = enumerate(self.cells.values(), 1)
        for start, stride, count in zip(self.starts, STRIDES, self.config.block_cells, strict=True):
            x = start(x, mask)
            mask = mask if mask is None or stride == 1 else mask[:, ::stride]
            for number, cell in itertools.islice(cells, count):
                x = run(number, cell, x, mask)
        return x, mask

    def output(self, x: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """Map the output of a cell of the last block to (B, T', D), zero in padding frames."""
        if self.lstm is not None:
            x, _ = self.lstm(F.dropout(x, dropout, self.training))
        return apply_mask(self.head(x), mask)


class SkipCell(nn.Module):
    """A cell: three nodes in a row with skips, then a layer norm.

    Args:
        architecture: The nodes, reduced.
        filters: C.
        groups: Groups of its convolutions.
        dropout: Dropout after every operation.

    Attributes:
        output_channels: C.
    """

    def __init__(
        self, architecture: SkipArchitecture, filters: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.output_channels = filters
        self.dropout = dropout
        self.skips = tuple(node.skips for node in architecture.nodes)
        self.operations = nn.ModuleDict(
            {
                str(number): build_node_operation(node.op, filters, groups)
                for number, node in enumerate(architecture.nodes, 1)
                if node.op != ZERO
            }
        )
        self.norm = nn.LayerNorm(filters, eps=EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, C), with mask (B, T, 1) or None; padding frames hold any finite values."""
        outputs: list[Tensor | None] = [x]
        for number, skips in enumerate(self.skips, 1):
            total: Tensor | None = None
            if str(number) in self.operations:
                total = self.operations[str(number)](outputs[-1], mask)
                if self.dropout:
                    total = F.dropout(total, self.dropout, self.training)
            for source in skips:
                added = outputs[source]
                if added is not None:
                    total = added if total is None else total + added
            outputs.append(total)
        # Without a path to the output the cell gives zeros; earlier layers still get a gradient.
        result = x * 0.0 if outputs[-1] is None else outputs[-1]
        normed: Tensor = self.norm(result)
        return normed

    def initial_cache(self, batch: int, like: Tensor) -> Any:
        """Return the caches of B streams: of each node, its operation's and what waits there."""
        empty, known, caches = like.new_zeros(batch, 0, self.output_channels), [True], []
        for number, skips in enumerate(self.skips, 1):
            operation: Any = self.operations[str(number)] if self._operates(number) else None
            terms = sum(known[source] for source in skips) + (operation is not None)
            own = () if operation is None else operation.initial_cache(batch, like)
            caches.append((own, (empty,) * terms))
            known.append(terms > 0)
        return tuple(caches)

    def step(self, chunk: Chunk, cache: Any) -> tuple[Chunk, Any]:
        """Map a chunk (B, t, C) to the frames (B, t', C) that are complete.

        At each node, what has come by one way waits for the others.
        """
        outputs: list[Chunk | None] = [chunk]
        kept = []
        for number, (skips, (own, waiting)) in enumerate(zip(self.skips, cache, strict=True), 1):
            came = []
            if self._operates(number):
                operation: Any = self.operations[str(number)]
                made, own = operation.step(outputs[-1], own)
                came.append(made)
            came += [added for added in (outputs[source] for source in skips) if added is not None]
            ready, waiting = aligned(came, waiting) if came else ([], waiting)
            kept.append((own, waiting))
            total = reduce(torch.add, [part.x for part in ready]) if ready else None
            outputs.append(None if total is None else ready[0].holding(total))
        result = outputs[-1] or chunk.holding(chunk.x * 0.0)
        return result.holding(self.norm(result.x)), tuple(kept)

    def _operates(self, number: int) -> bool:
        return str(number) in self.operations


class NasBenchEncoder(NasBenchTrunk):
    """A network of NAS-Bench-ASR.

    With ``config.conditioning``, the condition of ``forward_taps`` is projected and added to the
    cell's output.

    Raises:
        ConfigError: An option breaks its rule; all problems are listed.
    """

    def __init__(self, genotype: Genotype, config: NasBenchConfig) -> None:
        architecture = genotype.architecture
        if not isinstance(architecture, SkipArchitecture) or len(architecture.nodes) != NODES:
            problems = [f"genotype: space '{genotype.space}' has no nodes with skips"]
        else:
            problems = config.problems(architecture=architecture)
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        reduced = architecture.reduced()
        super().__init__(
            config, lambda filters: SkipCell(reduced, filters, config.groups, config.dropout)
        )
        self.genotype = genotype
        if config.conditioning:
            self.condition_projection = nn.Linear(config.output_size, config.filters[-1])

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / 4), D); taps go through the same LSTM and last layer."""
        dropout = self.config.dropout

        def run(number: int, cell: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            y: Tensor = cell(x, mask)
            condition = taps.take(number, partial(self.output, y, mask, dropout))
            return y if condition is None else y + self.condition_projection(condition)

        return self.output(*self.through_cells(x, lengths, run), dropout)

    def initial_caches(self, batch: int, like: Tensor) -> Any:
        """Return the caches of B streams; ConfigError with an LSTM."""
        self.field()
        starts: Any = self.starts
        cells: Any = self.cells.values()
        return (
            self._arriving.first_cache(like.new_zeros(batch, 0, self.input_size)),
            tuple(start.conv.initial_cache(batch, like) for start in starts),
            tuple(cell.initial_cache(batch, like) for cell in cells),
        )

    def stream(self, chunk: Chunk, caches: Any, taps: Taps) -> tuple[Chunk, Any]:
        """Map a chunk (B, t, F), zero past the ends, to the frames (B, t', D) that are complete."""
        chunk, first = self._arriving.step_frames(chunk, caches[0])
        starts: Any = self.starts
        cells = zip(list(self.cells.values()), caches[2], strict=True)
        numbered: Any = enumerate(cells, 1)
        begun, kept = [], []
        for start, own, count in zip(starts, caches[1], self.config.block_cells, strict=True):
            chunk, cache = start.step(chunk, own)
            begun.append(cache)
            for number, (cell, own) in itertools.islice(numbered, count):
                chunk, cache = cell.step(chunk, own)
                kept.append(cache)
                condition = taps.take(number, partial(self._out, chunk))
                if condition is not None:
                    chunk = chunk.holding(chunk.x + self.condition_projection(condition))
        return chunk.holding(self._out(chunk)), (first, tuple(begun), tuple(kept))

    def _out(self, chunk: Chunk) -> Tensor:
        return self.output(chunk.x, chunk.mask(), 0.0)

    @property
    def _arriving(self) -> DeltaStream:
        return DeltaStream(self.config.deltas)

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most; refused with an LSTM."""
        return receptive_field(self.genotype.architecture, self.config)


build = NasBenchEncoder


def receptive_field(architecture: SkipArchitecture, config: NasBenchConfig) -> ReceptiveField:
    """Return the receptive field of an output frame in time.

    Raises:
        ConfigError: The network has an LSTM.
    """
    if config.lstm_size:
        raise ConfigError(
            "receptive field",
            ["lstm_size: an LSTM reaches back to the beginning of the utterance"],
        )
    field, jump = ReceptiveField().plus(2 * WINDOW if config.deltas else 0), 1
    nodes = architecture.reduced().nodes
    for stride, count in zip(STRIDES, config.block_cells, strict=True):
        behind, ahead = padding(KERNEL, stride=stride)
        field = field.plus(behind * jump, ahead * jump)
        jump *= stride
        for _ in range(count):
            states: list[ReceptiveField | None] = [field]
            for node in nodes:
                terms = [states[source] for source in node.skips]
                before = states[-1]
                if node.op in CONVOLUTIONS and before is not None:
                    behind, ahead = padding(*CONVOLUTIONS[node.op])
                    before = before.plus(behind * jump, ahead * jump)
                if node.op != ZERO:
                    terms.append(before)
                known = [term for term in terms if term is not None]
                states.append(reduce(ReceptiveField.union, known) if known else None)
            field = states[-1] or ReceptiveField()
    return field


def tensorflow_parameters(encoder: Any, classes: int) -> int:
    """Return the number of parameters as the published data count them (column ``params``).

    They count a TensorFlow model with a fully connected layer of ``classes`` outputs (without the
    blank) after the encoder. Unlike ours its LSTM has one bias vector, not two. The layer has as
    many outputs as there are phones (48), though the paper's text and code have one more for the
    blank: this yields the published 26,338,848 of ``[[1,0],[1,0,0],[1,0,0,0]]``, where the PyTorch
    model has 26,341,349.
    """
    own = sum(int(parameter.numel()) for parameter in encoder.parameters())
    second_bias = 4 * int(encoder.config.lstm_size)
    return own - second_bias + (int(encoder.output_size) + 1) * classes
