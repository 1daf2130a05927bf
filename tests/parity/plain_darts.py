"""A plain evaluation network of the 2-D cell spaces: utterances of one length, no masks.

The reference for parity tests, written from the papers and independent of ``nas_encoder``:
Liu, Simonyan, Yang 2019 (DARTS, arXiv 1806.09055), Chen et al. 2019 (P-DARTS, arXiv 1904.12760),
He, Su, Yu 2020 (arXiv 2008.11589). Because an utterance comes alone or with others of its length,
every edge of the picture is a true edge and the ordinary padding of a convolution is all there is.
``benchmarks/training_step.py`` times it.

Shapes: B batch, C channels, T frames, F frequency bins. Kernel and stride pairs are
(time, frequency). Odd sizes are halved upwards.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

CellDict = Mapping[str, Any]


def regression_deltas(frames: Tensor) -> Tensor:
    """Return Kaldi's delta with a window of 2; (..., T, F) -> the same. Edge frames repeat."""
    total = frames.size(-2)
    times = torch.arange(total, device=frames.device)

    def shifted(n: int) -> Tensor:
        return frames[..., (times + n).clamp(0, total - 1), :]

    return sum(n * (shifted(n) - shifted(-n)) for n in (1, 2)) / (2 * (1 + 4))


def relu_conv_bn(c_in: int, c_out: int) -> nn.Sequential:
    """ReLU, 1x1 convolution, batch norm."""
    return nn.Sequential(nn.ReLU(), nn.Conv2d(c_in, c_out, 1, bias=False), nn.BatchNorm2d(c_out))


class FactorizedReduce(nn.Module):
    """Halve the resolution with two 1x1 convolutions, the second on the odd rows and columns."""

    def __init__(self, c_in: int, c_out: int) -> None:
        super().__init__()
        self.even = nn.Conv2d(c_in, c_out // 2, 1, stride=2, bias=False)
        self.odd = nn.Conv2d(c_in, c_out - c_out // 2, 1, stride=2, bias=False)
        self.bn = nn.BatchNorm2d(c_out)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        shifted = nn.functional.pad(x, (0, 1, 0, 1))[:, :, 1:, 1:]
        return self.bn(torch.cat((self.even(x), self.odd(shifted)), dim=1))


def sep_conv(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Depthwise separable convolution applied twice, the stride in the first."""
    layers: list[nn.Module] = []
    for step in (stride, 1):
        layers += [
            nn.ReLU(),
            nn.Conv2d(
                channels,
                channels,
                kernel,
                stride=step,
                padding=kernel // 2,
                groups=channels,
                bias=False,
            ),
            nn.Conv2d(channels, channels, 1, bias=False),
            nn.BatchNorm2d(channels),
        ]
    return nn.Sequential(*layers)


def dil_conv(channels: int, kernel: int, stride: int) -> nn.Sequential:
    """Depthwise separable convolution applied once, with dilation 2."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(
            channels,
            channels,
            kernel,
            stride=stride,
            padding=kernel - 1,
            dilation=2,
            groups=channels,
            bias=False,
        ),
        nn.Conv2d(channels, channels, 1, bias=False),
        nn.BatchNorm2d(channels),
    )


def conv_1x7_7x1(channels: int, stride: int) -> nn.Sequential:
    """1x7 (along frequency), then 7x1 (along time)."""
    return nn.Sequential(
        nn.ReLU(),
        nn.Conv2d(channels, channels, (1, 7), stride=(1, stride), padding=(0, 3), bias=False),
        nn.Conv2d(channels, channels, (7, 1), stride=(stride, 1), padding=(3, 0), bias=False),
        nn.BatchNorm2d(channels),
    )


def build_op(name: str, channels: int, stride: int) -> nn.Module:
    """Return one operation of an evaluation network."""
    if name == "max_pool_3x3":
        return nn.MaxPool2d(3, stride=stride, padding=1)
    if name == "avg_pool_3x3":
        return nn.AvgPool2d(3, stride=stride, padding=1, count_include_pad=False)
    if name == "skip_connect":
        return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels)
    if name == "conv_7x1_1x7":
        return conv_1x7_7x1(channels, stride)
    kind, size = name.rsplit("_", 1)
    builders = {"sep_conv": sep_conv, "dil_conv": dil_conv}
    return builders[kind](channels, int(size[0]), stride)


