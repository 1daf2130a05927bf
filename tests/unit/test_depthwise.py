"""The depthwise convolution's own backward pass against PyTorch's, and where it is taken."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nas_encoder.ops import depthwise
from nas_encoder.ops.depthwise import DepthwiseConv2d, depthwise_conv2d


def gradients(y: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    weights = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view(y.shape)
    return list(torch.autograd.grad((y * weights).sum(), inputs))


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 3), st.integers(1, 5), st.integers(1, 12), st.integers(1, 12)),
    kernel=st.sampled_from([1, 3, 5, 7]),
    stride=st.integers(1, 2),
    dilation=st.integers(1, 2),
    channels_last=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_equals_the_library(
    shape: tuple[int, int, int, int],
    kernel: int,
    stride: int,
    dilation: int,
    channels_last: bool,
    seed: int,
) -> None:
    torch.manual_seed(seed)
    x, weight = torch.randn(shape), torch.randn(shape[1], 1, kernel, kernel)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    x.requires_grad_()
    weight.requires_grad_()
    assert depthwise._is_fast(x, weight)
    y = depthwise_conv2d(x, weight, stride, dilation)
    exact, exact_weight = (t.detach().double().requires_grad_() for t in (x, weight))
    padding = dilation * (kernel // 2)
    expected = F.conv2d(exact, exact_weight, None, stride, padding, dilation, shape[1])
    assert y.shape == (*shape[:2], -(-shape[2] // stride), -(-shape[3] // stride))
    torch.testing.assert_close(y.double(), expected, rtol=1e-4, atol=1e-4)
    for own, other in zip(
        gradients(y, [x, weight]), gradients(expected, [exact, exact_weight]), strict=True
    ):
        assert own.shape == other.shape
        torch.testing.assert_close(own.double(), other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("which", [0, 1])
def test_only_the_gradients_that_are_asked_for(which: int) -> None:
    x, weight = torch.randn(2, 3, 6, 5), torch.randn(3, 1, 3, 3)
    wanted = (x, weight)[which].requires_grad_()
    y = depthwise_conv2d(x, weight, 1, 1)
    (gradient,) = torch.autograd.grad(y.sum(), wanted)
    assert gradient.shape == wanted.shape


def test_other_precisions_take_the_library() -> None:
    weight = torch.randn(3, 1, 3, 3, requires_grad=True)
    x = torch.randn(2, 3, 6, 5)
    assert depthwise._is_fast(x, weight)
    assert not depthwise._is_fast(x.double(), weight.double())
    with torch.no_grad():
        assert not depthwise._is_fast(x, weight)
    with torch.autocast("cpu", torch.bfloat16):
        assert not depthwise._is_fast(x, weight)
        assert depthwise_conv2d(x, weight, 1, 1).dtype == torch.bfloat16


def test_the_module_has_the_weights_of_a_grouped_convolution() -> None:
    module = DepthwiseConv2d(4, 5, stride=2, dilation=2)
    assert module.bias is None
    assert module.weight.shape == (4, 1, 5, 5)
    plain = torch.nn.Conv2d(4, 4, 5, stride=2, padding=4, dilation=2, groups=4, bias=False)
    plain.load_state_dict(module.state_dict())
    x = torch.randn(2, 4, 9, 8)
    torch.testing.assert_close(module(x), plain(x))
