"""A plain supernet for the benchmark: what public DARTS and P-DARTS code does, in batches.

Each edge computes each of its operations separately (``none`` as a product with zero), multiplies
each by its weight and adds; convolutions and pooling are PyTorch's modules, in their default
memory layout. The stem, the batch norm with a mask (``nn.BatchNorm2d`` if no utterance is padded),
deltas and the output layers are the package's, so that both sides have the same inputs and only
the cells differ. With ``paths`` an edge computes its sampled operation, as ST-NAS does.

B batch, C channels, T frames, F frequency bins, V tokens, E edges, n operations on an edge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.network.ctc import log_probabilities
from nas_encoder.network.inputs import check_inputs
from nas_encoder.ops import Identity, Zero
from nas_encoder.ops.masking import apply_mask, reduced_lengths, strided
from nas_encoder.ops.norm import MaskedBatchNorm2d
from nas_encoder.spaces.cells.cell import State, build_preprocess
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.head import Head
from nas_encoder.spaces.cells.space import KINDS
from nas_encoder.spaces.cells.stack import stack
from nas_encoder.spaces.cells.stem import Stem

Candidates = Mapping[str, Sequence[Sequence[str]]]
Paths = Mapping[str, Tensor]  # kind of cell -> (E,) place of the sampled operation


class PlainConvolutions(nn.Module):
    """ReLU, convolutions and batch norm, once or several times."""

    def __init__(self, stages: Sequence[Sequence[nn.Module]], channels: int, stride: int) -> None:
        super().__init__()
        self.stages = nn.ModuleList(nn.Sequential(*stage) for stage in stages)
        self.norms = nn.ModuleList(MaskedBatchNorm2d(channels, affine=False) for _ in stages)
        self.stride = stride

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s))."""
        mask = strided(mask, self.stride)
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = norm(stage(F.relu(x)), mask)
        return x


class PlainPool(nn.Module):
    """Pooling and batch norm."""

    def __init__(self, pool: nn.Module, channels: int, stride: int) -> None:
        super().__init__()
        self.pool = pool
        self.norm = MaskedBatchNorm2d(channels, affine=False)
        self.stride = stride

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s))."""
        mask = strided(mask, self.stride)
        result: Tensor = self.norm(apply_mask(self.pool(x), mask), mask)
        return result


class PlainReduce(nn.Module):
    """skip_connect at stride 2."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(channels, channels // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(channels, channels - channels // 2, 1, stride=2, bias=False)
        self.norm = MaskedBatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s))."""
        x = F.relu(x)
        shifted = F.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        x = torch.cat([self.even(x), self.odd(shifted)], dim=1)
        result: Tensor = self.norm(x, strided(mask, 2))
        return result


class PlainNone(Zero):
    """The operation ``none``."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s))."""
        return x[:, :, :: self.stride, :: self.stride].mul(0.0)


