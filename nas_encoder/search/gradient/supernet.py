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
from nas_encoder.network.inputs import check_inputs
from nas_encoder.network.stem import Stem
from nas_encoder.ops.masking import strided
from nas_encoder.search.gradient.choices import Alive, edge_list
from nas_encoder.search.gradient.mixed import MixedOperation


class SupernetCell(nn.Module):
    """A cell with every edge of the space (Liu et al. 2019, section 2.1)."""

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
        self.heads = edge_list(nodes)
        self.edges = nn.ModuleList(
            MixedOperation(
                names, channels, self.stride if source < INPUT_STATES else 1, regularized
            )
            for names, (_, source) in zip(alive, self.heads, strict=True)
        )

    def forward(self, first: State, second: State, weights: Tensor, dropout: float) -> State:
        """Compute the cell from its two inputs and the weights (E, n) of its edges."""
        mask = second.mask
        inner = strided(mask, self.stride)
        states = [
            self.preprocess0(first.value, first.mask),
            self.preprocess1(second.value, second.mask),
        ]
        rows = weights.unbind(0)
        for node in range(self.nodes):
            total: Tensor | None = None
            for (head, source), edge, row in zip(self.heads, self.edges, rows, strict=True):
                if head != node:
                    continue
                value = edge(states[source], mask if source < INPUT_STATES else inner, row, dropout)
                if value is not None:
                    total = value if total is None else total + value
            if total is None:  # nothing but 'none' is alive on this node's edges
                total = torch.zeros_like(states[0][:, :, :: self.stride, :: self.stride])
            states.append(total)
        return State(torch.cat(states[INPUT_STATES:], dim=1), inner)


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
        self, x: Tensor, lengths: Tensor, weights: Mapping[str, Tensor], dropout: float = 0.0
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / S), V) and lengths (B,).

        Args:
            x: (B, T, F) features.
            lengths: (B,) valid frames.
            weights: For each kind of cell (E, n).
            dropout: Probability behind the regularized operations, in training.

        Raises:
            InputError: See :func:`~nas_encoder.network.inputs.check_inputs`.
        """
        padded = check_inputs(x, lengths, self.config.input_size, self.min_length)
        state = self.stem(x, lengths if padded else None)
        before, previous = state, state
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            before, previous = previous, cell(before, previous, weights[kind], dropout)
        hidden = self.head(previous)  # (B, T', D)
        factor = self.subsampling_factor
        return (
            F.log_softmax(self.classifier(hidden).float(), dim=-1),
            torch.div(lengths + factor - 1, factor, rounding_mode="floor"),
        )
