"""Batch normalization over the utterances' frames only, never over padding."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, distributed, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import apply_mask, is_recomputing, is_tracing


class MaskedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` for padded batches, with the same parameters and buffers.

    With a mask, mean and variance are taken over valid frames only, in training too, and the
    result is zero in padding frames. Without one it *is* ``nn.BatchNorm2d``. Statistics are
    accumulated in at least float32.
    """

    def forward(
        self, input: Tensor, mask: Tensor | None = None, scale: Tensor | None = None
    ) -> Tensor:
        """Normalize (B, C, T, F) under the mask (B, 1, T, 1).

        Uses batch statistics in training mode, else the running ones. ``scale`` (C,), which gets
        a gradient, replaces the weight of a layer without trainable scale and shift.
        """
        self._check_input_dim(input)
        weight = self.weight if scale is None else scale
        if not self.training and self.running_mean is not None:
            return apply_mask(self._unmasked(input, weight, move=False), mask)
        move = self.training and self.track_running_stats and not is_recomputing()
        group = self.group()
        if mask is None and (group is not None or input.numel() == input.size(1)):
            # nn.BatchNorm2d refuses a single value per channel, but accepts it next to padding; a
            # training must not crash on its shortest utterance.
            mask = torch.ones_like(input[:, :1, :, :1])
        if mask is None:
            return self._unmasked(input, weight, move)
        output, mean, variance, count = _MaskedNormalize.apply(  # type: ignore[no-untyped-call]
            input, mask, weight, self.bias, float(self.eps), group
        )
        if move:
            self._move_running_statistics(mean, variance, count)
        return output  # type: ignore[no-any-return]

    def group(self) -> Any:
        """Return the processes whose batches count as one in training; None for this one only."""
        return None

    def _unmasked(self, input: Tensor, weight: Tensor | None, move: bool) -> Tensor:
        """Normalize all frames; update running statistics only in training and if ``move``."""
        mean, variance, rate = self.running_mean, self.running_var, self.momentum
        if move:
            assert self.num_batches_tracked is not None
            self.num_batches_tracked.add_(1)
            rate = 1.0 / float(self.num_batches_tracked) if rate is None else rate
        elif self.training and mean is not None and variance is not None:
            # Copies instead of None: a checkpoint's second pass must save as many tensors for
            # its backward pass as the first did.
            mean, variance = mean.clone(), variance.clone()
        # PyTorch's CPU backward (2.13 too) reads the incoming gradient in the wrong order if the
        # last size is 1 and memory layouts differ; with three axes it is correct.
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


class SyncMaskedBatchNorm2d(MaskedBatchNorm2d):
    """MaskedBatchNorm2d with training statistics over all processes' batches.

    The counterpart of ``nn.SyncBatchNorm``, but it runs on CPU too. As there, the gradients of
    scale and shift are those of the local batch, and data-parallel training averages them.
    """

    process_group: Any = None  # of torch.distributed; None: all processes

    @classmethod
    def in_place_of(cls, layer: nn.SyncBatchNorm | MaskedBatchNorm2d) -> SyncMaskedBatchNorm2d:
        """Return a layer that shares parameters, buffers and settings with ``layer``."""
        own = cls(layer.num_features)
        for name in ("eps", "momentum", "affine", "track_running_stats"):
            setattr(own, name, getattr(layer, name))
        for name in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked"):
            setattr(own, name, getattr(layer, name))
        own.process_group = getattr(layer, "process_group", None)
        return own.train(layer.training)

    def group(self) -> Any:
        """Return the participating processes, in training under ``torch.distributed``."""
        if not (self.training and distributed.is_available() and distributed.is_initialized()):
            return None
        group = self.process_group or distributed.group.WORLD
        return group if distributed.get_world_size(group) > 1 else None


def restore_masked(module: nn.Module, names: Iterable[str]) -> None:
    """Undo ``nn.SyncBatchNorm.convert_sync_batchnorm`` for a module's masked batch norms, in place.

    ``names`` are those of its masked batch norms, which are synchronized afterwards.
    """
    for name in names:
        parent, _, own = name.rpartition(".")
        layer = module.get_submodule(name)
        if isinstance(layer, nn.SyncBatchNorm):
            masked = SyncMaskedBatchNorm2d.in_place_of(layer)
            setattr(module.get_submodule(parent), own, masked)


class _MaskedNormalize(torch.autograd.Function):
    """The normalized (B, C, T, F) and the mean, variance (C,) and count () used for it.

    Closed-form forward and backward: one saved activation, few passes over memory.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        mask: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        group: Any,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        mask = mask.to(wide.dtype)
        total, count = over_processes(group, _channel_sum(wide * mask), mask.sum() * x.size(3))
        mean = total / count
        # An all-padding rest of the batch adds exact zeros to the sums below.
        centred = wide.sub(mean[:, None, None]).mul_(mask)
        (squares,) = over_processes(group, _channel_sum(centred * centred))
        variance = squares / count
        inverse = torch.rsqrt(variance + eps)
        scale = inverse if weight is None else inverse * weight.to(wide.dtype)
        output = centred * scale[:, None, None]
        if bias is not None:
            output.add_(bias.to(wide.dtype)[:, None, None]).mul_(mask)
        ctx.save_for_backward(centred.to(x.dtype), mask, weight, inverse, count)
        ctx.input_dtype = x.dtype
        ctx.has_bias = bias is not None
        ctx.group = group
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
        grad_weight = None if weight is None else (correlation * inverse).to(weight.dtype)
        grad_bias = shift if ctx.has_bias else None
        shift, correlation = over_processes(ctx.group, shift, correlation)
        grad_x = None
        if ctx.needs_input_grad[0]:
            scale = inverse if weight is None else inverse * weight.to(mask.dtype)
            slope = scale * inverse.square() * correlation / count
            offset = scale * shift / count
            # In place; on CPU addcmul is slower than the separate passes it replaces.
            torch.mul(centred, slope[:, None, None], out=product)
            grad_x = grad.mul_(scale[:, None, None]).sub_(product).sub_(offset[:, None, None])
            grad_x = grad_x.mul_(mask).to(ctx.input_dtype)
        return grad_x, None, grad_weight, grad_bias, None, None


def over_processes(group: Any, *sums: Tensor) -> tuple[Tensor, ...]:
    """Sum each tensor over the processes of a group, in one message."""
    if group is None:
        return sums
    flat = torch.cat([part.reshape(-1) for part in sums])
    distributed.all_reduce(flat, group=group)
    parts = torch.split(flat, [part.numel() for part in sums])
    return tuple(part.view_as(own) for part, own in zip(parts, sums, strict=True))


def _channel_sum(x: Tensor) -> Tensor:
    return x.sum(dim=(0, 2, 3))
