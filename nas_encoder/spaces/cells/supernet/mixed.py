"""The supernet: a cell network in which every edge holds all its candidate operations.

B batch, T frames, F frequency bins, C channels, V tokens (blank included), E edges of a cell,
n candidates on an edge, S subsampling factor.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops import OPERATIONS
from nas_encoder.spaces.cells.operations import NONE
from nas_encoder.spaces.cells.supernet.base import CellSupernet
from nas_encoder.spaces.cells.supernet.folded.source import can_fold, source_sums
from nas_encoder.spaces.cells.supernet.merged import Source, build_merged


class SourceEdges(nn.Module):
    """All edges of a cell that leave one state, with their candidates.

    Args:
        alive: For each of the m edges the names of its candidates, in the order of its weights.
        rows: For each edge its row in the weights (E, n) of the cell.
        channels: C.
        stride: 1 or 2.
        regularized: Operations followed by dropout.
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
        pairs = [
            (rows[e], self.alive[e].index(op))
            for op, users in zip(self.names, self.users, strict=True)
            for e in users
        ]
        # Places of the operations' weights, in order; determined by the choices, so not part of
        # the state.
        places = torch.tensor(pairs, dtype=torch.long).view(-1, 2).t().contiguous()
        self.register_buffer("places", places, persistent=False)

    def forward(
        self, x: Tensor, mask: Tensor | None, weights: Tensor, dropout: float
    ) -> list[Tensor | None]:
        """Return for each edge sum_o w_o o(x), or None if its only candidate is ``none``."""
        if not self.names:
            return [None] * len(self.alive)
        rows, columns = self.get_buffer("places")
        shares = weights[rows, columns]
        if can_fold(x):
            dropout = dropout if self.training else 0.0
            uses = (list(self.operations), self.users, self.dropped)
            sums = source_sums(*uses, len(self.alive), self.stride, x, mask, shares, dropout)
            used = {edge for users in self.users for edge in users}
            return [value if edge in used else None for edge, value in enumerate(sums)]
        source = Source(x, F.relu(x), mask)
        together: Tensor | None = None
        parts: list[list[Tensor]] = [[] for _ in self.alive]
        split = torch.split(shares, [len(users) for users in self.users])
        for operation, users, dropped, own in zip(
            self.operations, self.users, self.dropped, split, strict=True
        ):
            value = operation(source, own)
            if dropped and dropout > 0:
                value = F.dropout(value, dropout, self.training)
            if len(users) == len(self.alive):
                together = value if together is None else together + value
            else:
                for edge, part in zip(users, value.chunk(len(users), dim=1), strict=True):
                    parts[edge].append(part)
        if together is not None:
            for edge, part in enumerate(together.chunk(len(self.alive), dim=1)):
                parts[edge].append(part)
        return [reduce(torch.add, values) if values else None for values in parts]

    def kernels(self, edge: int) -> dict[str, list[Tensor]]:
        """Return views of the kernels of each candidate on an edge."""
        columns = zip(self.names, self.users, self.operations, strict=True)
        return {
            op: operation.kernels(users.index(edge))  # type: ignore[operator]
            for op, users, operation in columns
            if edge in users
        }


class Supernet(CellSupernet):
    """The network of a search with mixtures.

    Its ``forward`` takes for each kind of cell weights (E, n). If cells are folded (on a CPU,
    from 8 channels, without autocast), operations with a weight of exactly zero are only computed
    for the gradient of their weight.
    """

    edges = SourceEdges
