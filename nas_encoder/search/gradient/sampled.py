"""A supernet of the 2-D cell spaces in which every edge runs the operation that is drawn.

Where one operation of an edge is active, nothing is to be gained from merging edges: each edge
holds its operations by itself. What has no parameters and reads the same state is computed once.

B batch, C channels, T frames, F frequency bins, V tokens (blank included), E edges of a cell.
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
from nas_encoder.network.inputs import check_inputs
from nas_encoder.network.stem import Stem
from nas_encoder.ops import AvgPool3, MaxPool3, build_operation
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.search.gradient.choices import Alive, edge_list
from nas_encoder.search.gradient.straight_through import Paths, straight_through

NONE = "none"


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
    """The edges that leave one state of a cell; those without parameters share their modules."""

    def __init__(
        self,
        alive: Mapping[int, Sequence[str]],
        channels: int,
        stride: int,
        regularized: Container[str],
    ) -> None:
        super().__init__()
        self.names = {row: tuple(names) for row, names in alive.items()}
        self.stride = stride
        self.regularized = regularized
        self.shared = nn.ModuleDict()
        self.own = nn.ModuleDict()
        for row, names in alive.items():
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
    ) -> dict[int, Tensor]:
        """Return for each edge (by its row) the output of its active operation.

        An edge whose active operation is ``none`` is left out where its paths do not move.
        """
        active = {row: self.names[row][paths.active[row]] for row in self.names}
        outputs = _Outputs(self, x, mask, frozenset(active.values()), dropout)
        found = {}
        for row, names in self.names.items():
            value = outputs.get(row, active[row], True)
            if paths.involved is None:
                if value is not None:
                    found[row] = value
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
            found[row] = straight_through(value, paths.shares[row], candidates, chosen)
        return found


class _Outputs:
    """What the operations on one state give; each is evaluated when asked for, and once."""

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


class SampledCell(nn.Module):
    """A cell with every edge of the space, of which one operation each is active."""

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
        self.heads = [head for head, _ in edges]
        self.sources = nn.ModuleList(
            _Edges(
                {row: alive[row] for row, (_, source) in enumerate(edges) if source == state},
                channels,
                self.stride if state < INPUT_STATES else 1,
                regularized,
            )
            for state in range(INPUT_STATES + nodes - 1)
        )

    def forward(self, first: State, second: State, paths: Paths, dropout: float) -> State:
        """Compute the cell from its two inputs along the paths."""
        mask = second.mask
        inner = strided(mask, self.stride)
        states = [
            self.preprocess0(first.value, first.mask),
            self.preprocess1(second.value, second.mask),
        ]
        totals: list[Tensor | None] = [None] * self.nodes
        for state, edges in enumerate(self.sources):
            if state >= INPUT_STATES:
                states.append(self._node(totals[state - INPUT_STATES], states[0]))
            own = mask if state < INPUT_STATES else inner
            for row, value in edges(states[state], own, paths, dropout).items():
                total = totals[self.heads[row]]
                totals[self.heads[row]] = value if total is None else total + value
        states.append(self._node(totals[-1], states[0]))
        return State(torch.cat(states[INPUT_STATES:], dim=1), inner)

    def _node(self, total: Tensor | None, like: Tensor) -> Tensor:
        if total is None:  # 'none' is drawn on all of this node's edges
            return torch.zeros_like(like[:, :, :: self.stride, :: self.stride])
        return total


class SampledSupernet(nn.Module):
    """The network that a search with sampled paths trains, with a CTC output.

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
                SampledCell(
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
        self, x: Tensor, lengths: Tensor, weights: Mapping[str, Paths], dropout: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / S), V) and lengths (B,).

        Args:
            x: (B, T, F) features.
            lengths: (B,) valid frames.
            weights: For each kind of cell the paths that are drawn.
            dropout: Probability behind the regularized operations, in training.

        Raises:
            InputError: See :func:`~nas_encoder.network.inputs.check_inputs`.
        """
        padded = check_inputs(x, lengths, self.config.input_size, self.subsampling_factor)
        state = self.stem(x, lengths if padded else None)
        before, previous = state, state
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, previous = previous, cell(before, previous, weights[kind], dropout)
        logits: Tensor = self.classifier(self.head(previous))  # (B, T', V)
        factor = self.subsampling_factor
        return (
            F.log_softmax(logits, dim=-1, dtype=torch.promote_types(logits.dtype, torch.float32)),
            torch.div(lengths + factor - 1, factor, rounding_mode="floor"),
        )
