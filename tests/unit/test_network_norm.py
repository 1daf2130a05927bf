"""Masked batch norm: against nn.BatchNorm2d, finite differences and layouts."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_encoder.ops.masking import frame_mask, recomputing
from nas_encoder.ops.norm import MaskedBatchNorm2d

LENGTHS = [9, 5, 1]


def batch(dtype: torch.dtype = torch.float64) -> tuple[Tensor, Tensor]:
    """Return (B, C, T, F) whose padding frames are not zero, and the mask."""
    x = 3 + 2 * torch.randn(len(LENGTHS), 4, max(LENGTHS), 6, dtype=dtype)
    return x, frame_mask(torch.tensor(LENGTHS), max(LENGTHS), dtype)


def valid_frames(x: Tensor) -> Tensor:
    """Concatenate the utterances' frames: (B, C, T, F) to (1, C, sum of lengths, F)."""
    frames = [x[row, :, :length] for row, length in enumerate(LENGTHS)]
    return torch.cat(frames, dim=1)[None]


def pair(**options: Any) -> tuple[MaskedBatchNorm2d, nn.BatchNorm2d]:
    """Return a masked and a plain norm of equal weights."""
    masked = MaskedBatchNorm2d(4, **options).double()
    plain = nn.BatchNorm2d(4, **options).double()
    if masked.affine:
        nn.init.normal_(masked.weight)
        nn.init.normal_(masked.bias)
    plain.load_state_dict(masked.state_dict())
    return masked, plain


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize("momentum", [0.1, None])
def test_equals_batch_norm_of_the_concatenated_valid_frames(
    training: bool, affine: bool, track: bool, momentum: float | None
) -> None:
    masked, plain = pair(affine=affine, track_running_stats=track, momentum=momentum)
    masked.train(training)
    plain.train(training)
    for _ in range(3):
        x, mask = batch()
        x.requires_grad_()
        y, expected = masked(x, mask), plain(valid_frames(x))
        torch.testing.assert_close(valid_frames(y), expected)
        assert (y * (1 - mask) == 0).all()
        weights = torch.randn_like(expected)
        inputs = [x, *masked.parameters()]
        own = torch.autograd.grad((valid_frames(y) * weights).sum(), inputs)
        others = torch.autograd.grad((expected * weights).sum(), [x, *plain.parameters()])
        torch.testing.assert_close(own, others)
    torch.testing.assert_close(masked.state_dict(), plain.state_dict())


@pytest.mark.parametrize("mask", [None, torch.ones(3, 1, 9, 1, dtype=torch.float64)])
def test_equals_batch_norm_where_all_frames_are_valid(mask: Tensor | None) -> None:
    masked, plain = pair()
    x, _ = batch()
    torch.testing.assert_close(masked(x, mask), plain(x))
    torch.testing.assert_close(masked.state_dict(), plain.state_dict())


@pytest.mark.parametrize("affine", [True, False])
def test_gradients_are_those_of_finite_differences(affine: bool) -> None:
    masked, _ = pair(affine=affine, momentum=0.0)
    x, mask = batch()
    x = x[:, :, :, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda x, *_: masked(x, mask), (x, *masked.parameters()))


def test_a_second_derivative_is_refused_and_not_wrong() -> None:
    masked, _ = pair()
    x, mask = batch()
    x.requires_grad_()
    (gradient,) = torch.autograd.grad(masked(x, mask).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("bins", [1, 2, 5])
def test_gradients_do_not_depend_on_memory_layouts(training: bool, bins: int) -> None:
    """PyTorch's own CPU kernel gives wrong ones where the last size is 1."""
    shape = (2, 4, 3, bins)
    x, incoming = (torch.randn(shape, dtype=torch.float64) for _ in range(2))
    masked, _ = pair(momentum=0.0)
    masked.train(training)

    def gradient(x_order: tuple[int, ...], g_order: tuple[int, ...]) -> Tensor:
        def lay_out(value: Tensor, order: tuple[int, ...]) -> Tensor:
            inverse = [order.index(axis) for axis in range(4)]
            return value.permute(order).contiguous().permute(inverse)

        leaf = lay_out(x, x_order).detach().requires_grad_()
        return torch.autograd.grad(masked(leaf, None), leaf, lay_out(incoming, g_order))[0]

    plain = gradient((0, 1, 2, 3), (0, 1, 2, 3))
    for x_order, g_order in itertools.product(itertools.permutations(range(4)), repeat=2):
        torch.testing.assert_close(gradient(x_order, g_order), plain)


def test_the_workaround_for_torch_is_still_needed() -> None:
    """Fails when PyTorch is mended: then MaskedBatchNorm2d._unmasked can go."""
    x = torch.randn(2, 4, 2, 1, dtype=torch.float64, requires_grad=True)
    incoming = torch.randn(2, 2, 4, 1, dtype=torch.float64).transpose(1, 2)
    norm = nn.BatchNorm2d(4).double()
    wrong, right = (
        torch.autograd.grad(norm(x), x, g)[0] for g in (incoming, incoming.contiguous())
    )
    assert not torch.allclose(wrong, right)


@pytest.mark.parametrize("with_mask", [True, False])
def test_a_second_pass_of_a_checkpoint_moves_no_statistics(with_mask: bool) -> None:
    masked, _ = pair()
    x, mask = batch()
    given = mask if with_mask else None
    first = masked(x, given)
    before = {name: buffer.clone() for name, buffer in masked.named_buffers()}
    with recomputing():
        second = masked(x, given)
    torch.testing.assert_close(second, first, rtol=0, atol=0)
    torch.testing.assert_close(dict(masked.named_buffers()), before, rtol=0, atol=0)


@pytest.mark.parametrize("given", [None, torch.ones(1, 1, 1, 1)])
def test_a_single_value_becomes_the_shift_and_moves_no_variance(given: Tensor | None) -> None:
    masked = MaskedBatchNorm2d(3)
    nn.init.normal_(masked.bias)
    y = masked(torch.randn(1, 3, 1, 1), given)
    torch.testing.assert_close(y.flatten(), masked.bias.detach())
    assert torch.equal(masked.running_var, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_inputs_are_normalized_in_float32(dtype: torch.dtype) -> None:
    masked = MaskedBatchNorm2d(4)
    x, mask = batch(torch.float32)
    low = x.to(dtype).requires_grad_()
    y = masked(low, mask)
    expected = MaskedBatchNorm2d(4)(x.to(dtype).float(), mask)
    assert y.dtype == dtype
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-2)
    y.float().square().sum().backward()
    assert low.grad is not None and low.grad.dtype == dtype
    assert masked.weight.grad is not None and masked.weight.grad.dtype == torch.float32
    assert masked.running_mean is not None and masked.running_mean.dtype == torch.float32


def test_a_large_mean_does_not_spoil_the_variance() -> None:
    x, mask = batch(torch.float32)
    shifted = (x - 3) / 2 + 1000
    y = MaskedBatchNorm2d(4)(shifted, mask)
    expected = MaskedBatchNorm2d(4).double()(shifted.double(), mask.double())
    torch.testing.assert_close(y, expected.float(), rtol=1e-3, atol=1e-3)


def test_statistics_and_keys_are_those_of_batch_norm() -> None:
    masked, plain = pair()
    assert isinstance(masked, nn.BatchNorm2d)
    assert list(masked.state_dict()) == list(plain.state_dict())
    assert masked.num_batches_tracked is not None
    x, mask = batch()
    masked(x, mask)
    masked(x, None)
    assert masked.num_batches_tracked.item() == 2
    with pytest.raises(ValueError, match="4D"):
        masked(x[0, 0], None)
