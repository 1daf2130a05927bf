"""The 2-D cell network as an encoder: features in, frames at a quarter of the rate out.

He, Su, Yu 2020, section 3.1, based on the network of DARTS (Liu et al. 2019). Deviations:
padding frames are masked everywhere, cells and preprocessing that no output depends on are not
built, the number of frames need not be a multiple of 4 (the result equals that of zero-padding to
one), and one fully connected layer of 512 follows the last cell, the only head that fits all
parameter counts of the paper.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from functools import lru_cache, partial, reduce
from itertools import groupby
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import count_parameters
from nas_encoder.network.deltas import SPAN
from nas_encoder.network.tapped import TappedEncoder, Taps
from nas_encoder.ops import build_operation
from nas_encoder.ops.chunks import Chunk
from nas_encoder.ops.masking import apply_mask, recomputing
from nas_encoder.spaces.cells.architecture import (
    CAUSAL_AFTER,
    INPUT_STATES,
    REDUCTION,
    CellArchitecture,
)
from nas_encoder.spaces.cells.cell import CellModule, State
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.head import Head
from nas_encoder.spaces.cells.space import KINDS
from nas_encoder.spaces.cells.stack import kind_of, live_cells, stack
from nas_encoder.spaces.cells.stem import Stem, stem_window

T = TypeVar("T")


class CellEncoder(TappedEncoder):
    """A searched cell network.

    With ``config.conditioning``, the condition of ``forward_taps`` is projected and added to the
    cell's output.

    Attributes:
        possible_taps: The cells, counted from 1, whose outputs ``forward_taps`` can return: built,
            at the output's frame rate, and not the last.

    Raises:
        ConfigError: An option breaks its rule, or an operation of a causal cell cannot be causal;
            all problems are listed.
    """

    def __init__(self, genotype: Genotype, config: CellConfig) -> None:
        if not isinstance(genotype.architecture, CellArchitecture):
            problems = [f"genotype: space '{genotype.space}' has no 2-D cells"]
        else:
            problems = config.problems(architecture=genotype.architecture)
            problems += [] if problems else _never_causal(genotype.architecture, config)
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        super().__init__(config)
        self.genotype = genotype
        self.drop_path = float(config.drop_path)
        architecture = genotype.architecture
        self.stem = Stem(config, architecture.causal_stem)
        self.cells = nn.ModuleDict()
        live = live_cells(architecture, config)
        joined = {kind: len(architecture.of_kind(kind).concat) for kind in KINDS}
        self.places, width = stack(config.layers, config.channels, joined)
        for index, place in enumerate(self.places):
            if index in live:
                cell, causal = architecture.of_kind(place.kind), architecture.is_causal(index)
                self.cells[str(index)] = CellModule(cell, place, causal)
        self.possible_taps = tuple(
            number
            for number in range(config.reductions[1] + 1, config.layers)
            if str(number - 1) in self.cells
        )
        self.head = Head(width, config)
        if config.conditioning:
            self.condition_projection = nn.Linear(config.output_size, width)

    def parts(self) -> list[dict[str, Any]]:
        """Return the parameters of each part; consecutive equal cells make one part."""
        rows: list[dict[str, Any]] = []
        for row in super().parts():
            if row["part"] != "cells":
                rows.append(row)
                continue
            for (kind, channels), group in groupby(self.cells, self._size):
                run = list(group)
                rows.append(
                    {
                        "part": kind,
                        "first": int(run[0]) + 1,
                        "channels": channels,
                        "cells": len(run),
                        "parameters": sum(count_parameters(self.cells[index]) for index in run),
                        "last": int(run[-1]) + 1,
                    }
                )
        return rows

    def _size(self, index: str) -> tuple[str, int]:
        place = self.places[int(index)]
        return place.kind, place.channels

    def set_drop_path(self, probability: float) -> None:
        """Set the probability of drop-path from now on, for example by a schedule."""
        if not 0 <= probability < 1:
            raise ConfigError("drop_path", [f"must be from 0 to below 1, got {probability!r}"])
        self.drop_path = float(probability)

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / S), D); taps go through the same fully connected layers."""
        state = self.stem(x, lengths)
        states = {-2: state, -1: state}
        for index in range(self.config.layers):
            states.pop(index - 3, None)  # no later cell reads it: free its memory
            if str(index) not in self.cells:
                continue
            state = self._run_cell(index, *_inputs(states, index))
            added = taps.take(index + 1, partial(self.head, state))
            if added is not None:
                state = self._add_condition(state, added)
            states[index] = state
        output: Tensor = self.head(state)
        return output

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most."""
        return receptive_field(self.genotype.architecture, self.config)

    @property
    def streams(self) -> bool:
        """Whether all operations have caches of their own; else windows are encoded again."""
        return all(cell.streams for cell in self.cells.values())

    def initial_caches(self, batch: int, like: Tensor) -> Any:
        """Return the caches of B streams, of the type and on the device of ``like``."""
        if not self.streams:
            return super().initial_caches(batch, like)
        empty = like.new_zeros(batch, 0, self.input_size)
        stem = self.stem.first_cache(empty)
        chunk, _ = self.stem.step(Chunk(empty, 0, False), stem)
        states, cells = {-2: chunk.x, -1: chunk.x}, []
        for index, cell in self._built():
            own, states[index] = cell.first_cache(*_inputs(states, index))
            cells.append(own)
        return stem, tuple(cells)

    def stream(self, chunk: Chunk, caches: Any, taps: Taps) -> tuple[Chunk, Any]:
        """Map a chunk (B, t, F), zero past the ends, to the frames (B, t', D) that are complete."""
        if not self.streams:
            return super().stream(chunk, caches, taps)
        chunk, stem = self.stem.step(chunk, caches[0])
        states, cells = {-2: chunk, -1: chunk}, []
        for (index, cell), own in zip(self._built(), caches[1], strict=True):
            chunk, own = cell.step(*_inputs(states, index), own)
            cells.append(own)
            added = taps.take(index + 1, partial(self.head, _state(chunk)))
            if added is not None:
                value = self._add_condition(_state(chunk), added).value
                chunk = chunk.holding(value.permute(0, 2, 3, 1))
            states[index] = chunk
        return chunk.holding(self.head(_state(chunk))), (stem, tuple(cells))

    def _built(self) -> list[tuple[int, Any]]:
        return [(int(index), cell) for index, cell in self.cells.items()]

    def _run_cell(self, index: int, first: State, second: State) -> State:
        cell = self.cells[str(index)]
        if not (self.config.checkpointing and self.training and torch.is_grad_enabled()):
            return cell(first, second, self.drop_path)  # type: ignore[no-any-return]
        state: Any = checkpoint(
            cell,
            first,
            second,
            self.drop_path,
            use_reentrant=False,
            # The second pass must not update the batch norms' running statistics again.
            context_fn=lambda: (nullcontext(), recomputing()),
        )
        return State(*state)

    def _add_condition(self, state: State, condition: Tensor) -> State:
        added = self.condition_projection(condition).transpose(1, 2)[..., None]  # (B, C, T, 1)
        return State(state.value + apply_mask(added, state.mask), state.mask)


build = CellEncoder


def _inputs(states: Mapping[int, T], index: int) -> tuple[T, T]:
    """Return the outputs of the two cells before; of unbuilt ones, which are not read, any."""
    latest = states[max(states)]
    return states.get(index - 2, latest), states.get(index - 1, latest)


def _state(chunk: Chunk) -> State:
    """Return a chunk (B, t, F, C) as a feature map."""
    value, mask = chunk.x.permute(0, 3, 1, 2), chunk.valid(chunk.start, chunk.end)
    return State(value, None if mask is None else mask[:, None, :, None].to(value.dtype))


def receptive_field(architecture: CellArchitecture, config: CellConfig) -> ReceptiveField:
    """Return the receptive field of an output frame in time.

    Raises:
        ConfigError: An operation cannot be causal.
    """
    causal = architecture.causal_stem
    field = ReceptiveField()
    if config.deltas:
        field = field.plus(2 * SPAN, 0) if causal else field.plus(SPAN)
    field = field.plus(*stem_window(config.stem_stride[0], causal).context)
    jump = config.stem_stride[0]  # input frames from one position to the next
    outputs = [field, field]  # of the two previous cells
    places, _ = stack(config.layers, config.channels, dict.fromkeys(KINDS, 1))
    for index, place in enumerate(places):
        cell, causal = architecture.of_kind(place.kind), architecture.is_causal(index)
        states = list(outputs)
        if place.halves_first:
            states[0] = _seen(states[0], "skip_connect", 2, jump // 2, causal)
        for node in cell.nodes:
            fields = [
                _seen(states[edge.source], edge.op, place.stride, jump, causal)
                if edge.source < INPUT_STATES
                else _seen(states[edge.source], edge.op, 1, jump * place.stride, causal)
                for edge in node
            ]
            states.append(reduce(ReceptiveField.union, fields))
        output = reduce(ReceptiveField.union, [states[state] for state in cell.concat])
        outputs = [outputs[1], output]
        jump *= place.stride
    return outputs[1]


def _never_causal(architecture: CellArchitecture, config: CellConfig) -> list[str]:
    """Return which operations of causal cells cannot be causal."""
    found = {}
    for index in sorted(filter(architecture.is_causal, live_cells(architecture, config))):
        kind = kind_of(index, config.layers)
        for number, node in enumerate(architecture.of_kind(kind).nodes):
            for place, edge in enumerate(node):
                halves = kind == REDUCTION and edge.source < INPUT_STATES
                try:
                    _context(edge.op, 2 if halves else 1, True)
                except ConfigError as error:
                    found[f"{kind}.nodes[{number}][{place}]"] = error.problems
    remedy = f"take another operation, or leave {CAUSAL_AFTER} out"
    return [f"{where}.{line}; {remedy}" for where, lines in found.items() for line in lines]


def _seen(
    state: ReceptiveField, operation: str, stride: int, jump: int, causal: bool
) -> ReceptiveField:
    """Return what an operation sees of a state whose positions are ``jump`` frames apart."""
    before, after = _context(operation, stride, causal)
    return state.plus(before * jump, after * jump)


@lru_cache(maxsize=64)
def _context(operation: str, stride: int, causal: bool) -> tuple[int, int]:
    with torch.device("meta"):
        context: Any = build_operation(operation, 2, stride, causal=causal).context
    return int(context[0]), int(context[1])
