"""Convolutions with the ReLU before and the batch norm after them, in one step of autograd.

In training on a CPU autograd keeps a map for each of ReLU, both convolutions and batch norm. Here
the input is kept, which the edges of a state share, and ReLU is repeated in the backward pass.
Channels are last, so that a pointwise convolution is a matrix product, and what follows the last
convolution over time sees only the frames of utterances: there padding costs nothing. Results are
those of the modules; ``benchmarks/training_step.py`` measures the step.

B batch, C channels, D output channels, T frames, F frequency bins, s stride; maps are (B, T, F, C)
inside; N valid positions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn.modules import module as modules

from nas_encoder.ops.depthwise import (
    INPUT,
    WEIGHT,
    DepthwiseConv2d,
    depthwise_input_gradient,
    depthwise_weight_gradient,
)
from nas_encoder.ops.masking import is_capturing, is_recomputing
from nas_encoder.ops.norm import MaskedBatchNorm2d

_MOST = 1 << 17  # elements of a map at a time
FEWEST_CHANNELS = 24  # with fewer and without padding the modules are up to 15 % faster
_KNOWN = (nn.Conv2d, DepthwiseConv2d, MaskedBatchNorm2d)


def can_fuse(
    x: Tensor, mask: Tensor | None, norm: MaskedBatchNorm2d, *convolutions: nn.Module
) -> bool:
    """Whether the functions below do what these modules would, as fast: in training, on a CPU.

    Not if a module has been replaced or has hooks, which would not run, nor with biases.
    """
    return (
        trains_on_cpu(x)
        and (mask is not None or norm.num_features >= FEWEST_CHANNELS)
        and norm.training
        and norm.group() is None
        and all(type(own) in _KNOWN and not has_hooks(own) for own in (norm, *convolutions))
        and all(own.weight.dtype == x.dtype and own.bias is None for own in convolutions)
    )


def trains_on_cpu(x: Tensor) -> bool:
    """Whether ``x`` goes through a training step on a CPU in one precision, run eagerly."""
    return (
        not is_capturing()
        and x.device.type == "cpu"
        and x.dtype in (torch.float32, torch.float64)
        and torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
    )


def has_hooks(module: nn.Module) -> bool:
    """Whether calling a module runs anything but its class's ``forward``."""
    return bool(
        module._forward_hooks
        or module._forward_pre_hooks
        or module._backward_hooks
        or module._backward_pre_hooks
        or "forward" in vars(module)  # as some libraries wrap it
        or modules._has_any_global_hook()  # type: ignore[no-untyped-call]
    )


def pointwise_norm(
    x: Tensor,
    pointwise: nn.Conv2d,
    norm: MaskedBatchNorm2d,
    mask: Tensor | None,
    depthwise: DepthwiseConv2d | None = None,
) -> Tensor:
    """ReLU, depthwise convolution if given, 1x1 convolution, batch norm.

    Args:
        x: (B, C, T, F), zero in padding frames.
        pointwise: From C to D channels, without bias and stride.
        norm: In training mode; its running statistics move.
        mask: (B, 1, ceil(T / s), 1), of the output; None if no utterance is padded.
        depthwise: Centred, of stride s.

    Returns:
        (B, D, ceil(T / s), ceil(F / s)), zero in padding frames.
    """
    own = pointwise.weight, norm.weight, norm.bias
    output: Tensor
    if depthwise is None:
        output = _PointwiseNorm.apply(x, *own, _Norm(norm, mask))  # type: ignore[no-untyped-call]
    else:
        geometry = depthwise.stride[0], depthwise.dilation[0]
        output = _SeparableNorm.apply(  # type: ignore[no-untyped-call]
            x, depthwise.weight, *own, geometry, _Norm(norm, mask)
        )
    return output


def pair_norm(
    x: Tensor, first: nn.Conv2d, second: nn.Conv2d, norm: MaskedBatchNorm2d, mask: Tensor | None
) -> Tensor:
    """ReLU, a 1xK convolution, a Kx1 convolution, batch norm; as :func:`pointwise_norm`."""
    geometry = (first.stride, first.padding), (second.stride, second.padding)
    output: Tensor = _PairNorm.apply(  # type: ignore[no-untyped-call]
        x, first.weight, second.weight, norm.weight, norm.bias, geometry, _Norm(norm, mask)
    )
    return output