class PlainCell(nn.Module):
    """One cell; ``ops[j][k]`` is edge k of node j, in the genotype's order."""

    def __init__(
        self,
        cell: CellDict,
        c_prev_prev: int,
        c_prev: int,
        channels: int,
        reduction: bool,
        reduction_prev: bool,
    ) -> None:
        super().__init__()
        self.cell = cell
        sources = {edge["from"] for node in cell["nodes"] for edge in node}
        self.pre0: nn.Module | None = None
        self.pre1: nn.Module | None = None
        if 0 in sources:  # an input that no edge reads needs no weights
            build = FactorizedReduce if reduction_prev else relu_conv_bn
            self.pre0 = build(c_prev_prev, channels)
        if 1 in sources:
            self.pre1 = relu_conv_bn(c_prev, channels)
        self.ops = nn.ModuleList()
        for node in cell["nodes"]:
            strides = [2 if reduction and edge["from"] < 2 else 1 for edge in node]
            self.ops.append(
                nn.ModuleList(
                    build_op(edge["op"], channels, stride)
                    for edge, stride in zip(node, strides, strict=True)
                )
            )

    def forward(self, before: Tensor | None, previous: Tensor | None) -> Tensor:
        states = [
            None if self.pre0 is None else self.pre0(before),
            None if self.pre1 is None else self.pre1(previous),
        ]
        for node, ops in zip(self.cell["nodes"], self.ops, strict=True):
            states.append(sum(op(states[e["from"]]) for e, op in zip(node, ops, strict=True)))
        return torch.cat([states[state] for state in self.cell["concat"]], dim=1)


class PlainNetwork(nn.Module):
    """Deltas, stem, cells with reductions at a third and two thirds, fully connected head.

    Args:
        genotype: ``{"normal": cell, "reduction": cell}``; a cell is ``{"nodes": [[{"op": name,
            "from": state}, ...], ...], "concat": [state, ...]}``.
        input_size: Frequency bins (F).
        channels: Channels of the first cells (C).
        layers: Number of cells (L).
        output_size: Width of the head.
        stem_stride: (time, frequency).
        deltas: Whether static, delta and delta-delta make three channels.
    """

    def __init__(
        self,
        genotype: Mapping[str, Any],
        input_size: int = 40,
        channels: int = 24,
        layers: int = 17,
        output_size: int = 512,
        stem_stride: Sequence[int] = (1, 1),
        deltas: bool = True,
    ) -> None:
        super().__init__()
        self.deltas = deltas
        stem_channels = 3 * channels
        self.stem = nn.Sequential(
            nn.Conv2d(
                3 if deltas else 1,
                stem_channels,
                3,
                stride=tuple(stem_stride),
                padding=1,
                bias=False,
            ),
            nn.BatchNorm2d(stem_channels),
        )
        kinds = ["normal"] * layers
        kinds[layers // 3] = kinds[2 * layers // 3] = "reduction"
        needed = _needed_cells(genotype, kinds)
        self.cells = nn.ModuleList()
        c_prev_prev = c_prev = stem_channels
        width, bins = channels, -(-input_size // stem_stride[1])
        reduction_prev = False
        for number, kind in enumerate(kinds):
            reduction = kind == "reduction"
            if reduction:
                width, bins = 2 * width, -(-bins // 2)
            cell = genotype[kind]
            if number in needed:
                self.cells.append(
                    PlainCell(cell, c_prev_prev, c_prev, width, reduction, reduction_prev)
                )
            else:
                self.cells.append(nn.Identity())
            reduction_prev = reduction
            c_prev_prev, c_prev = c_prev, width * len(cell["concat"])
        self.needed = needed
        self.head = nn.Linear(c_prev * bins, output_size)

    def forward(self, frames: Tensor) -> Tensor:
        """Encode (B, T, F) -> (B, ceil(T / S), output_size), or one utterance (T, F) likewise."""
        planes = [frames]
        if self.deltas:
            planes.append(regression_deltas(frames))
            planes.append(regression_deltas(planes[1]))
        s0 = s1 = self.stem(torch.stack(planes, -3).view(-1, len(planes), *frames.shape[-2:]))
        for number, cell in enumerate(self.cells):
            out = cell(s0, s1) if number in self.needed else None
            s0, s1 = s1, out
        y = torch.relu(
            self.head(s1.transpose(1, 2).flatten(2))
        )  # (B, C', T', F') -> (B, T', C' F')
        return y if frames.dim() == 3 else y[0]


def _needed_cells(genotype: Mapping[str, Any], kinds: Sequence[str]) -> set[int]:
    """Return the numbers of the cells that the last one depends on."""
    needed = {len(kinds) - 1}
    for number in reversed(range(len(kinds))):
        if number in needed:
            nodes = genotype[kinds[number]]["nodes"]
            sources = {edge["from"] for node in nodes for edge in node}
            needed |= {number - 2 + source for source in sources if source < 2}
    return {number for number in needed if number >= 0}
