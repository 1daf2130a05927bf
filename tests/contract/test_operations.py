"""Every entry of the table of operations keeps the contract, see nas_encoder.ops."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from choice_samples import CELL_SPACE_OPERATIONS
from torch import nn

from nas_encoder.errors import ConfigError, RegistryError
from nas_encoder.ops import OPERATIONS, OperationBuilder, build_operation
from nas_encoder.testing import OperationContract, only_sound_convolutions


class TestOperations(OperationContract):
    @pytest.fixture(params=list(OPERATIONS))
    def operation(self, request: pytest.FixtureRequest) -> OperationBuilder:
        return OPERATIONS[request.param]


def causal_operations() -> dict[str, OperationBuilder]:
    """Return the builders of the causal forms."""

    def builder(name: str) -> OperationBuilder:
        return lambda channels, stride, affine: build_operation(
            name, channels, stride, affine, causal=True
        )

    able = (name for name in OPERATIONS if hasattr(build_operation(name, 2, 1), "make_causal"))
    return {name: builder(name) for name in able}


CAUSAL = causal_operations()


class TestCausalOperations(OperationContract):
    # The other kernels are built of the same parts.
    @pytest.fixture(
        params=[name for name in CAUSAL if name not in ("sep_conv_5x5", "dil_conv_3x3")]
    )
    def operation(self, request: pytest.FixtureRequest) -> OperationBuilder:
        return CAUSAL[request.param]


def test_all_can_be_causal_with_the_weights_and_costs_that_they_have() -> None:
    assert set(OPERATIONS) - set(CAUSAL) <= {"none", "skip_connect"}
    for name, stride in itertools.product(CAUSAL, (1, 2)):
        plain, causal = (build_operation(name, 2, stride, causal=own) for own in (False, True))
        shapes = [{k: v.shape for k, v in own.state_dict().items()} for own in (plain, causal)]
        assert shapes[0] == shapes[1]
        assert causal.context[1] < stride  # type: ignore[operator, index]
        assert sum(causal.context) == sum(plain.context)  # type: ignore[arg-type]


@pytest.mark.parametrize("kernel", [3, 5])
@pytest.mark.parametrize("stride", [1, 2])
def test_the_fast_gradients_are_those_of_the_library(kernel: int, stride: int) -> None:
    """In float32 on CPUs gradients of depthwise convolutions are ours, moved in time too."""
    module = build_operation(f"dil_conv_{kernel}x{kernel}", 4, stride, causal=True).eval()
    x = torch.randn(2, 4, 13, 9).contiguous(memory_format=torch.channels_last)
    found = []
    for dtype in (torch.float32, torch.float64):
        own = x.to(dtype, copy=True).requires_grad_()
        module.to(dtype).zero_grad()
        (module(own, None) ** 2).sum().backward()
        weight = module.depthwise.weight.grad  # type: ignore[union-attr]
        found.append((own.grad, weight.clone()))  # type: ignore[union-attr, operator]
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-4, check_dtype=False)


class Lookahead(nn.Module):
    """An operation that sees a frame ahead and does not say how it could do without."""

    context = (0, 1)


def test_what_cannot_be_causal_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    builder: Any = lambda channels, stride, affine: Lookahead()  # noqa: E731
    monkeypatch.setattr("nas_encoder.ops.OPERATIONS", {"odd": builder})
    with pytest.raises(ConfigError, match="op: 'odd' sees .* by 1 and cannot be causal"):
        build_operation("odd", 2, 1, causal=True)
    assert isinstance(build_operation("odd", 2, 2, causal=True), Lookahead)  # its own frames


def test_the_table_holds_what_the_cell_spaces_name() -> None:
    named = {op for operations in CELL_SPACE_OPERATIONS.values() for op in operations}
    assert named <= set(OPERATIONS)
    with pytest.raises(RegistryError, match="unknown operation 'sepconv'"):
        build_operation("sepconv", 4, 1)


STRIDED = {
    "stride 2": nn.Conv2d(2, 3, 1, stride=2),
    "in time only": nn.Conv2d(2, 3, 1, stride=(2, 1)),
    "stride 3": nn.Conv2d(2, 3, 1, stride=3),
    "one dimension": nn.Conv1d(2, 3, 1, stride=2),
    "in groups": nn.Conv2d(2, 2, 1, stride=2, groups=2),
    "transposed": nn.ConvTranspose2d(2, 3, 1, stride=2),
}
SOUND = [nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 3, stride=2), nn.Conv2d(2, 3, (1, 7), (1, 2), (0, 3))]


@pytest.mark.parametrize("name", STRIDED)
def test_strided_1x1_convolutions_are_found(name: str) -> None:
    module = STRIDED[name]
    x = torch.randn(2, 2, *[8] * (module.weight.dim() - 2))
    with pytest.raises(AssertionError, match="pick positions first"), only_sound_convolutions():
        module(x)


def test_they_are_found_in_backward_passes_and_others_are_not() -> None:
    x, kernel = torch.randn(2, 2, 8, 8), torch.randn(3, 2, 1, 1)
    grad = torch.randn(2, 3, 4, 4)
    settings = (None, [2, 2], [0, 0], [1, 1], False, [0, 0], 1, [True, True, False])
    with pytest.raises(AssertionError, match="backward"), only_sound_convolutions():
        torch.ops.aten.convolution_backward(grad, x, kernel, *settings)
    with only_sound_convolutions():
        for module in SOUND:
            module(x.requires_grad_()).sum().backward()
