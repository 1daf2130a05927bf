"""The 2-D cell network as an encoder: features in, frames at a quarter of the rate out.

He, Su, Yu 2020, section 3.1, on the network of DARTS (Liu et al. 2019). Where we deviate:
padding frames never take part in anything (masks), cells and preprocessing that no output
depends on are not built, the number of frames need not be a multiple of 4 (the result equals
that of zero-padding to one), and one fully connected layer of 512 follows the last cell, which is
the only head that fits all parameter counts of the paper.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.tapped import Condition, TappedEncoder, Taps
from nas_encoder.ops.masking import apply_mask, recomputing
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.cells.cell import CellModule, State
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.head import Head
from nas_encoder.spaces.cells.stem import Stem


class CellEncoder(TappedEncoder):
    """A searched cell network.

    What a condition of ``forward_taps`` gives is projected and added to the cell's output, with
    ``config.conditioning``.

    Args:
        genotype: The cells.
        config: Everything else.

    Attributes:
        possible_taps: The cells, counted from 1, whose outputs ``forward_taps`` can return: built,
            at the output's frame rate, and not the last.

    Raises:
        ConfigError: An option breaks its rule; all problems are listed.
    """

    def __init__(self, genotype: Genotype, config: EncoderConfig) -> None:
        problems = config.problems()
        if not isinstance(genotype.architecture, CellArchitecture):
            problems.append(f"genotype: space '{genotype.space}' has no 2-D cells")
        elif not problems:
            problems = _unread_taps(genotype.architecture, config)
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        super().__init__(config)
        self.genotype = genotype
        self.drop_path = float(config.drop_path)
        self.stem = Stem(config)
        self.cells = nn.ModuleDict()
        self._build_cells(genotype.architecture)
        self.possible_taps = tuple(
            number
            for number in range(config.reductions[1] + 1, config.layers)
            if str(number - 1) in self.cells
        )
        self.head = Head(self._output_channels, config)
        if config.conditioning:
            self.condition_projection = nn.Linear(config.output_size, self._output_channels)

    def _build_cells(self, architecture: CellArchitecture) -> None:
        config = self.config
        live = live_cells(architecture, config)
        widths = [self.stem.output_channels] * 2
        channels, after_reduction = config.channels, False
        for index in range(config.layers):
            reduction = index in config.reductions
            cell = architecture.reduction if reduction else architecture.normal
            if reduction:
                channels *= 2
            if index in live:
                self.cells[str(index)] = CellModule(
                    cell, channels, (widths[-2], widths[-1]), reduction, after_reduction
                )
            widths.append(channels * len(cell.concat))
            after_reduction = reduction
        self._output_channels = widths[-1]

    def set_drop_path(self, probability: float) -> None:
        """Set the probability of drop-path from here on, for example by a schedule."""
        if not 0 <= probability < 1:
            raise ConfigError("drop_path", [f"must be from 0 to below 1, got {probability!r}"])
        self.drop_path = float(probability)

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / S), D); taps go through the same fully connected layers."""
        state = self.stem(x, lengths)
        states = {-2: state, -1: state}
        for index in range(self.config.layers):
            states.pop(index - 3, None)  # no cell reads it any more: free its memory
            if str(index) not in self.cells:
                continue
            # A cell that is not built is read by nobody, so what it leaves as is does no harm.
            first = states.get(index - 2, states[max(states)])
            second = states.get(index - 1, states[max(states)])
            state = self._run_cell(index, first, second)
            added = taps.take(index + 1, partial(self.head, state))
            if added is not None:
                state = self._add_condition(state, added)
            states[index] = state
        output: Tensor = self.head(state)
        return output

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
            # The second pass must not move the batch norms' running statistics again.
            context_fn=lambda: (_Nothing(), recomputing()),
        )
        return State(*state)

    def _add_condition(self, state: State, condition: Tensor) -> State:
        added = self.condition_projection(condition).transpose(1, 2)[..., None]  # (B, C, T, 1)
        return State(state.value + apply_mask(added, state.mask), state.mask)


class _Nothing:
    """A context manager that does nothing and can be entered again and again."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def live_cells(architecture: CellArchitecture, config: EncoderConfig) -> frozenset[int]:
    """Return the indices of the cells that any output depends on.

    Where a genotype reads only one of its two inputs, every second cell can be dead.
    """
    todo = [config.layers - 1, *(tap - 1 for tap in config.taps)]
    live: set[int] = set()
    while todo:
        index = todo.pop()
        if index < 0 or index in live:
            continue
        live.add(index)
        cell = architecture.reduction if index in config.reductions else architecture.normal
        todo.extend(index - 2 + state for state in cell.used_inputs())
    return frozenset(live)


def _unread_taps(architecture: CellArchitecture, config: EncoderConfig) -> list[str]:
    """Return a problem for each tap whose condition would change nothing."""
    if not config.conditioning:
        return []
    read: set[int] = set()
    for index in live_cells(architecture, config):
        cell = architecture.reduction if index in config.reductions else architecture.normal
        read.update(index - 2 + state for state in cell.used_inputs())
    return [
        f"taps[{place}]: no later cell of this genotype reads cell {tap}, so conditioning has no "
        "effect there; choose another cell"
        for place, tap in enumerate(config.taps)
        if tap - 1 not in read
    ]


__all__ = ["CellEncoder", "Condition", "live_cells"]
