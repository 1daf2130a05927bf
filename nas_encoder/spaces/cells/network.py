"""The 2-D cell network as an encoder: features in, frames at a quarter of the rate out.

He, Su, Yu 2020, section 3.1, based on the network of DARTS (Liu et al. 2019). Deviations:
padding frames are masked everywhere, cells and preprocessing that no output depends on are not
built, the number of frames need not be a multiple of 4 (the result equals that of zero-padding to
one), and one fully connected layer of 512 follows the last cell, the only head that fits all
parameter counts of the paper.
"""

from __future__ import annotations

from contextlib import nullcontext
from functools import lru_cache, partial, reduce
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import count_parameters
from nas_encoder.network.deltas import WINDOW
from nas_encoder.network.tapped import TappedEncoder, Taps
from nas_encoder.ops import build_operation
from nas_encoder.ops.masking import apply_mask, recomputing
from nas_encoder.spaces.cells.architecture import INPUT_STATES, CellArchitecture
from nas_encoder.spaces.cells.cell import CellModule, State
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.head import Head
from nas_encoder.spaces.cells.space import KINDS
from nas_encoder.spaces.cells.stack import live_cells, stack
from nas_encoder.spaces.cells.stem import Stem


class CellEncoder(TappedEncoder):
    """A searched cell network.

    With ``config.conditioning``, the condition of ``forward_taps`` is projected and added to the
    cell's output.

    Attributes:
        possible_taps: The cells, counted from 1, whose outputs ``forward_taps`` can return: built,
            at the output's frame rate, and not the last.

    Raises:
        ConfigError: An option breaks its rule; all problems are listed.
    """

    def __init__(self, genotype: Genotype, config: CellConfig) -> None:
        if not isinstance(genotype.architecture, CellArchitecture):
            problems = [f"genotype: space '{genotype.space}' has no 2-D cells"]
        else:
            problems = config.problems(architecture=genotype.architecture)
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        super().__init__(config)
        self.genotype = genotype
        self.drop_path = float(config.drop_path)
        self.stem = Stem(config)
        self.cells = nn.ModuleDict()
        architecture = genotype.architecture
        live = live_cells(architecture, config)
        joined = {kind: len(architecture.of_kind(kind).concat) for kind in KINDS}
        self.places, width = stack(config.layers, config.channels, joined)
        for index, place in enumerate(self.places):
            if index in live:
                self.cells[str(index)] = CellModule(architecture.of_kind(place.kind), place)
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
            # Unbuilt cells have no consumers, so the missing state does not matter.
            first = states.get(index - 2, states[max(states)])
            second = states.get(index - 1, states[max(states)])
            state = self._run_cell(index, first, second)
            added = taps.take(index + 1, partial(self.head, state))
            if added is not None:
                state = self._add_condition(state, added)
            states[index] = state
        output: Tensor = self.head(state)
        return output

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most."""
        return receptive_field(self.genotype.architecture, self.config)

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


def receptive_field(architecture: CellArchitecture, config: CellConfig) -> ReceptiveField:
    """Return the receptive field of an output frame in time."""
    jump = 1  # input frames from one position to the next
    field = ReceptiveField().plus(2 * WINDOW if config.deltas else 0).plus(jump)  # 3x3 stem
    jump *= config.stem_stride[0]
    outputs = [field, field]  # of the two previous cells
    places, _ = stack(config.layers, config.channels, dict.fromkeys(KINDS, 1))
    for place in places:
        cell = architecture.of_kind(place.kind)
        states = list(outputs)
        if place.halves_first:
            states[0] = _seen(states[0], "skip_connect", 2, jump // 2)
        for node in cell.nodes:
            fields = [
                _seen(states[edge.source], edge.op, place.stride, jump)
                if edge.source < INPUT_STATES
                else _seen(states[edge.source], edge.op, 1, jump * place.stride)
                for edge in node
            ]
            states.append(reduce(ReceptiveField.union, fields))
        output = reduce(ReceptiveField.union, [states[state] for state in cell.concat])
        outputs = [outputs[1], output]
        jump *= place.stride
    return outputs[1]


def _seen(state: ReceptiveField, operation: str, stride: int, jump: int) -> ReceptiveField:
    """Return what an operation sees of a state whose positions are ``jump`` frames apart."""
    before, after = _context(operation, stride)
    return state.plus(before * jump, after * jump)


@lru_cache(maxsize=64)
def _context(operation: str, stride: int) -> tuple[int, int]:
    with torch.device("meta"):
        context: Any = build_operation(operation, 2, stride).context
    return int(context[0]), int(context[1])
