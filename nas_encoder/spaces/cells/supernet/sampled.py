"""A supernet of the 2-D cell spaces in which every edge runs the sampled operation.

With one active operation per edge, merging edges gains nothing: each edge holds its own
operations. Operations without parameters that read the same state are computed once.
B batch, C channels, T frames, F frequency bins, V tokens (blank included), E edges of a cell.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.network.choices.straight_through import Paths, straight_through
from nas_encoder.ops import AvgPool3, MaxPool3, build_operation
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.spaces.cells.operations import NONE
from nas_encoder.spaces.cells.supernet.base import CellOfEdges, CellSupernet


class _NormedPool(nn.Module):
    """Pooling and a batch norm without scale and shift, as in DARTS."""

    def __init__(self, pool: nn.Module, channels: int, stride: int) -> None:
        super().__init__()
        self.pool = pool
        self.stride = stride
        self.norm = MaskedBatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.norm(self.pool(x, mask), strided(mask, self.stride))  # type: ignore[no-any-return]


def _candidate(operation: str, channels: int, stride: int) -> nn.Module:
    module = build_operation(operation, channels, stride, affine=False)
    if isinstance(module, (AvgPool3, MaxPool3)):
        return _NormedPool(module, channels, stride)
    return module


class _Edges(nn.Module):
    """The edges that leave one state of a cell; parameterless operations share their modules."""

    def __init__(
        self,
        alive: Sequence[Sequence[str]],
        rows: Sequence[int],
        channels: int,
        stride: int,
        regularized: Container[str],
    ) -> None:
        super().__init__()
        self.names = {row: tuple(names) for row, names in zip(rows, alive, strict=True)}
        self.stride = stride
        self.regularized = regularized
        self.shared = nn.ModuleDict()
        self.own = nn.ModuleDict()
        for row, names in self.names.items():
            for name in names:
                if name == NONE or name in self.shared:
                    continue
                module = _candidate(name, channels, stride)
                if next(module.parameters(), None) is None:
                    self.shared[name] = module
                else:
                    self.own[f"{row}_{name}"] = module

    def forward(
        self, x: Tensor, mask: Tensor | None, paths: Paths, dropout: float
    ) -> list[Tensor | None]:
        """Return for each edge the output of its active operation.

        It is None for ``none`` and edges not taken, if the paths are not trained.
        """
        active = {row: self.names[row][paths.active[row]] for row in self.names}
        with_graph = {op for row, op in active.items() if paths.takes(row)}
        outputs = _Outputs(self, x, mask, frozenset(with_graph), dropout)
        found: list[Tensor | None] = []
        for row, names in self.names.items():
            if not paths.takes(row):
                found.append(self._left_out(x, outputs.get, row, active[row], paths.edges))
                continue
            value = outputs.get(row, active[row], True)
            if paths.involved is None:
                found.append(value)
                continue
            assert paths.shares is not None
            places = paths.involved[row]
            candidates = [
                value if place == paths.active[row] else outputs.get(row, names[place], False)
                for place in places
            ]
            if value is None:
                value = torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
            chosen = places.index(paths.active[row])
            value = straight_through(value, paths.shares[row], candidates, chosen)
            if paths.edges is not None:
                value = straight_through(value, paths.edges[row : row + 1], [value], 0)
            found.append(value)
        return found

    def _left_out(
        self,
        x: Tensor,
        evaluate: Callable[[int, str, bool], Tensor | None],
        row: int,
        name: str,
        edges: Tensor | None,
    ) -> Tensor | None:
        """Return the zeros of an edge that its node does not take.

        If the choice of edges is trained, they pass a gradient to the edge's probability; only
        for this is the output of the edge's operation evaluated.
        """
        if edges is None:
            return None
        # Not under no_grad: a pooling shared with another edge keeps its graph for that edge.
        candidate = evaluate(row, name, False)
        zeros = torch.zeros_like(x[:, :, :: self.stride, :: self.stride])
        return straight_through(zeros, edges[row : row + 1], [candidate], -1)


class _Outputs:
    """Outputs of the operations on one state, each evaluated once, on demand."""

    def __init__(
        self, edges: _Edges, x: Tensor, mask: Tensor | None, active: frozenset[str], dropout: float
    ) -> None:
        self.edges = edges
        self.x = x
        self.mask = mask
        self.active = active
        self.dropout = dropout
        self.done: dict[str, Tensor] = {}

    def get(self, row: int, name: str, with_graph: bool) -> Tensor | None:
        """Return one operation's output, None for ``none``."""
        if name == NONE:
            return None
        if name not in self.edges.shared:
            value = self._run(self.edges.own[f"{row}_{name}"], with_graph)
        else:
            if name not in self.done:  # with its graph if it is active on any edge
                self.done[name] = self._run(self.edges.shared[name], name in self.active)
            value = self.done[name] if with_graph else self.done[name].detach()
        if self.dropout and name in self.edges.regularized:
            value = F.dropout(value, self.dropout, self.edges.training)
        return value

    def _run(self, module: nn.Module, with_graph: bool) -> Tensor:
        with torch.set_grad_enabled(with_graph and torch.is_grad_enabled()):
            value: Tensor = module(self.x, self.mask)
        return value


class SampledCell(CellOfEdges):
    """A cell in which each edge has one active operation."""

    edges = _Edges


class SampledSupernet(CellSupernet):
    """The network of a search with sampled paths.

    Its ``forward`` takes the sampled paths of each kind of cell.
    """

    cell = SampledCell
