"""The NAS-Bench-ASR network against the plain one, in float64: outputs and every gradient."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from parity.plain_nasbench import PlainNasBench, copy_weights

from nas_encoder import build_encoder
from nas_encoder.spaces import get_space

SIZE: dict[str, Any] = {
    "input_size": 9,
    "channels": 12,
    "conv_groups": 2,
    "block_cells": (1, 2, 1, 1),
    "lstm_size": 7,
    "output_size": 7,
}
FILTERS = (12, 16, 20, 24)
VECTORS = [
    [[1, 0], [1, 0, 0], [1, 0, 0, 0]],
    [[0, 1], [2, 1, 1], [3, 1, 1, 1]],
    [[4, 0], [0, 1, 0], [2, 0, 1, 0]],
    [[3, 1], [4, 0, 1], [0, 1, 0, 1]],
    [[2, 1], [3, 0, 0], [4, 0, 1, 1]],
    # With zero: the network is the public code's for the reduced vector.
    [[1, 0], [5, 1, 0], [0, 0, 1, 0]],
    [[0, 0], [2, 0, 0], [5, 1, 1, 1]],
    [[5, 1], [1, 0, 0], [4, 1, 0, 0]],
    [[3, 1], [5, 0, 0], [4, 1, 0, 0]],
]


@pytest.mark.parametrize("vector", VECTORS, ids=str)
def test_outputs_and_gradients_are_those_of_the_plain_network(vector: list[list[int]]) -> None:
    torch.manual_seed(0)
    encoder: Any = build_encoder(get_space("nasbench_asr").from_vector(vector), **SIZE).double()
    for name, parameter in encoder.named_parameters():
        if "norm" in name:
            torch.nn.init.uniform_(parameter, 0.3, 1.5)
    reduced = encoder.genotype.architecture.reduced().vector
    assert reduced == tuple(map(tuple, vector)) or 5 in [op for op, *_ in vector]
    plain = PlainNasBench(
        reduced, 9, FILTERS, SIZE["block_cells"], groups=2, lstm=7, classes=None
    ).double()
    copy_weights(plain, encoder)
    x = torch.randn(2, 23, 9, dtype=torch.float64, requires_grad=True)
    other = x.detach().transpose(1, 2).clone().requires_grad_()
    y, lengths = encoder(x, torch.tensor([23, 23]))
    reference = plain(other)
    assert lengths.tolist() == [6, 6]
    assert y.abs().max() > 0.01
    torch.testing.assert_close(y, reference, rtol=0, atol=1e-12)
    weights = torch.randn_like(y)
    (y * weights).sum().backward()
    (reference * weights).sum().backward()
    torch.testing.assert_close(x.grad, other.grad.transpose(1, 2), rtol=0, atol=1e-11)
    mine = sorted(p.grad.abs().sum().item() for p in encoder.parameters())
    theirs = sorted(p.grad.abs().sum().item() for p in plain.parameters())
    assert mine == pytest.approx(theirs, rel=1e-9, abs=1e-12)


def test_clipping_at_20_is_reached_and_the_same() -> None:
    """Weights so large that the clipped part of the ReLU takes part."""
    vector = [[0, 0], [1, 1, 0], [4, 0, 0, 1]]
    torch.manual_seed(1)
    encoder: Any = build_encoder(get_space("nasbench_asr").from_vector(vector), **SIZE).double()
    with torch.no_grad():
        for name, parameter in encoder.named_parameters():
            if "norm" not in name and "lstm" not in name:
                parameter.mul_(40)
    plain = PlainNasBench(
        vector, 9, FILTERS, SIZE["block_cells"], groups=2, lstm=7, classes=None
    ).double()
    copy_weights(plain, encoder)
    x = torch.randn(1, 17, 9, dtype=torch.float64)
    seen = []
    encoder.starts[1].conv.register_forward_hook(lambda *arguments: seen.append(arguments[2]))
    y, _ = encoder(x, torch.tensor([17]))
    assert (seen[0] == 20).any() and (seen[0] == 0).any()
    torch.testing.assert_close(y, plain(x.transpose(1, 2)), rtol=0, atol=1e-9)
