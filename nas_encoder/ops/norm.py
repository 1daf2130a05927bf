"""Batch normalization whose statistics are those of the utterances' frames alone."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import apply_mask, is_recomputing, is_tracing


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` for padded batches; its parameters and buffers are the same.

    With a mask, mean and variance are taken over valid frames only, in training too, and the
    result is zero in padding frames. Without one it *is* ``nn.BatchNorm2d``. The statistics
    are accumulated in float32 at least.
    """

    def forward(
        self, input: Tensor, mask: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """Normalize (B, C, T, F) under the mask (B, 1, T, 1); the shape stays.

        Statistics are those of the batch in training mode, else the running ones. A layer
        without trainable scale and shift can be given a ``scale`` (C,), with its gradient.
        """
        self._check_input_dim(input)
        weight = self.weight if scale is None else scale
        if not self.training and self.running_mean is not None:
            return apply_mask(self._unmasked(input, weight, move=False), mask)
        move = self.training and self.track_running_stats and not is_recomputing()
        if mask is None and input.numel() == input.size(1):
            # nn.BatchNorm2d refuses a single value per channel; with padding beside it, that
            # same batch would be taken, and a training must not die of its shortest utterance.
            mask = torch.ones_like(input[:, :1, :, :1])
        if mask is None:
            return self._unmasked(input, weight, move)
        output, mean, variance, count = _normalize(input, mask, weight, self.bias, float(self.eps))
        if move:
            self._move_running_statistics(mean, variance, count)
        return output

    def _unmasked(self, input: Tensor, weight: Tensor | None, move: bool) -> Tensor:
        """Normalize all frames; the running statistics move in training and only if told so."""
        mean, variance, rate = self.running_mean, self.running_var, self.momentum
        if move:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = 1.0 / float(self.num_batches_tracked) if rate is None else rate
        elif self.training and mean is not None and variance is not None:
            # Copies and not None: the second pass of a checkpoint must save as many tensors for
            # its backward pass as the first did.
            mean, variance = mean.clone(), variance.clone()
        # PyTorch's backward pass on CPU (2.13 too) reads the incoming gradient in the wrong order
        # where the last size is 1 and the memory layouts differ; with three axes it does not.
        single = not is_tracing() and input.size(3) == 1
        flat = input.squeeze(3) if single else input
        output = F.batch_norm(
            flat,
            mean,
            variance,
            weight,
            self.bias,
            training=self.training or mean is None,
            momentum=rate or 0.0,
            eps=self.eps,
        )
        return output.unsqueeze(3) if single else output

    @torch.no_grad()
    def _move_running_statistics(self, mean: Tensor, variance: Tensor, count: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        rate = 1.0 / self.num_batches_tracked.float() if self.momentum is None else self.momentum
        # A single value says nothing about the variance.
        unbiased = torch.where(count > 1, variance * count / (count - 1), self.running_var)
        self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
        self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)


def _normalize(
    x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return the normalized (B, C, T, F) and the mean, variance (C,) and count () behind it."""
    result: tuple[Tensor, Tensor, Tensor, Tensor] = _MaskedNormalize.apply(  # type: ignore[no-untyped-call]
        x, mask, weight, bias, eps
    )
    return result


class _MaskedNormalize(torch.autograd.Function):
    """Closed-form forward and backward: one saved activation, few passes over memory."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mask: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mask = mask.to(wide.dtype)
        count = mask.sum() * x.size(3)
        mean = _channel_sum(wide * mask) / count
        # An all-padding rest of the batch adds exact zeros to the sums below.
        centred = wide.sub(mean[:, None, None]).mul_(mask)
        variance = _channel_dot(centred, centred) / count
        inverse = torch.rsqrt(variance + eps)
        scale = inverse if weight is None else inverse * weight.to(wide.dtype)
        output = centred * scale[:, None, None]
        if bias is not None:
            output.add_(bias.to(wide.dtype)[:, None, None]).mul_(mask)
        ctx.save_for_backward(centred.to(x.dtype), mask, weight, inverse, count)
        ctx.input_dtype = x.dtype
        ctx.has_bias = bias is not None
        ctx.mark_non_differentiable(mean, variance, count)
        return output.to(x.dtype), mean, variance, count

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Any) -> tuple[Tensor | None, ...]:
        centred, mask, weight, inverse, count = ctx.saved_tensors
        grad = grad.to(mask.dtype) * mask
        centred = centred.to(mask.dtype)
        shift = _channel_sum(grad)
        product = grad * centred
        correlation = _channel_sum(product)
        grad_x = None
        if ctx.needs_input_grad[0]:
            scale = inverse if weight is None else inverse * weight.to(mask.dtype)
            slope = scale * inverse.square() * correlation / count
            offset = scale * shift / count
            # In place; on CPU addcmul is slower than the separate passes that it stands for.
            torch.mul(centred, slope[:, None, None], out=product)
            grad_x = grad.mul_(scale[:, None, None]).sub_(product).sub_(offset[:, None, None])
            grad_x = grad_x.mul_(mask).to(ctx.input_dtype)
        grad_weight = None if weight is None else (correlation * inverse).to(weight.dtype)
        grad_bias = shift if ctx.has_bias else None
        return grad_x, None, grad_weight, grad_bias, None


def _channel_sum(x: Tensor) -> Tensor:
    return x.sum(dim=(0, 2, 3))


def _channel_dot(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(dim=(0, 2, 3))
