"""The supernet: a cell network in which every edge holds all its candidate operations.

B batch, T frames, F frequency bins, C channels, V tokens (blank included), E edges of a cell,
n operations alive on an edge, S subsampling factor.
"""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.genotype.cells import INPUT_STATES
from nas_encoder.network.cell import State, build_preprocess
from nas_encoder.network.config import EncoderConfig
from nas_encoder.network.head import Head
from nas_encoder.network.inputs import check_inputs, is_capturing
from nas_encoder.network.stem import Stem
from nas_encoder.ops import OPERATIONS
from nas_encoder.ops.masking import strided
from nas_encoder.search.gradient.choices import Alive, edge_list
from nas_encoder.search.gradient.folded.source import can_fold, source_sums
from nas_encoder.search.gradient.merged import Source, build_merged

NONE = "none"


class SourceEdges(nn.Module):
    """All edges of a cell that leave one state, with the operations that are alive on them.

    Args:
        alive: For each of the m edges the names of its operations, in the order of its weights.
        rows: For each edge its row in the weights (E, n) of the cell.
        channels: C.
        stride: 1 or 2.
        regularized: Operations behind which dropout stands.
    """

    def __init__(
        self,
        alive: Sequence[Sequence[str]],
        rows: Sequence[int],
        channels: int,
        stride: int,
        regularized: Container[str],
    ) -> None:
        super().__init__()
        self.alive = [tuple(names) for names in alive]
        self.stride = stride
        self.names = [op for op in OPERATIONS if op != NONE and any(op in names for names in alive)]
        self.dropped = [op in regularized for op in self.names]
        self.users = [[e for e, names in enumerate(alive) if op in names] for op in self.names]
        self.operations = nn.ModuleList(
            build_merged(op, channels, len(users), stride)
            for op, users in zip(self.names, self.users, strict=True)
        )
        for index, (op, users) in enumerate(zip(self.names, self.users, strict=True)):
            places = [[rows[e] for e in users], [self.alive[e].index(op) for e in users]]
            # Which weights are the operation's; part of the choices, not of the state.
            self.register_buffer(f"places{index}", torch.tensor(places), persistent=False)
        every = [getattr(self, f"places{index}") for index in range(len(self.names))]
        everywhere = torch.cat(every, dim=1) if every else torch.zeros(2, 0, dtype=torch.long)
        self.register_buffer("places", everywhere, persistent=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, weights: Tensor, dropout: float
    ) -> list[Tensor | None]:
        """Return for each edge sum_o w_o o(x), or None where nothing but ``none`` is alive."""
        if not self.names:
            return [None] * len(self.alive)
        if can_fold(x):
            return self._folded(x, mask, weights, dropout)
        source = Source(x, F.relu(x), mask)
        together: Tensor | None = None
        parts: list[list[Tensor]] = [[] for _ in self.alive]
        for index, operation in enumerate(self.operations):
            rows, columns = getattr(self, f"places{index}")
            value = operation(source, weights[rows, columns])
            if self.dropped[index] and dropout > 0:
                value = F.dropout(value, dropout, self.training)
            users = self.users[index]
            if len(users) == len(self.alive):
                together = value if together is None else together + value
            else:
                for edge, part in zip(users, value.chunk(len(users), dim=1), strict=True):
                    parts[edge].append(part)
        if together is not None:
            for edge, part in enumerate(together.chunk(len(self.alive), dim=1)):
                parts[edge].append(part)
        return [_total(values) for values in parts]

    def _folded(
        self, x: Tensor, mask: Tensor | None, weights: Tensor, dropout: float
    ) -> list[Tensor | None]:
        rows, columns = self.get_buffer("places")
        sums = source_sums(
            list(self.operations),
            self.users,
            self.dropped,
            len(self.alive),
            self.stride,
            x,
            mask,
            weights[rows, columns],
            dropout if self.training else 0.0,
        )
        used = {edge for users in self.users for edge in users}
        return [value if edge in used else None for edge, value in enumerate(sums)]


class SupernetCell(nn.Module):
    """A cell with every edge of the space (Liu et al. 2019, section 2.1 and equation 2).

    Batch norms have no scale and shift, and one follows each pooling, as in DARTS: otherwise an
    operation could raise its share by its scale. ``none`` adds nothing and is not computed.
    """

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
            SourceEdges(
                [alive[row] for row in rows],
                rows,
                channels,
                self.stride if state < INPUT_STATES else 1,
                regularized,
            )
            for state, rows in enumerate(self.rows)
        )

    def forward(self, first: State, second: State, weights: Tensor, dropout: float) -> State:
        """Compute the cell from its two inputs and the weights (E, n) of its edges."""
        mask = second.mask
        inner = strided(mask, self.stride)
        states = [
            self.preprocess0(first.value, first.mask),
            self.preprocess1(second.value, second.mask),
        ]
        incoming: list[list[Tensor]] = [[] for _ in range(self.nodes)]
        for state, (source, heads) in enumerate(zip(self.sources, self.heads, strict=True)):
            if state >= INPUT_STATES:
                states.append(self._node(incoming[state - INPUT_STATES], states[0]))
            own = mask if state < INPUT_STATES else inner
            for head, value in zip(
                heads, source(states[state], own, weights, dropout), strict=True
            ):
                if value is not None:
                    incoming[head].append(value)
        states.append(self._node(incoming[-1], states[0]))
        return State(torch.cat(states[INPUT_STATES:], dim=1), inner)

    def _node(self, incoming: list[Tensor], like: Tensor) -> Tensor:
        total = _total(incoming)
        if total is None:  # nothing but 'none' is alive on this node's edges
            return torch.zeros_like(like[:, :, :: self.stride, :: self.stride])
        return total

    def edge_kernels(self, row: int) -> dict[str, list[Tensor]]:
        """Return, for each operation that is alive on an edge, views of its kernels."""
        for rows, source in zip(self.rows, self.sources, strict=True):
            if row in rows:
                assert isinstance(source, SourceEdges)
                edge = rows.index(row)
                return {
                    op: operation.kernels(users.index(edge))  # type: ignore[operator]
                    for op, users, operation in zip(
                        source.names, source.users, source.operations, strict=True
                    )
                    if edge in users
                }
        raise IndexError(f"a cell has {sum(map(len, self.rows))} edges, got edge {row}")


def _total(values: Sequence[Tensor]) -> Tensor | None:
    total: Tensor | None = None
    for value in values:
        total = value if total is None else total + value
    return total


class Supernet(nn.Module):
    """The network that a gradient search trains, with a CTC output.

    Args:
        alive: Operations alive on each edge of each kind of cell.
        config: As for an evaluation network.
        nodes: Intermediate nodes of a cell.
        vocabulary: V.
        regularized: Operations behind which dropout stands.
    """

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
        for index in range(config.layers):
            reduction = index in config.reductions
            channels *= 2 if reduction else 1
            self.kinds.append("reduction" if reduction else "normal")
            self.cells.append(
                SupernetCell(
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
        weights: Mapping[str, Tensor],
        dropout: float = 0.0,
        padded: bool | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / S), V) and lengths (B,).

        Args:
            x: (B, T, F) features.
            lengths: (B,) valid frames.
            weights: For each kind of cell (E, n). On a CPU, operations with a weight of exactly
                zero are not computed, but for the gradient of their weight.
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
        hidden = self.head(previous)  # (B, T', D)
        logits: Tensor = self.classifier(hidden)  # (B, T', V)
        factor = self.subsampling_factor
        return (
            F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)),
            torch.div(lengths + factor - 1, factor, rounding_mode="floor"),
        )
