"""The contract of operations; see nas_encoder.ops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nas_encoder.ops import OperationBuilder
from nas_encoder.ops.chunks import Chunk
from nas_encoder.ops.masking import frame_mask, strided
from nas_encoder.testing.convolutions import only_sound_convolutions

CHANNELS = 4
SIZES = ((9, 7), (8, 6), (5, 1), (1, 1), (2, 3), (4, 10))
both_strides = pytest.mark.parametrize("stride", [1, 2])
in_both_modes = pytest.mark.parametrize("training", [True, False])


class OperationContract:
    """Shapes, strides, padding and gradients; needs the fixture ``operation``, the builder."""

    @both_strides
    @pytest.mark.parametrize("affine", [True, False])
    def test_shapes_are_halved_upwards(
        self, operation: OperationBuilder, stride: int, affine: bool
    ) -> None:
        module = build(operation, stride, affine)
        for frames, bins in SIZES:
            x = torch.randn(3, CHANNELS, frames, bins, dtype=torch.float64)
            for training in (True, False):
                y = module.train(training)(x, None)
                assert y.shape == (3, CHANNELS, -(-frames // stride), -(-bins // stride))
                assert y.dtype == torch.float64
                assert torch.isfinite(y).all()

    @both_strides
    def test_affine_decides_on_the_parameters_of_the_norms(
        self, operation: OperationBuilder, stride: int
    ) -> None:
        with_scale, without = (build(operation, stride, affine) for affine in (True, False))
        norms = [part for part in with_scale.modules() if isinstance(part, nn.BatchNorm2d)]
        extra = sum(norm.weight.numel() + norm.bias.numel() for norm in norms)
        counts = [sum(p.numel() for p in module.parameters()) for module in (with_scale, without)]
        assert counts[0] - counts[1] == extra
        plain = [part for part in without.modules() if isinstance(part, nn.BatchNorm2d)]
        assert all(norm.weight is None and norm.bias is None for norm in plain)

    @both_strides
    @in_both_modes
    @pytest.mark.parametrize("frames", [11, 12])
    def test_padding_frames_of_the_output_are_zero(
        self, operation: OperationBuilder, stride: int, training: bool, frames: int
    ) -> None:
        lengths = [frames, 7, 4, 1]
        x, mask = masked(lengths, frames)
        y = build(operation, stride).train(training)(x, mask)
        kept = strided(mask, stride)
        assert kept is not None
        assert kept.sum(dim=(1, 2, 3)).tolist() == [-(-length // stride) for length in lengths]
        assert (y * (1 - kept) == 0).all()

    @both_strides
    @in_both_modes
    def test_more_padding_changes_nothing(
        self, operation: OperationBuilder, stride: int, training: bool
    ) -> None:
        """Forward and input gradient, also in training, with statistics of the same frames."""
        module = build(operation, stride).train(training)
        lengths, kept = [9, 6, 3], -(-9 // stride)
        x, mask = masked(lengths, 9)
        results = []
        for frames in (9, 10, 16):
            wide = torch.zeros(3, CHANNELS, frames, 7, dtype=torch.float64)
            wide[:, :, :9] = x
            wide.requires_grad_()
            y = module(wide, frame_mask(torch.tensor(lengths), frames, torch.float64))[:, :, :kept]
            if y.requires_grad:  # false for zeros
                (y * torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
            gradient = torch.zeros_like(x) if wide.grad is None else wide.grad[:, :, :9] * mask
            results.append((y.detach(), gradient))
        for result in results[1:]:
            torch.testing.assert_close(result, results[0], rtol=0, atol=1e-12)

    @both_strides
    def test_an_utterance_alone_equals_itself_in_a_batch(
        self, operation: OperationBuilder, stride: int
    ) -> None:
        module = build(operation, stride).eval()
        lengths = [10, 7, 4, 1]
        x, mask = masked(lengths, 10)
        y = module(x, mask)
        for row, length in enumerate(lengths):
            alone = module(x[row : row + 1, :, :length], None)
            own = y[row : row + 1, :, : alone.size(2)]
            torch.testing.assert_close(own, alone, rtol=0, atol=1e-12)

    @both_strides
    def test_a_mask_of_ones_equals_no_mask(self, operation: OperationBuilder, stride: int) -> None:
        x = torch.randn(2, CHANNELS, 9, 7, dtype=torch.float64)
        found = []
        for mask in (None, torch.ones(2, 1, 9, 1, dtype=torch.float64)):
            torch.manual_seed(3)
            module = build(operation, stride).train()
            found.append({"output": module(x, mask), **module.state_dict()})
        torch.testing.assert_close(*found, rtol=0, atol=1e-12)

    @both_strides
    @pytest.mark.parametrize("with_mask", [True, False])
    def test_memory_layout_does_not_matter_and_inputs_stay(
        self, operation: OperationBuilder, stride: int, with_mask: bool
    ) -> None:
        module = build(operation, stride).train()
        x, mask = masked([9, 5], 9)
        before, mask_before = x.clone(), mask.clone()
        plain = module(x, mask if with_mask else None)
        last = module(x.contiguous(memory_format=torch.channels_last), mask if with_mask else None)
        torch.testing.assert_close(plain, last, rtol=0, atol=1e-12)
        assert torch.equal(x, before)
        assert torch.equal(mask, mask_before)

    @both_strides
    @in_both_modes
    def test_input_gradients_are_those_of_finite_differences(
        self, operation: OperationBuilder, stride: int, training: bool
    ) -> None:
        module = build(operation, stride).train(training)
        for part in module.modules():
            if isinstance(part, nn.BatchNorm2d) and training:
                part.momentum = 0.0  # finite differences need a stateless function
        x, mask = masked([5, 3], 5, bins=3)
        x.requires_grad_()
        assert torch.autograd.gradcheck(
            lambda x: module(x * mask, mask), (x,), eps=1e-6, atol=1e-5, check_undefined_grad=False
        )

    @both_strides
    @in_both_modes
    def test_no_convolution_can_damage_memory(
        self, operation: OperationBuilder, stride: int, training: bool
    ) -> None:
        module = operation(CHANNELS, stride, True).train(training)
        for layout in (torch.contiguous_format, torch.channels_last):
            x = torch.randn(2, CHANNELS, 8, 6).contiguous(memory_format=layout).requires_grad_()
            with only_sound_convolutions():
                y = module(x, None)
                if y.requires_grad:
                    y.sum().backward()

    @both_strides
    def test_it_sees_as_far_as_it_says(self, operation: OperationBuilder, stride: int) -> None:
        module = build(operation, stride).eval()
        x = torch.randn(1, CHANNELS, 41, 5, dtype=torch.float64, requires_grad=True)
        y = module(x, None)
        if not y.requires_grad:  # zeros have no receptive field
            return
        y[:, :, 20 // stride].sum().backward()
        assert x.grad is not None
        seen = x.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
        before, after = module.context  # type: ignore[misc]
        assert (int(seen[0]), int(seen[-1])) == (20 - before, 20 + after)

    @both_strides
    @torch.no_grad()
    def test_chunks_give_what_the_whole_gives(
        self, operation: OperationBuilder, stride: int
    ) -> None:
        """With an utterance that ends in a chunk, one that ends between two, and single frames."""
        module: Any = build(operation, stride).eval()
        if not hasattr(module, "step"):
            pytest.skip("its networks encode windows of their input again")
        for lengths in ([23, 11, 8, 1], [23] * 2):
            x, mask = masked(lengths, 23)
            ends = None if lengths[0] == lengths[-1] else torch.tensor(lengths)
            cache, start = module.first_cache(x.permute(0, 2, 3, 1)[:, :0]), 0
            pieces: list[Tensor] = []
            for size in (0, 8, 1, 1, 1, 0, 5, 6, 1):
                frames = x[:, :, start : start + size].permute(0, 2, 3, 1)
                out, cache = module.step(Chunk(frames, start, start + size == 23, ends), cache)
                assert out.start == sum(piece.size(1) for piece in pieces)
                pieces.append(out.x)
                start += size
            found = torch.cat(pieces, 1).permute(0, 3, 1, 2)
            whole = module(x, None if ends is None else mask)
            torch.testing.assert_close(found, whole, rtol=0, atol=1e-12)


def build(operation: OperationBuilder, stride: int, affine: bool = True) -> nn.Module:
    """Build an operation with norm statistics and scales like those of a trained one."""
    module = operation(CHANNELS, stride, affine).double()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None and part.running_var is not None
            part.running_mean.normal_()
            part.running_var.uniform_(0.5, 2.0)
            if part.affine:
                nn.init.uniform_(part.weight, 0.5, 2.0)
                nn.init.normal_(part.bias)
    return module


def masked(lengths: list[int], frames: int, bins: int = 7) -> tuple[Tensor, Tensor]:
    """Return random (B, C, T, F), zero in padding, and the mask (B, 1, T, 1)."""
    mask = frame_mask(torch.tensor(lengths), frames, torch.float64)
    return torch.randn(len(lengths), CHANNELS, frames, bins, dtype=torch.float64) * mask, mask