def plain_operation(name: str, channels: int, stride: int) -> nn.Module:
    """Return one operation on ``channels`` channels."""
    if name == "none":
        return PlainNone(stride)
    if name == "skip_connect":
        return Identity() if stride == 1 else PlainReduce(channels)
    if name == "max_pool_3x3":
        return PlainPool(nn.MaxPool2d(3, stride, padding=1), channels, stride)
    if name == "avg_pool_3x3":
        pool = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
        return PlainPool(pool, channels, stride)
    if name == "conv_7x1_1x7":
        wide = nn.Conv2d(channels, channels, (1, 7), (1, stride), (0, 3), bias=False)
        tall = nn.Conv2d(channels, channels, (7, 1), (stride, 1), (3, 0), bias=False)
        return PlainConvolutions([[wide, tall]], channels, stride)
    kind, size = name.rsplit("_", 1)
    kernel = int(size[0])
    dilation = 2 if kind == "dil_conv" else 1
    stages = [
        [
            nn.Conv2d(
                channels,
                channels,
                kernel,
                step,
                dilation * (kernel // 2),
                dilation,
                groups=channels,
                bias=False,
            ),
            nn.Conv2d(channels, channels, 1, bias=False),
        ]
        for step in ((stride,) if kind == "dil_conv" else (stride, 1))
    ]
    return PlainConvolutions(stages, channels, stride)


class PlainEdge(nn.Module):
    """The mixed operation of one edge (Liu et al. 2019, equation 2)."""

    def __init__(
        self, names: Sequence[str], channels: int, stride: int, regularized: Sequence[str]
    ) -> None:
        super().__init__()
        self.operations = nn.ModuleList(plain_operation(name, channels, stride) for name in names)
        self.dropped = [name in regularized for name in names]

    def forward(
        self, x: Tensor, mask: Tensor | None, weights: Tensor, dropout: float, path: int | None
    ) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s))."""
        total: Tensor | None = None
        for place, (weight, operation) in enumerate(zip(weights, self.operations, strict=True)):
            if path is not None and place != path:
                if not weight.requires_grad:
                    continue
                with torch.no_grad():  # only the weight of a path not taken has a gradient
                    value = operation(x, mask)
            else:
                value = operation(x, mask)
            if self.dropped[place] and dropout > 0:
                value = F.dropout(value, dropout, self.training)
            value = weight * value
            total = value if total is None else total + value
        assert total is not None
        return total


class PlainCell(nn.Module):
    """A cell of 14 edges, for 4 nodes."""

    def __init__(
        self,
        alive: Sequence[Sequence[str]],
        nodes: int,
        channels: int,
        inputs: tuple[int, int],
        reduction: bool,
        halve_first: bool,
        regularized: Sequence[str],
    ) -> None:
        super().__init__()
        self.nodes = nodes
        self.stride = 2 if reduction else 1
        self.preprocess0 = build_preprocess(inputs[0], channels, halve_first, affine=False)
        self.preprocess1 = build_preprocess(inputs[1], channels, False, affine=False)
        self.edges = nn.ModuleList()
        for node in range(nodes):
            for source in range(2 + node):
                names, stride = alive[len(self.edges)], self.stride if source < 2 else 1
                self.edges.append(PlainEdge(names, channels, stride, regularized))

    def forward(
        self, first: State, second: State, weights: Tensor, dropout: float, path: Sequence[int]
    ) -> State:
        """Return the output state of the cell."""
        mask = second.mask
        inner = strided(mask, self.stride)
        states = [
            self.preprocess0(first.value, first.mask),
            self.preprocess1(second.value, second.mask),
        ]
        row = 0
        for _ in range(self.nodes):
            total: Tensor | None = None
            for source, state in enumerate(states):
                own = mask if source < 2 else inner
                chosen = path[row] if path else None
                value = self.edges[row](state, own, weights[row], dropout, chosen)
                total = value if total is None else total + value
                row += 1
            assert total is not None
            states.append(total)
        return State(torch.cat(states[2:], dim=1), inner)


class PlainSupernet(nn.Module):
    """The supernet of a search stage; arguments as :class:`nas_encoder`'s ``Supernet``."""

    def __init__(
        self,
        alive: Candidates,
        config: CellConfig,
        nodes: int,
        vocabulary: int,
        regularized: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.config = config
        self.stem = Stem(config)
        places, width = stack(config.layers, config.channels, dict.fromkeys(KINDS, nodes))
        self.kinds = [place.kind for place in places]
        self.cells = nn.ModuleList(
            PlainCell(
                alive[place.kind],
                nodes,
                place.channels,
                place.inputs,
                place.reduces,
                place.halves_first,
                regularized,
            )
            for place in places
        )
        self.head = Head(width, config)
        self.classifier = nn.Linear(config.output_size, vocabulary)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        weights: Mapping[str, Tensor],
        dropout: float = 0.0,
        paths: Paths | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / S), V) and lengths (B,)."""
        factor = self.config.subsampling_factor
        padded = check_inputs(x, lengths, self.config.input_size, factor)
        state = self.stem(x, lengths if padded else None)
        # The package's stem lays feature maps out channels last on a CPU; public code does not.
        state = State(state.value.contiguous(), state.mask)
        before, previous = state, state
        chosen = {kind: places.tolist() for kind, places in (paths or {}).items()}
        for kind, cell in zip(self.kinds, self.cells, strict=True):
            path = chosen.get(kind, [])
            before, previous = previous, cell(before, previous, weights[kind], dropout, path)
        logits = self.classifier(self.head(previous))
        return log_probabilities(logits), reduced_lengths(lengths, factor)
