"""Stacking cells into a network: positions of reductions, widths and inputs of cells.

Pure arithmetic, shared by the encoder, its supernets, their costs and the receptive field.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nas_encoder.spaces.cells.architecture import NORMAL, REDUCTION, CellArchitecture

STEM_WIDTH = 3  # times C, as in DARTS


@dataclass(frozen=True)
class StackedCell:
    """A cell's place in the network.

    Attributes:
        kind: ``normal`` or ``reduction``.
        channels: C, channels of its operations; each reduction doubles them.
        inputs: Channels of the outputs of the cell before the previous one, and of the previous.
        halves_first: Whether its first input still has twice its resolution, because the previous
            cell is a reduction.
    """

    kind: str
    channels: int
    inputs: tuple[int, int]
    halves_first: bool

    @property
    def stride(self) -> int:
        """Stride of edges from its inputs: 2 in a reduction."""
        return 2 if self.kind == REDUCTION else 1


def reductions(layers: int) -> tuple[int, int]:
    """Return the indices, from 0, of the two reduction cells (He et al. 2020, section 3.1)."""
    return layers // 3, 2 * layers // 3


def kind_of(index: int, layers: int) -> str:
    """Return the kind of a cell."""
    return REDUCTION if index in reductions(layers) else NORMAL


def stack(layers: int, channels: int, joined: Mapping[str, int]) -> tuple[list[StackedCell], int]:
    """Return the places of L cells, starting with C channels, and the last one's output channels.

    ``joined`` says for each kind how many states a cell concatenates.
    """
    widths = [STEM_WIDTH * channels] * 2
    places: list[StackedCell] = []
    for index in range(layers):
        kind = kind_of(index, layers)
        if kind == REDUCTION:
            channels *= 2
        after_reduction = index - 1 in reductions(layers)
        places.append(StackedCell(kind, channels, (widths[-2], widths[-1]), after_reduction))
        widths.append(channels * joined[kind])
    return places, widths[-1]


def live_cells(architecture: CellArchitecture, config: Any) -> frozenset[int]:
    """Return the indices of the cells that any output depends on.

    If a genotype reads only one of its two inputs, every second cell can be dead.
    """
    todo = [config.layers - 1, *(tap - 1 for tap in config.taps)]
    live: set[int] = set()
    while todo:
        index = todo.pop()
        if index >= 0 and index not in live:
            live.add(index)
            todo += read_by_any(architecture, [index], config.layers)
    return frozenset(live)


def read_by_any(
    architecture: CellArchitecture, cells: Iterable[int], layers: int
) -> frozenset[int]:
    """Return the indices of the cells that any of these cells reads; negative for the stem."""
    return frozenset(
        index - 2 + state
        for index in cells
        for state in architecture.of_kind(kind_of(index, layers)).used_inputs()
    )
