"""What every entry of the table of operations must hold; see nas_encoder.ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from choice_samples import CELL_SPACE_OPERATIONS
from encoder_samples import randomize_norms
from torch import Tensor, nn

from nas_encoder.errors import RegistryError
from nas_encoder.ops import OPERATIONS, build_operation
from nas_encoder.ops.masking import frame_mask, strided

CHANNELS = 4
every_operation = pytest.mark.parametrize("name", list(OPERATIONS))
both_strides = pytest.mark.parametrize("stride", [1, 2])
both_affine = pytest.mark.parametrize("affine", [True, False])
sizes = pytest.mark.parametrize("size", [(9, 7), (8, 6), (5, 1), (1, 1), (2, 3), (4, 10)])


def build(name: str, stride: int, affine: bool = True) -> nn.Module:
    module = build_operation(name, CHANNELS, stride, affine).double()
    randomize_norms(module)
    return module


def ceil_div(value: int, by: int) -> int:
    return -(-value // by)


def masked(lengths: list[int], frames: int, bins: int = 7) -> tuple[Tensor, Tensor]:
    """Return random (B, C, T, F), zero in padding, and its mask."""
    mask = frame_mask(torch.tensor(lengths), frames, torch.float64)
    return torch.randn(len(lengths), CHANNELS, frames, bins, dtype=torch.float64) * mask, mask


def test_the_table_holds_what_the_cell_spaces_name() -> None:
    named = {op for operations in CELL_SPACE_OPERATIONS.values() for op in operations}
    assert named <= set(OPERATIONS)
    with pytest.raises(RegistryError, match="unknown operation 'sepconv'"):
        build_operation("sepconv", 4, 1)


@every_operation
@both_strides
@both_affine
@sizes
def test_shapes_are_halved_upwards(
    name: str, stride: int, affine: bool, size: tuple[int, int]
) -> None:
    x = torch.randn(3, CHANNELS, *size, dtype=torch.float64)
    expected = (3, CHANNELS, ceil_div(size[0], stride), ceil_div(size[1], stride))
    module = build(name, stride, affine)
    for training in (True, False):
        y = module.train(training)(x, None)
        assert y.shape == expected
        assert y.dtype == torch.float64
        assert torch.isfinite(y).all()


@every_operation
@both_strides
def test_affine_decides_on_the_parameters_of_the_norms(name: str, stride: int) -> None:
    with_scale, without = (build(name, stride, affine) for affine in (True, False))
    norms = [part for part in with_scale.modules() if isinstance(part, nn.BatchNorm2d)]
    extra = sum(norm.weight.numel() + norm.bias.numel() for norm in norms)
    count = {
        module: sum(p.numel() for p in module.parameters()) for module in (with_scale, without)
    }
    assert count[with_scale] - count[without] == extra
    plain = [part for part in without.modules() if isinstance(part, nn.BatchNorm2d)]
    assert all(norm.weight is None and norm.bias is None for norm in plain)


@every_operation
@both_strides
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("frames", [11, 12])
def test_padding_frames_of_the_output_are_zero(
    name: str, stride: int, training: bool, frames: int
) -> None:
    lengths = [frames, 7, 4, 1]
    x, mask = masked(lengths, frames)
    y = build(name, stride).train(training)(x, mask)
    kept = strided(mask, stride)
    assert kept is not None
    assert kept.sum(dim=(1, 2, 3)).tolist() == [ceil_div(length, stride) for length in lengths]
    assert (y * (1 - kept) == 0).all()


@every_operation
@both_strides
@pytest.mark.parametrize("training", [True, False])
def test_more_padding_changes_nothing(name: str, stride: int, training: bool) -> None:
    """Forward and input gradient, also in training, where the same frames make the statistics."""
    module = build(name, stride).train(training)
    lengths = [9, 6, 3]
    x, mask = masked(lengths, 9)
    results = []
    for frames in (9, 10, 16):
        wide = torch.zeros(3, CHANNELS, frames, 7, dtype=torch.float64)
        wide[:, :, :9] = x
        wide.requires_grad_()
        y = module(wide, frame_mask(torch.tensor(lengths), frames, torch.float64))
        weights = torch.linspace(-1, 1, y[:, :, : ceil_div(9, stride)].numel(), dtype=y.dtype)
        y = y[:, :, : ceil_div(9, stride)]
        if y.requires_grad:  # not so for zeros
            (y * weights.view_as(y)).sum().backward()
        gradient = torch.zeros_like(x) if wide.grad is None else wide.grad[:, :, :9] * mask
        results.append((y.detach(), gradient))
    for y, gradient in results[1:]:
        torch.testing.assert_close(y, results[0][0], rtol=0, atol=1e-12)
        torch.testing.assert_close(gradient, results[0][1], rtol=0, atol=1e-12)


@every_operation
@both_strides
def test_an_utterance_alone_equals_itself_in_a_batch(name: str, stride: int) -> None:
    module = build(name, stride).eval()
    lengths = [10, 7, 4, 1]
    x, mask = masked(lengths, 10)
    y = module(x, mask)
    for row, length in enumerate(lengths):
        alone = module(x[row : row + 1, :, :length], None)
        torch.testing.assert_close(y[row : row + 1, :, : alone.size(2)], alone, rtol=0, atol=1e-12)


@every_operation
@both_strides
def test_a_mask_of_ones_equals_no_mask(name: str, stride: int) -> None:
    x = torch.randn(2, CHANNELS, 9, 7, dtype=torch.float64)
    ones = torch.ones(2, 1, 9, 1, dtype=torch.float64)
    states: list[Any] = []
    outputs = []
    for mask in (None, ones):
        torch.manual_seed(3)
        module = build(name, stride).train()
        outputs.append(module(x, mask))
        states.append(module.state_dict())
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-12)
    torch.testing.assert_close(*states, rtol=0, atol=1e-12)


@every_operation
@both_strides
@pytest.mark.parametrize("with_mask", [True, False])
def test_memory_layout_does_not_matter(name: str, stride: int, with_mask: bool) -> None:
    module = build(name, stride).train()
    x, mask = masked([9, 5], 9)
    plain = module(x, mask if with_mask else None)
    last = module(x.contiguous(memory_format=torch.channels_last), mask if with_mask else None)
    torch.testing.assert_close(plain, last, rtol=0, atol=1e-12)


@every_operation
@both_strides
def test_inputs_are_not_changed(name: str, stride: int) -> None:
    x, mask = masked([9, 5], 9)
    before, mask_before = x.clone(), mask.clone()
    build(name, stride).train()(x, mask)
    assert torch.equal(x, before)
    assert torch.equal(mask, mask_before)


@every_operation
@both_strides
@pytest.mark.parametrize("training", [True, False])
def test_input_gradients_are_those_of_finite_differences(
    name: str, stride: int, training: bool
) -> None:
    module = build(name, stride).train(training)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d) and training:
            part.momentum = 0.0  # finite differences need a function without memory
    x, mask = masked([5, 3], 5, bins=3)
    x.requires_grad_()
    assert torch.autograd.gradcheck(
        lambda x: module(x * mask, mask), (x,), eps=1e-6, atol=1e-5, check_undefined_grad=False
    )
