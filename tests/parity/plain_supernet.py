"""A plain supernet of the 2-D cell spaces: every edge by itself, nothing masked.

The reference for parity tests and for the speed of the real one (benchmarks/supernet.py), written
as public DARTS and P-DARTS code is: Liu, Simonyan, Yang 2019 (DARTS, arXiv 1806.09055), equation
2, as it stands there. Each edge computes each of its operations on its own, ``none`` included,
and adds them weighted; nothing is merged or left out. Batch norms in cells have no parameters,
and one follows each pooling. With ``paths`` an edge computes its sampled operation, as ST-NAS.

Shapes: B batch, C channels, T frames, F frequency bins, E edges, n operations on an edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from parity.plain_darts import FactorizedReduce, build_op, regression_deltas, relu_conv_bn
from torch import Tensor, nn

Edges = Sequence[Sequence[str]]  # the operations' names of each edge
Paths = Mapping[str, Tensor]  # kind of cell -> (E,) place of the sampled operation


class Nothing(nn.Module):
    """The operation ``none``."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        # As public code: no product with zero, so nothing for the backward pass either.
        return x.new_zeros(x[:, :, :: self.stride, :: self.stride].shape)


def candidate(name: str, channels: int, stride: int) -> nn.Module:
    """Return one operation of a supernet."""
    if name == "none":
        return Nothing(stride)
    operation = build_op(name, channels, stride)
    if "pool" in name:
        return nn.Sequential(operation, nn.BatchNorm2d(channels))
    return operation


class PlainEdge(nn.ModuleList):
    """The mixed operation of one edge."""

    def __init__(
        self, names: Sequence[str], channels: int, stride: int, regularized: Sequence[str]
    ) -> None:
        super().__init__(candidate(name, channels, stride) for name in names)
        self.dropped = [name in regularized for name in names]

    def forward(self, x: Tensor, weights: Tensor, dropout: float, path: int | None) -> Tensor:
        values = []
        for place, (weight, operation) in enumerate(zip(weights, self, strict=True)):
            taken = path in (None, place)
            if not taken and not weight.requires_grad:
                continue
            with torch.set_grad_enabled(taken and torch.is_grad_enabled()):
                value = operation(x)  # only the weight of a path not taken has a gradient
            if self.dropped[place] and dropout > 0:
                value = F.dropout(value, dropout, self.training)
            values.append(weight * value)
        return sum(values)


class PlainSupernetCell(nn.Module):
    """A cell in which each node sums over all earlier states, as in figure 1 of the paper."""

    def __init__(
        self,
        edges: Edges,
        regularized: Sequence[str],
        nodes: int,
        c_prev_prev: int,
        c_prev: int,
        channels: int,
        reduction: bool,
        reduction_prev: bool,
    ) -> None:
        super().__init__()
        first = FactorizedReduce if reduction_prev else relu_conv_bn
        self.pre0: nn.Module = first(c_prev_prev, channels)
        self.pre1 = relu_conv_bn(c_prev, channels)
        self.count = nodes
        self.edges = nn.ModuleList()
        for node in range(nodes):
            for source in range(2 + node):
                names = edges[len(self.edges)]
                stride = 2 if reduction and source < 2 else 1
                self.edges.append(PlainEdge(names, channels, stride, regularized))
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.weight = module.bias = None

    def forward(
        self,
        before: Tensor,
        previous: Tensor,
        weights: Tensor,
        dropout: float,
        path: Sequence[int | None],
    ) -> Tensor:
        states = [self.pre0(before), self.pre1(previous)]
        rows = iter(zip(self.edges, weights, path, strict=True))
        for _ in range(self.count):
            mixed = []
            for state in states:
                edge, row, taken = next(rows)
                mixed.append(edge(state, row, dropout, taken))
            states.append(sum(mixed))
        return torch.cat(states[2:], dim=1)


class PlainSupernet(nn.Module):
    """Deltas, stem, supernet cells, fully connected layer, log-probabilities of the tokens.

    Args:
        alive: ``{"normal": edges, "reduction": edges}``.
        nodes: Intermediate nodes of a cell.
        input_size: Frequency bins (F).
        channels: Channels of the first cells (C).
        layers: Number of cells (L).
        output_size: Width of the fully connected layer.
        vocabulary: Tokens (V).
        stem_stride: (time, frequency).
        regularized: Operations whose outputs have dropout.
    """

    def __init__(
        self,
        alive: Mapping[str, Edges],
        nodes: int,
        input_size: int,
        channels: int,
        layers: int,
        output_size: int,
        vocabulary: int,
        stem_stride: tuple[int, int] = (1, 1),
        regularized: Sequence[str] = (),
    ) -> None:
        super().__init__()
        stem = 3 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(3, stem, 3, stride=stem_stride, padding=1, bias=False), nn.BatchNorm2d(stem)
        )
        self.kinds = ["normal"] * layers
        self.kinds[layers // 3] = self.kinds[2 * layers // 3] = "reduction"
        self.cells = nn.ModuleList()
        c_prev_prev = c_prev = stem
        width, bins, reduction_prev = channels, -(-input_size // stem_stride[1]), False
        for kind in self.kinds:
            reduction = kind == "reduction"
            if reduction:
                width, bins = 2 * width, -(-bins // 2)
            self.cells.append(
                PlainSupernetCell(
                    alive[kind],
                    regularized,
                    nodes,
                    c_prev_prev,
                    c_prev,
                    width,
                    reduction,
                    reduction_prev,
                )
            )
            c_prev_prev, c_prev, reduction_prev = c_prev, nodes * width, reduction
        self.head = nn.Linear(c_prev * bins, output_size)
        self.classifier = nn.Linear(output_size, vocabulary)

    def forward(
        self,
        frames: Tensor,
        weights: Mapping[str, Tensor],
        dropout: float = 0.0,
        paths: Paths | None = None,
    ) -> Tensor:
        """Map utterances (B, T, F), or one (T, F), and weights (E, n) to (..., ceil(T / S), V)."""
        deltas = regression_deltas(frames)
        planes = torch.stack([frames, deltas, regression_deltas(deltas)], dim=-3)
        s0 = s1 = self.stem(planes.view(-1, *planes.shape[-3:]))
        path = {kind: [None] * len(own) for kind, own in weights.items()}
        path.update({kind: places.tolist() for kind, places in (paths or {}).items()})
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            s0, s1 = s1, cell(s0, s1, weights[kind], dropout, path[kind])
        y = torch.relu(self.head(s1.transpose(1, 2).flatten(2)))
        y = torch.log_softmax(self.classifier(y), dim=-1)
        return y if frames.dim() == 3 else y[0]
