"""A supernet of the 2-D cell spaces in which every edge runs the sampled operation.

With one active operation per edge, merging edges gains nothing: each edge holds its own
operations. Operations without parameters that read the same state are computed once.
B batch, C channels, T frames, F frequency bins, V tokens (blank included), E edges of a cell.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from nas_encoder.network.choices.straight_through import Paths, straight_through
from nas_encoder.ops import AvgPool3, MaxPool3, build_operation
from nas_encoder.ops.dropout import dropout as drop
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.spaces.cells.operations import NONE
from nas_encoder.spaces.cells.supernet.base import CellSupernet


class _NormedPool(nn.Module):
    """Pooling and a batch norm without scale and shift, as in DARTS."""

    def __init__(self, pool: nn.Module, channels: int, stride: int) -> None:
        super().__init__()
        self.pool = pool
        self.stride = stride
        self.norm = MaskedBatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return self.norm(self.pool(x, mask), strided(mask, self.stride))  # type: ignore[no-any-return]


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
                module = build_operation(name, channels, stride, affine=False)
                if isinstance(module, (AvgPool3, MaxPool3)):
                    module = _NormedPool(module, channels, stride)
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
        rows = self.names.items()
        with_graph = {names[paths.active[row]] for row, names in rows if paths.takes(row)}
        done: dict[str, Tensor] = {}  # outputs of shared operations

        def output(row: int, name: str, trained: bool) -> Tensor | None:
            """Return one operation's output, evaluated once; None for ``none``."""
            if name == NONE:
                return None
            if name not in self.shared:
                value = _run(self.own[f"{row}_{name}"], x, mask, trained)
            else:
                if name not in done:  # with its graph if it is active on any edge
                    done[name] = _run(self.shared[name], x, mask, name in with_graph)
                value = done[name] if trained else done[name].detach()
            if dropout and name in self.regularized:
                value = drop(value, dropout, self.training)
            return value

        zeros = partial(torch.zeros_like, x[:, :, :: self.stride, :: self.stride])
        found: list[Tensor | None] = []
        for row, names in rows:
            chosen, value = paths.active[row], None
            own = None if paths.edges is None else paths.edges[row : row + 1]
            if paths.takes(row):
                value = output(row, names[chosen], True)
                if paths.involved is not None:
                    assert paths.shares is not None
                    places = paths.involved[row]
                    candidates = [
                        value if place == chosen else output(row, names[place], False)
                        for place in places
                    ]
                    value = zeros() if value is None else value
                    at = places.index(chosen)
                    value = straight_through(value, paths.shares[row], candidates, at)
                    if own is not None:
                        value = straight_through(value, own, [value], 0)
            elif own is not None:
                # The edge's probability gets a gradient; only for it the operation is evaluated,
                # with a graph: a pooling that another edge shares keeps its graph for that edge.
                value = straight_through(zeros(), own, [output(row, names[chosen], False)], -1)
            found.append(value)
        return found


def _run(module: nn.Module, x: Tensor, mask: Tensor | None, trained: bool) -> Tensor:
    with torch.set_grad_enabled(trained and torch.is_grad_enabled()):
        value: Tensor = module(x, mask)
    return value


class SampledSupernet(CellSupernet):
    """The network of a search with sampled paths.

    Its ``forward`` takes the sampled paths of each kind of cell.
    """

    edges = _Edges
