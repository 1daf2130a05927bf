"""What the supernets of the 2-D cell spaces share: everything around the edges of a cell.

B batch, T frames, F frequency bins, C channels, D output features, S subsampling factor.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_encoder.common.choices import Candidates
from nas_encoder.network.tapped import TappedEncoder, Taps
from nas_encoder.ops.masking import strided
from nas_encoder.spaces.cells.architecture import INPUT_STATES
from nas_encoder.spaces.cells.cell import State, build_preprocess
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.head import Head
from nas_encoder.spaces.cells.space import KINDS, edge_list
from nas_encoder.spaces.cells.stack import StackedCell, stack
from nas_encoder.spaces.cells.stem import Stem
from nas_encoder.spaces.cells.supernet.folded.inputs import preprocessed
from nas_encoder.spaces.cells.supernet.folded.source import can_fold


class CellOfEdges(nn.Module):
    """A cell with every edge of the space (Liu et al. 2019, section 2.1).

    Batch norms have no scale and shift, and one follows each pooling, as in DARTS: otherwise an
    operation could raise its weight by its scale. ``none`` adds nothing and is not computed.

    Args:
        edges: Class of the edges that leave one state, see :class:`CellSupernet`.
        candidates: Operations of each edge.
        nodes: Number of intermediate nodes.
        place: The cell's place in the network.
        regularized: Operations followed by dropout.
    """

    def __init__(
        self,
        edges: type[nn.Module],
        candidates: Sequence[Sequence[str]],
        nodes: int,
        place: StackedCell,
        regularized: Container[str],
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.stride = place.stride
        first, second = place.inputs
        self.preprocess0 = build_preprocess(first, place.channels, place.halves_first, affine=False)
        self.preprocess1 = build_preprocess(second, place.channels, False, affine=False)
        pairs = edge_list(nodes)
        self.rows = [
            [row for row, (_, source) in enumerate(pairs) if source == state]
            for state in range(INPUT_STATES + nodes - 1)
        ]
        self.heads = [[pairs[row][0] for row in rows] for rows in self.rows]
        self.sources = nn.ModuleList(
            edges(
                [candidates[row] for row in rows],
                rows,
                place.channels,
                self.stride if state < INPUT_STATES else 1,
                regularized,
            )
            for state, rows in enumerate(self.rows)
        )

    def forward(self, first: State, second: State, weights: Any, dropout: float) -> State:
        """Compute the cell from its two inputs and the choices of its edges."""
        mask = second.mask
        inner = strided(mask, self.stride)
        states = [
            self._preprocess(self.preprocess0, first),
            self._preprocess(self.preprocess1, second),
        ]
        totals: list[Tensor | None] = [None] * self.nodes
        for state, (source, heads) in enumerate(zip(self.sources, self.heads, strict=True)):
            if state >= INPUT_STATES:
                states.append(self._node(totals[state - INPUT_STATES], states[0]))
            own = mask if state < INPUT_STATES else inner
            values = source(states[state], own, weights, dropout)
            for head, value in zip(heads, values, strict=True):
                total = totals[head]
                if value is not None:
                    totals[head] = value if total is None else total + value
        states.append(self._node(totals[-1], states[0]))
        return State(torch.cat(states[INPUT_STATES:], dim=1), inner)

    def _preprocess(self, layer: nn.Module, state: State) -> Tensor:
        folds = can_fold(state.value)
        value: Tensor = preprocessed(layer, *state) if folds else layer(*state)
        return value

    def _node(self, total: Tensor | None, like: Tensor) -> Tensor:
        if total is None:  # this node's edges hold only 'none'
            return torch.zeros_like(like[:, :, :: self.stride, :: self.stride])
        return total

    def edge_kernels(self, row: int) -> dict[str, list[Tensor]]:
        """Return views of the kernels of each candidate on an edge of a mixture."""
        for rows, source in zip(self.rows, self.sources, strict=True):
            if row in rows:
                return source.kernels(rows.index(row))  # type: ignore[operator, no-any-return]
        raise IndexError(f"a cell has {sum(map(len, self.rows))} edges, got edge {row}")


class CellSupernet(TappedEncoder):
    """The encoder that a gradient search trains; arguments as for :class:`CellOfEdges`."""

    # Built from (operations of each edge, their rows, channels, stride, regularized);
    # ``forward(x, mask, weights, dropout)`` returns the output of each edge, None for zeros.
    edges: ClassVar[type[nn.Module]]
    takes_choices = True

    def __init__(
        self,
        candidates: Candidates,
        config: CellConfig,
        nodes: int,
        regularized: Container[str] = (),
    ) -> None:
        super().__init__(config)
        self.stem = Stem(config)
        places, width = stack(config.layers, config.channels, dict.fromkeys(KINDS, nodes))
        self.kinds = [place.kind for place in places]
        self.cells = nn.ModuleList(
            CellOfEdges(self.edges, candidates[place.kind], nodes, place, regularized)
            for place in places
        )
        self.head = Head(width, config)

    def encode(
        self,
        x: Tensor,
        lengths: Tensor | None,
        taps: Taps,
        weights: Mapping[str, Any],
        dropout: float = 0.0,
    ) -> Tensor:
        """Return (B, ceil(T / S), D).

        ``weights`` are the choices of the edges of each kind of cell, see the class; ``dropout`` is
        its probability after the regularized operations, in training. ``taps`` is ignored.
        """
        state = self.stem(x, lengths)
        before, previous = state, state
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, previous = previous, cell(before, previous, weights[kind], dropout)
        y: Tensor = self.head(previous)
        return y