class _Norm:
    """The batch norm of a function: it sees only the valid positions, (N, D)."""

    def __init__(self, module: MaskedBatchNorm2d, mask: Tensor | None) -> None:
        self.module = module
        self.size: tuple[int, ...] = ()
        self.valid = None if mask is None else mask.reshape(-1).nonzero().squeeze(1)

    def packed(self, x: Tensor) -> Tensor:
        """Return the valid positions (N, C) of (B, T, F, C)."""
        channels = x.size(3)
        if self.valid is not None:
            x = x.reshape(-1, x.size(2) * channels).index_select(0, self.valid)
        return x.reshape(-1, channels)

    def unpacked(self, x: Tensor) -> Tensor:
        """Return (B, T, F, C), zero in padding frames, of (N, C)."""
        if self.valid is None:
            return x.view(*self.size, x.size(1))
        batch, frames, bins = self.size
        whole = x.new_zeros(batch * frames, bins * x.size(1))
        whole.index_copy_(0, self.valid, x.view(-1, whole.size(1)))
        return whole.view(*self.size, x.size(1))

    def forward(
        self, y: Tensor, weight: Tensor | None, bias: Tensor | None, size: Any
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the normalized (B, T, F, D), of the given size, and what :meth:`backward` needs.

        The running statistics move.
        """
        self.size = tuple(size)
        norm = self.module
        mean, variance, rate = norm.running_mean, norm.running_var, norm.momentum
        if not norm.track_running_stats or is_recomputing():
            mean = variance = None
        elif norm.num_batches_tracked is not None:
            norm.num_batches_tracked.add_(1)
            rate = 1.0 / float(norm.num_batches_tracked) if rate is None else rate
            # A single value says nothing about the variance.
            variance = variance if y.size(0) > 1 or variance is None else variance.clone()
        output, *found = torch.ops.aten.native_batch_norm(
            y, weight, bias, mean, variance, True, rate or 0.0, norm.eps
        )
        return self.unpacked(output), found[0], found[1]

    def backward(
        self, grad: Tensor, y: Tensor, weight: Tensor | None, mean: Tensor, inverse: Tensor
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the gradients of y (N, D), the scale and the shift."""
        grad = self.packed(grad.permute(0, 2, 3, 1))
        of_y, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            grad, y, weight, None, None, mean, inverse, True, self.module.eps, [True] * 3
        )
        if weight is None:
            of_weight = of_bias = None
        return of_y, of_weight, of_bias


def _last(x: Tensor) -> Tensor:
    return x.permute(0, 2, 3, 1).contiguous()


def _first(x: Tensor) -> Tensor:
    return x.permute(0, 3, 1, 2)


def _where_positive(grad: Tensor, x: Tensor) -> Tensor:
    """Set (B, C, T, F) to zero where ReLU of ``x`` (B, T, F, C) is, in place.

    A new tensor rather than a view of one: to such autograd adds other gradients in place.
    """
    if not grad.is_contiguous(memory_format=torch.channels_last):
        grad = grad.contiguous(memory_format=torch.channels_last)
    x = _first(x)
    return torch.ops.aten.threshold_backward.grad_input(grad, x, 0, grad_input=grad)  # type: ignore[no-any-return]


