"""What the supernets of the 2-D cell spaces share: everything around the edges of a cell.

B batch, T frames, F frequency bins, C channels, V tokens (blank included), S subsampling factor.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from nas_encoder.network.choices.parameters import Alive, edge_list
from nas_encoder.network.ctc import log_probabilities
from nas_encoder.network.inputs import check_inputs, is_capturing
from nas_encoder.ops.masking import reduced_lengths, strided
from nas_encoder.spaces.cells.architecture import INPUT_STATES
from nas_encoder.spaces.cells.cell import State, build_preprocess
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.head import Head
from nas_encoder.spaces.cells.stem import Stem

NONE = "none"


class CellOfEdges(nn.Module):
    """A cell with every edge of the space (Liu et al. 2019, section 2.1).

    Batch norms have no scale and shift, and one follows each pooling, as in DARTS: otherwise an
    operation could raise its share by its scale. ``none`` adds nothing and is not computed.

    Args:
        alive: Names of the operations of each edge.
        nodes: Intermediate nodes.
        channels: C.
        input_channels: Of the two inputs.
        reduction: Whether it halves time and frequency.
        halve_first: Whether the cell before did, so that the first input has to be halved.
        regularized: Operations behind which dropout stands.
    """

    # Builds the edges that leave one state, of (operations of each edge, their rows, channels,
    # stride, regularized); ``forward(x, mask, weights, dropout)`` returns for each of them its
    # output, None for zeros.
    edges: ClassVar[type[nn.Module]]

    def __init__(
        self,
        alive: Sequence[Sequence[str]],
        nodes: int,
        channels: int,
        input_channels: tuple[int, int],
        reduction: bool,
        halve_first: bool,
        regularized: Container[str],
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.stride = 2 if reduction else 1
        self.preprocess0 = build_preprocess(input_channels[0], channels, halve_first, affine=False)
        self.preprocess1 = build_preprocess(input_channels[1], channels, False, affine=False)
        edges = edge_list(nodes)
        self.rows = [
            [row for row, (_, source) in enumerate(edges) if source == state]
            for state in range(INPUT_STATES + nodes - 1)
        ]
        self.heads = [[edges[row][0] for row in rows] for rows in self.rows]
        self.sources = nn.ModuleList(
            type(self).edges(
                [alive[row] for row in rows],
                rows,
                channels,
                self.stride if state < INPUT_STATES else 1,
                regularized,
            )
            for state, rows in enumerate(self.rows)
        )

    def forward(self, first: State, second: State, weights: Any, dropout: float) -> State:
        """Compute the cell from its two inputs and what its edges choose."""
        mask = second.mask
        inner = strided(mask, self.stride)
        states = [
            self.preprocess0(first.value, first.mask),
            self.preprocess1(second.value, second.mask),
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

    def _node(self, total: Tensor | None, like: Tensor) -> Tensor:
        if total is None:  # there is nothing but 'none' on this node's edges
            return torch.zeros_like(like[:, :, :: self.stride, :: self.stride])
        return total


class CellSupernet(nn.Module):
    """A network that a gradient search trains, with a CTC output.

    Args:
        alive: Operations alive on each edge of each kind of cell.
        config: As for an evaluation network.
        nodes: Intermediate nodes of a cell.
        vocabulary: V.
        regularized: Operations behind which dropout stands.
    """

    cell: ClassVar[type[CellOfEdges]]

    def __init__(
        self,
        alive: Alive,
        config: EncoderConfig,
        nodes: int,
        vocabulary: int,
        regularized: Container[str] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.subsampling_factor = config.subsampling_factor
        self.min_length = config.subsampling_factor
        self.stem = Stem(config)
        self.cells = nn.ModuleList()
        self.kinds: list[str] = []
        widths = [self.stem.output_channels] * 2
        channels, after_reduction = config.channels, False
        build = type(self).cell
        for index in range(config.layers):
            reduction = index in config.reductions
            channels *= 2 if reduction else 1
            self.kinds.append("reduction" if reduction else "normal")
            self.cells.append(
                build(
                    alive[self.kinds[-1]],
                    nodes,
                    channels,
                    (widths[-2], widths[-1]),
                    reduction,
                    after_reduction,
                    regularized,
                )
            )
            widths.append(channels * nodes)
            after_reduction = reduction
        self.head = Head(widths[-1], config)
        self.classifier = nn.Linear(config.output_size, vocabulary)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        weights: Mapping[str, Any],
        dropout: float = 0.0,
        padded: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / S), V) and lengths (B,).

        Args:
            x: (B, T, F) features.
            lengths: (B,) valid frames.
            weights: For each kind of cell what its edges choose, see the class.
            dropout: Probability behind the regularized operations, in training.
            padded: Whether an utterance is shorter than T, where that is known: a graph that is
                being captured (compilation, CUDA graphs) cannot look and takes it for granted.

        Raises:
            InputError: See :func:`~nas_encoder.network.inputs.check_inputs`.
        """
        if not is_capturing():
            found = check_inputs(x, lengths, self.config.input_size, self.min_length)
            padded = found if padded is None else padded or found
        elif padded is None:
            padded = True
        state = self.stem(x, lengths if padded else None)
        before, previous = state, state
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, previous = previous, cell(before, previous, weights[kind], dropout)
        logits: Tensor = self.classifier(self.head(previous))  # (B, T', V)
        return log_probabilities(logits), reduced_lengths(lengths, self.subsampling_factor)
