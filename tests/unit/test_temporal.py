"""Depthwise convolution over time, and dropout: as PyTorch's own, with gradients."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.ops import temporal
from nas_encoder.ops.dropout import Dropout, dropout
from nas_encoder.ops.temporal import depthwise_over_time


def plain(x: Tensor, weight: Tensor, bias: Tensor | None, back: int, stride: int) -> Tensor:
    before, after = back * stride, (weight.size(2) - 1 - back) * stride
    signal = F.pad(x.transpose(1, 2), (before, after))
    return F.conv1d(signal, weight, bias, dilation=stride, groups=x.size(2)).transpose(1, 2)


@pytest.mark.parametrize("stride", [1, 2, 3])
@pytest.mark.parametrize(
    ("taps", "back"), [(1, 0), (2, 1), (3, 1), (4, 0), (5, 4), (6, 2), (15, 7), (32, 20)]
)
@pytest.mark.parametrize("cache", [0, 1 << 17])
def test_is_a_convolution(
    taps: int, back: int, stride: int, cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever fits into the cache: both forms of the weight's gradient."""
    monkeypatch.setattr(temporal, "_IN_CACHE", cache)
    for frames in (1, 7, 40):
        given = [torch.randn(3, frames, 6), torch.randn(6, 1, taps), torch.randn(6)]
        inputs = [tensor.requires_grad_() for tensor in given]
        exact = [tensor.detach().double().requires_grad_() for tensor in given]
        y = depthwise_over_time(*inputs, back, stride)
        expected = plain(*exact, back, stride)
        slope = torch.randn_like(y)
        y.backward(slope)
        expected.backward(slope.double())
        torch.testing.assert_close(y.double(), expected, rtol=0, atol=1e-4)
        for own, other in zip(inputs, exact, strict=True):
            assert own.grad is not None
            assert other.grad is not None
            torch.testing.assert_close(own.grad.double(), other.grad, rtol=0, atol=1e-3)
        with torch.no_grad():
            found = depthwise_over_time(*exact, back, stride)
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
            without = depthwise_over_time(inputs[0], inputs[1], None, back, stride)
            torch.testing.assert_close(without + inputs[2], y, rtol=0, atol=1e-4)


def test_half_of_the_taps_are_past() -> None:
    x, weight = torch.randn(2, 9, 4), torch.randn(4, 1, 5)
    torch.testing.assert_close(depthwise_over_time(x, weight), plain(x, weight, None, 2, 1))


def test_half_precision_sums_in_single() -> None:
    x, weight = torch.randn(2, 30, 4), torch.randn(4, 1, 15)
    expected = depthwise_over_time(x.bfloat16().float(), weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(depthwise_over_time(x.bfloat16(), weight), expected.bfloat16())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_keeps_the_mean(dtype: torch.dtype) -> None:
    x = torch.ones(3, 70_001, dtype=dtype)
    for rate in (0.1, 0.5, 0.93):
        y = dropout(x, rate, True).double()
        kept = y != 0
        deviation = (rate * (1 - rate) / x.numel()) ** 0.5
        assert abs(float(kept.double().mean()) - (1 - rate)) < 5 * deviation + 2**-16
        torch.testing.assert_close(
            y[kept], torch.full_like(y[kept], 1 / (1 - rate)), rtol=1e-2, atol=0
        )
        # Neither neighbours nor the four elements of a random number go together.
        for step in (1, 2, 3, 4):
            both = (kept[:, step:] & kept[:, :-step]).double().mean()
            assert abs(float(both) - (1 - rate) ** 2) < 0.01


def test_dropout_draws_from_the_seeded_generator() -> None:
    x = torch.randn(5, 11, 7)
    torch.manual_seed(3)
    first, other = dropout(x, 0.4, True), dropout(x, 0.4, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(x, 0.4, True), first)
    assert not torch.equal(first, other)


def test_dropout_passes_gradients_of_what_it_keeps() -> None:
    x = torch.randn(4, 50, requires_grad=True)
    module = Dropout(0.3)
    y = module(x)
    y.backward(torch.ones_like(y))
    assert x.grad is not None
    torch.testing.assert_close(y, x * x.grad)
    assert x.grad.unique().tolist() == [0.0, pytest.approx(1 / 0.7, rel=1e-4)]
    assert module.eval()(x) is x
    assert dropout(x, 0.0, True) is x
    assert not dropout(x, 1.0, True).any()
