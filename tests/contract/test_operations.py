"""Every entry of the table of operations keeps the contract, see nas_encoder.ops."""

from __future__ import annotations

import pytest
import torch
from choice_samples import CELL_SPACE_OPERATIONS
from torch import nn

from nas_encoder.errors import RegistryError
from nas_encoder.ops import OPERATIONS, OperationBuilder, build_operation
from nas_encoder.testing import OperationContract, only_sound_convolutions


class TestOperations(OperationContract):
    @pytest.fixture(params=list(OPERATIONS))
    def operation(self, request: pytest.FixtureRequest) -> OperationBuilder:
        return OPERATIONS[request.param]


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