class _Rows:
    """Frames of (B, T, F, C), a part after the other, in the memory of a core's cache."""

    def __init__(self, x: Tensor, norm: _Norm) -> None:
        self.x, self.valid = x.view(-1, x.size(2) * x.size(3)), norm.valid
        self.channels, self.bins = x.size(3), x.size(2)
        self.count = self.x.size(0) if self.valid is None else self.valid.numel()

    def parts(self) -> Iterator[tuple[slice, slice, Tensor]]:
        """Yield the places of frames and of positions, and what is there, (n, C)."""
        step = max(1, _MOST // self.x.size(1))
        for first in range(0, self.count, step):
            own = slice(first, min(first + step, self.count))
            x = self.x[own] if self.valid is None else self.x.index_select(0, self.valid[own])
            yield own, slice(own.start * self.bins, own.stop * self.bins), x.view(-1, self.channels)


class _PointwiseNorm(torch.autograd.Function):
    """Without a convolution before it: of many channels, so ReLU's output never exists whole."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        pointwise: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        norm: _Norm,
    ) -> Tensor:
        x = _last(x)
        rows = _Rows(x, norm)
        y = x.new_empty(rows.count * rows.bins, pointwise.size(0))
        for _, places, own in rows.parts():
            torch.mm(torch.relu(own), pointwise.flatten(1).t(), out=y[places])
        output, *statistics = norm.forward(y, weight, bias, x.shape[:3])
        ctx.save_for_backward(x, y, pointwise, weight, *statistics)
        ctx.norm = norm
        return _first(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, y, pointwise, weight, *statistics = ctx.saved_tensors
        norm: _Norm = ctx.norm
        of_y, of_weight, of_bias = norm.backward(grad, y, weight, *statistics)
        of_x = of_pointwise = within = None
        if ctx.needs_input_grad[0]:
            of_x = (
                torch.empty_like(_first(x)) if norm.valid is None else torch.zeros_like(_first(x))
            )
            within = of_x.permute(0, 2, 3, 1).view(-1, x.size(2) * x.size(3))
        if ctx.needs_input_grad[1]:
            of_pointwise = x.new_zeros(pointwise.shape)
        for frames, places, own in _Rows(x, norm).parts():
            slope = of_y[places]
            if of_pointwise is not None:
                of_pointwise.view(pointwise.shape[:2]).addmm_(slope.t(), torch.relu(own))
            if within is None:
                continue
            if norm.valid is None:
                found = within[frames].view_as(own)
                torch.mm(slope, pointwise.flatten(1), out=found)
            else:
                found = slope @ pointwise.flatten(1)
            torch.ops.aten.threshold_backward.grad_input(found, own, 0, grad_input=found)
            if norm.valid is not None:
                within.index_copy_(0, norm.valid[frames], found.view(-1, within.size(1)))
        return of_x, of_pointwise, of_weight, of_bias, None


class _SeparableNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        kernel: Tensor,
        pointwise: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        geometry: tuple[int, int],
        norm: _Norm,
    ) -> Tensor:
        x = _last(x)
        stride, dilation = geometry
        padding = dilation * (kernel.size(2) // 2)
        given = _first(torch.relu(x))
        inner = _last(F.conv2d(given, kernel, None, stride, padding, dilation, x.size(3)))
        size = inner.shape[:3]
        inner = norm.packed(inner)
        y = inner @ pointwise.flatten(1).t()
        output, *statistics = norm.forward(y, weight, bias, size)
        ctx.save_for_backward(x, inner, y, kernel, pointwise, weight, *statistics)
        ctx.geometry, ctx.norm = geometry, norm
        return _first(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, y, kernel, pointwise, weight, *statistics = ctx.saved_tensors
        norm: _Norm = ctx.norm
        of_y, of_weight, of_bias = norm.backward(grad, y, weight, *statistics)
        of_x = of_kernel = of_pointwise = None
        if ctx.needs_input_grad[2]:
            of_pointwise = (of_y.t() @ inner).view_as(pointwise)
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            given, own = _first(torch.relu(x)), _first(norm.unpacked(of_y @ pointwise.flatten(1)))
            if ctx.needs_input_grad[1]:
                of_kernel = depthwise_weight_gradient(given, kernel, own, *ctx.geometry)
            if ctx.needs_input_grad[0]:
                of_x = depthwise_input_gradient(given, kernel, own, *ctx.geometry)
                of_x = _where_positive(of_x, x)
        return of_x, of_kernel, of_pointwise, of_weight, of_bias, None, None


class _PairNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        first: Tensor,
        second: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        geometry: Any,
        norm: _Norm,
    ) -> Tensor:
        x = _last(x)
        inner = _last(F.conv2d(_first(torch.relu(x)), first, None, *geometry[0]))
        y = _last(F.conv2d(_first(inner), second, None, *geometry[1]))
        size = y.shape[:3]
        y = norm.packed(y)
        output, *statistics = norm.forward(y, weight, bias, size)
        ctx.save_for_backward(x, inner, y, first, second, weight, *statistics)
        ctx.geometry, ctx.norm = geometry, norm
        return _first(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, inner, y, first, second, weight, *statistics = ctx.saved_tensors
        of_y, of_weight, of_bias = ctx.norm.backward(grad, y, weight, *statistics)
        of_y = ctx.norm.unpacked(of_y)
        of_x = of_first = of_second = None
        if ctx.needs_input_grad[2]:
            of_second = _column_gradient(of_y, inner, second, ctx.geometry[1])
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            of_inner = _last(_gradient(of_y, inner, second, ctx.geometry[1], INPUT))
            rectified = torch.relu(x)
            if ctx.needs_input_grad[1]:
                of_first = _gradient(of_inner, rectified, first, ctx.geometry[0], WEIGHT)
            if ctx.needs_input_grad[0]:
                of_x = _gradient(of_inner, rectified, first, ctx.geometry[0], INPUT)
                of_x = _where_positive(of_x, x)
        return of_x, of_first, of_second, of_weight, of_bias, None, None


def _gradient(grad: Tensor, x: Tensor, kernel: Tensor, geometry: Any, wanted: int) -> Tensor:
    """Return PyTorch's gradient of the input, (B, C, T, F), or of the kernel.

    ``grad`` and ``x`` have the channels last; ``geometry`` are stride and padding.
    """
    found: Tensor = torch.ops.aten.convolution_backward(
        _first(grad),
        _first(x),
        kernel,
        None,
        *geometry,
        [1, 1],
        False,
        [0, 0],
        1,
        [wanted == INPUT, wanted == WEIGHT, False],
    )[wanted]
    return found


def _column_gradient(grad: Tensor, x: Tensor, kernel: Tensor, geometry: Any) -> Tensor:
    """Return the gradient of a kernel over time, as that of one over frequency.

    With the channels last PyTorch is slower for columns of taps than for rows, by more than it
    takes to transpose.
    """
    grad, x = grad.transpose(1, 2).contiguous(), x.transpose(1, 2).contiguous()
    stride, padding = geometry
    turned = kernel.transpose(2, 3)
    found = _gradient(grad, x, turned, (stride[::-1], padding[::-1]), WEIGHT)
    return found.transpose(2, 3)
