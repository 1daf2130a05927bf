"""The plain reference network itself: its deltas, shapes and size against published figures."""

from __future__ import annotations

import pytest
import torch
import torchaudio
from parity.plain_darts import PlainNetwork, build_op, regression_deltas

# The normal and reduction cells of DARTS (second order), figures 4 and 5 of the paper.
DARTS_V2 = {
    "normal": {
        "nodes": [
            [{"op": "sep_conv_3x3", "from": 0}, {"op": "sep_conv_3x3", "from": 1}],
            [{"op": "sep_conv_3x3", "from": 0}, {"op": "sep_conv_3x3", "from": 1}],
            [{"op": "sep_conv_3x3", "from": 1}, {"op": "skip_connect", "from": 0}],
            [{"op": "skip_connect", "from": 0}, {"op": "dil_conv_3x3", "from": 2}],
        ],
        "concat": [2, 3, 4, 5],
    },
    "reduction": {
        "nodes": [
            [{"op": "max_pool_3x3", "from": 0}, {"op": "max_pool_3x3", "from": 1}],
            [{"op": "skip_connect", "from": 2}, {"op": "max_pool_3x3", "from": 1}],
            [{"op": "max_pool_3x3", "from": 0}, {"op": "skip_connect", "from": 2}],
            [{"op": "skip_connect", "from": 2}, {"op": "max_pool_3x3", "from": 1}],
        ],
        "concat": [2, 3, 4, 5],
    },
}


@pytest.mark.parametrize("frames", [1, 2, 3, 10])
def test_deltas_are_those_of_torchaudio(frames: int) -> None:
    x = torch.randn(frames, 7, dtype=torch.float64)
    for _ in range(2):
        expected = torchaudio.functional.compute_deltas(x.T, win_length=5, mode="replicate").T
        torch.testing.assert_close(regression_deltas(x), expected)
        x = expected


def test_cells_have_the_published_size_of_darts() -> None:
    # CIFAR-10: 20 cells, 36 channels, 3.3 M parameters (DARTS, table 1), of which the classifier
    # after global pooling has 5,770; our head is another one, so it is left out on both sides.
    with torch.device("meta"):
        network = PlainNetwork(DARTS_V2, input_size=32, channels=36, layers=20)
    own = sum(p.numel() for name, p in network.named_parameters() if not name.startswith("head"))
    assert own + (16 * 36 + 1) * 10 == pytest.approx(3.3e6, abs=0.05e6)


@pytest.mark.parametrize("size", [(9, 10), (8, 7), (5, 4), (1, 1)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    "name",
    [
        "skip_connect",
        "max_pool_3x3",
        "avg_pool_3x3",
        "sep_conv_3x3",
        "sep_conv_5x5",
        "dil_conv_3x3",
        "dil_conv_5x5",
        "conv_7x1_1x7",
    ],
)
def test_operations_halve_upwards(name: str, stride: int, size: tuple[int, int]) -> None:
    y = build_op(name, 6, stride).eval()(torch.randn(1, 6, *size))
    assert y.shape == (1, 6, -(-size[0] // stride), -(-size[1] // stride))


@pytest.mark.parametrize("frames", [4, 13, 14, 15])
@pytest.mark.parametrize("bins", [10, 13])
def test_network_shapes(frames: int, bins: int) -> None:
    network = PlainNetwork(DARTS_V2, input_size=bins, channels=2, layers=5, output_size=6).eval()
    assert network(torch.randn(frames, bins)).shape == (-(-frames // 4), 6)


def test_a_cell_that_nothing_reads_has_no_weights() -> None:
    only_before = {"nodes": [[{"op": "sep_conv_3x3", "from": 0}]], "concat": [2]}
    genotype = {"normal": only_before, "reduction": DARTS_V2["reduction"]}
    network = PlainNetwork(genotype, input_size=8, channels=2, layers=6, output_size=3)
    assert network.needed == {1, 3, 5}
    y = network(torch.randn(12, 8))
    y.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
