"""The functions of nas_encoder/ops/fused.py against the modules that they stand for."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_encoder.ops import build_operation, fused
from nas_encoder.ops.convolution import ConvPair7, DilatedConv
from nas_encoder.ops.masking import frame_mask
from nas_encoder.spaces.cells.cell import PointwiseNorm

OPERATIONS = [
    (name, stride)
    for name in ("sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5", "conv_7x1_1x7")
    for stride in (1, 2)
]


@pytest.fixture(autouse=True)
def any_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "FEWEST_CHANNELS", 1)


def built(name: str, stride: int, affine: bool = True) -> nn.Module:
    torch.manual_seed(0)
    if name == "pointwise":
        module: nn.Module = PointwiseNorm(4, 6, affine)
    else:
        module = build_operation(name, 4, stride, affine)
    for parameter in module.parameters():
        nn.init.normal_(parameter)
    return module.double().train()


def run(module: nn.Module, x: Tensor, mask: Tensor | None) -> list[Tensor]:
    """Return output, gradients and the state after a step."""
    module, x = deepcopy(module), x.clone().requires_grad_()
    y = module(x, mask)
    weights = torch.sin(torch.arange(y.numel(), dtype=y.dtype)).view_as(y)
    gradients = torch.autograd.grad((y * weights).sum(), [x, *module.parameters()])
    return [y, *gradients, *module.state_dict().values()]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("lengths", [None, (7, 3, 1)])
@pytest.mark.parametrize(("name", "stride"), [*OPERATIONS, ("pointwise", 1)])
def test_numbers_are_those_of_the_modules(
    name: str, stride: int, lengths: Any, affine: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    module, x = built(name, stride, affine), torch.randn(3, 4, 9, 5, dtype=torch.float64)
    mask = None
    if lengths is not None:
        mask = frame_mask(torch.tensor(lengths), 9, x.dtype)
        x = x * mask
    calls = []
    for function in ("_PointwiseNorm", "_SeparableNorm", "_PairNorm"):
        own = getattr(fused, function)
        monkeypatch.setattr(own, "forward", counted(own.forward, calls))
    found = run(module, x, mask)
    assert len(calls) == (2 if name.startswith("sep") else 1)
    hooked = deepcopy(module)
    for layer in hooked.modules():
        layer.register_forward_hook(lambda *_: None)
    expected = run(hooked, x, mask)  # modules run where hooks must
    assert len(calls) == (2 if name.startswith("sep") else 1)
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_biases_of_other_convolutions_count() -> None:
    module, x = built("pointwise", 1), torch.randn(2, 4, 5, 3, dtype=torch.float64)
    assert isinstance(module, PointwiseNorm)
    module.norm.momentum = 1.0
    module(x, None)
    mean = module.get_buffer("norm.running_mean").clone()
    module.conv.bias = nn.Parameter(torch.arange(6.0).double())
    module(x, None)
    torch.testing.assert_close(module.get_buffer("norm.running_mean"), mean + module.conv.bias)


def counted(function: Any, calls: list[int]) -> Any:
    def called(*arguments: Any) -> Any:
        calls.append(1)
        return function(*arguments)

    return staticmethod(called)


def test_hooks_of_all_modules_run() -> None:
    module = built("dil_conv_3x3", 1)
    seen: list[nn.Module] = []
    handle = nn.modules.module.register_module_forward_hook(lambda own, *_: seen.append(own))
    try:
        module(torch.randn(1, 4, 6, 5, dtype=torch.float64), None)
    finally:
        handle.remove()
    assert seen == [*module.children(), module]


@pytest.mark.parametrize("padded", [False, True])
def test_a_single_position_gives_the_shift_and_leaves_the_variance(padded: bool) -> None:
    module, x = built("pointwise", 1), torch.randn(1, 4, 1, 1, dtype=torch.float64)
    mask = None
    if padded:
        x, mask = torch.nn.functional.pad(x, (0, 0, 0, 2)), torch.tensor([1.0, 0, 0]).double()
        mask = mask.view(1, 1, 3, 1)
    y = module(x, mask)
    torch.testing.assert_close(y[0, :, 0, 0], module.get_parameter("norm.bias"))
    assert torch.equal(module.get_buffer("norm.running_var"), torch.ones(6).double())
    assert not y[:, :, 1:].any()


def test_frozen_parts_have_no_gradient() -> None:
    module, x = built("dil_conv_5x5", 1), torch.randn(2, 4, 6, 5, dtype=torch.float64)
    assert isinstance(module, DilatedConv)
    module.depthwise.requires_grad_(False)
    module(x, None).sum().backward()
    assert module.depthwise.weight.grad is None and module.pointwise.weight.grad is not None
    pair = built("conv_7x1_1x7", 1)
    assert isinstance(pair, ConvPair7)
    pair.over_frequency.requires_grad_(False)
    pair(x, None).sum().backward()
    assert pair.over_frequency.weight.grad is None and pair.over_time.weight.grad is not None


def test_less_is_kept_for_the_backward_pass() -> None:
    def kept(module: nn.Module) -> int:
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            module(x, None)
        return sum(seen.values())

    x = torch.randn(2, 4, 32, 16, dtype=torch.float64, requires_grad=True)
    x = x.contiguous(memory_format=torch.channels_last)
    module = built("dil_conv_3x3", 1)
    hooked = deepcopy(module)
    for layer in hooked.modules():
        layer.register_forward_hook(lambda *_: None)
    # The input, which edges share, and two maps; else ReLU's output as well, for each edge.
    assert kept(module) - x.nbytes < 0.75 * kept(hooked)
