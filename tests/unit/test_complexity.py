"""Parameters, multiply-adds and receptive field, against counts by hand and by gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choice_samples import CELL_SPACE_OPERATIONS
from encoder_samples import ZOO, handwritten, one_edge, padded, sampled, small
from torch import nn

from nas_encoder import build_encoder, load_genotype
from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.network.complexity import (
    count_macs,
    count_parameters,
)
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.network import receptive_field


class ConvNet(nn.Module):
    """Two convolutions and a linear layer, (B, T, F) to (B, T, 7)."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 4, 5, padding=2, groups=2)
        self.norm = nn.BatchNorm2d(4)
        self.last = nn.Linear(4 * 6, 7)
        self.last.bias.requires_grad = False

    def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> torch.Tensor:
        y = self.norm(self.second(self.first(x[:, None])))
        return self.last(y.permute(0, 2, 1, 3).flatten(2))  # type: ignore[no-any-return]


def test_parameters_that_are_trained() -> None:
    assert count_parameters(ConvNet()) == (36 + 4) + (4 * 2 * 25 + 4) + 8 + 24 * 7


def test_multiply_adds_of_a_small_network() -> None:
    module = ConvNet()
    module.norm.eval()
    assert count_macs(module, 10, 6) == 10 * 6 * (4 * 9 + 4 * 2 * 25) + 10 * 24 * 7
    assert module.training and not module.norm.training, "modes must be as before"


@pytest.mark.parametrize("name", ["asrnet_a", "asrnet_b"])
@pytest.mark.parametrize(("frames", "bins"), [(32, 8), (33, 9)])
def test_multiply_adds_of_the_zoo_by_hand(name: str, frames: int, bins: int) -> None:
    channels, layers, width = 4, 6, 10
    cells = load_genotype(name).architecture

    def area(halvings: int) -> int:
        t, f = frames, bins
        for _ in range(halvings):
            t, f = -(-t // 2), -(-f // 2)
        return t * f

    def operation(op: str, c: int, before: int, behind: int) -> int:
        kind, size = op.rsplit("_", 1)
        k = int(size[0]) if size[0].isdigit() else 0
        if op == "conv_7x1_1x7":
            t, f = frames, bins
            for _ in range(before):
                t, f = -(-t // 2), -(-f // 2)
            strided = f if before == behind else -(-f // 2)
            return 7 * c * c * (t * strided + area(behind))
        if kind == "sep_conv":
            return area(behind) * 2 * (k * k * c + c * c)
        if kind == "dil_conv":
            return area(behind) * (k * k * c + c * c)
        return 0

    total = area(0) * 27 * 3 * channels
    c, level, widths = channels, 0, [3 * channels] * 2
    for index in range(layers):
        reduction = index in (2, 4)
        c *= 2 if reduction else 1
        total += (widths[-2] + widths[-1]) * c * area(level)
        inner = level + reduction
        cell = cells.reduction if reduction else cells.normal
        for edge in cell.edges:
            total += operation(edge.op, c, level if edge.source < 2 else inner, inner)
        level = inner
        widths.append(4 * c)
    total += area(2) * widths[-1] * width
    module = build_encoder(name, bins, channels, layers, width)
    counted = count_macs(module, frames, bins)
    assert counted == total


DRAWS = 8  # of inputs: which paths max pooling leaves


def empirical_reach(genotype: Any, config: CellConfig, frames: int, place: int) -> ReceptiveField:
    """Return which input frames the gradient of one output frame reaches, over several draws."""
    module = small(
        genotype,
        input_size=config.input_size,
        channels=config.channels,
        layers=config.layers,
        stem_stride=config.stem_stride,
        deltas=config.deltas,
    ).eval()
    for layer in module.modules():  # open all ReLUs, so that only max pooling cuts paths
        if isinstance(layer, nn.Linear):
            nn.init.constant_(layer.bias, 1e3)
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.constant_(layer.bias, 50.0)
            layer.running_mean.zero_()  # type: ignore[union-attr]
    x, lengths = padded([frames] * DRAWS, config.input_size)
    x.requires_grad_()
    module(x, lengths)[0][:, place].sum().backward()
    assert x.grad is not None
    touched = x.grad.abs().sum(dim=(0, 2)).nonzero().flatten()
    start = place * config.subsampling_factor
    return ReceptiveField(start - int(touched.min()), int(touched.max()) - start)


CONFIGS = [
    {"layers": 2},
    {"layers": 3, "stem_stride": (2, 1)},
    {"layers": 4, "deltas": False},
    {"layers": 5, "stem_stride": (2, 2)},
    {"layers": 6},
]
GENOTYPES = [*ZOO, *handwritten(), *(sampled(seed) for seed in range(8))]
SINGLE = [
    one_edge(op, source, space)
    for space, ops in CELL_SPACE_OPERATIONS.items()
    for op in ops
    if op != "none"
    for source in (0, 1)
]


def check_reach(genotype: Any, options: dict[str, Any]) -> None:
    genotype = load_genotype(genotype)
    config = CellConfig(input_size=9, channels=3, output_size=4, **options)
    claimed = receptive_field(genotype.architecture, config)
    factor = config.subsampling_factor
    place = -(-claimed.left // factor) + 1
    frames = place * factor + claimed.right + 2 * factor
    found = empirical_reach(genotype, config, frames, place)
    assert found.left <= claimed.left and found.right <= claimed.right, "sees more than claimed"
    assert found == claimed


@pytest.mark.parametrize("options", CONFIGS[:2])
@pytest.mark.parametrize("genotype", SINGLE)
def test_receptive_field_of_every_operation(genotype: Any, options: dict[str, Any]) -> None:
    check_reach(genotype, options)


@pytest.mark.slow
@pytest.mark.parametrize("options", CONFIGS)
@pytest.mark.parametrize("genotype", GENOTYPES)
def test_receptive_field_of_whole_genotypes(genotype: Any, options: dict[str, Any]) -> None:
    check_reach(genotype, options)


def test_a_reach_counts_its_own_frame() -> None:
    reach = ReceptiveField(3, 5)
    assert reach.frames == 9
    assert reach.plus(1) == ReceptiveField(4, 6)
    assert reach.plus(1, 0) == ReceptiveField(4, 5)
    assert reach.union(ReceptiveField(7, 2)) == ReceptiveField(7, 5)
