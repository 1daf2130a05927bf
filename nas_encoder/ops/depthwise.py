"""Depthwise 2-D convolution with a fast backward pass on CPUs.

PyTorch's own backward of a depthwise convolution is most of a cell network's training time on a
CPU (kernels of 5 and dilated ones above all). Both gradients are convolutions again, and the
library's *forward* convolution is fast:

- of the input, at stride 1: the gradient convolved with the flipped kernel;
- of the weight: each channel's input convolved with its gradient as the kernel, in which stride
  and dilation change places.

``benchmarks/depthwise.py`` measures where this pays. Elsewhere (plain 3x3 kernels, undilated ones
in channels_last, CUDA, float64, bf16, graphs being captured) the library's own backward is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import is_capturing

_HAS_MKLDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def depthwise_conv2d(x: Tensor, weight: Tensor, stride: int, dilation: int) -> Tensor:
    """Convolve each channel with its own odd kernel, (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)).

    Args:
        x: (B, C, T, F).
        weight: (C, 1, K, K), K odd; zero-padded such that stride 1 keeps the size.
        stride: s.
        dilation: Of the kernel.
    """
    padding = dilation * (weight.size(2) // 2)
    if _is_fast(x, weight) and _pays(x, weight, dilation):
        result: Tensor = _Depthwise.apply(  # type: ignore[no-untyped-call]
            x, weight, stride, padding, dilation
        )
        return result
    return F.conv2d(x, weight, None, stride, padding, dilation, groups=x.size(1))


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one group a channel, no bias and the fast backward pass."""

    def __init__(self, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__(
            channels,
            channels,
            kernel,
            stride=stride,
            padding=dilation * (kernel // 2),
            dilation=dilation,
            groups=channels,
            bias=False,
        )

    def forward(self, input: Tensor) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s))."""
        return depthwise_conv2d(input, self.weight, self.stride[0], self.dilation[0])


def _is_fast(x: Tensor, weight: Tensor) -> bool:
    return (
        not is_capturing()
        and x.device.type == "cpu"
        and x.dtype == weight.dtype == torch.float32
        and torch.is_grad_enabled()
        and (x.requires_grad or weight.requires_grad)
        and not torch.is_autocast_enabled("cpu")
        and _HAS_MKLDNN
    )


def _pays(x: Tensor, weight: Tensor, dilation: int) -> bool:
    """Whether the own backward is the faster one, as ``benchmarks/depthwise.py`` measures it."""
    if x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous():
        return dilation > 1
    return weight.size(2) > 3 or dilation > 1


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation
        return F.conv2d(x, weight, None, stride, padding, dilation, groups=x.size(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation = ctx.geometry
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = _input_gradient(x, weight, grad, stride, padding, dilation)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, weight, grad, stride, padding, dilation)
        return grad_x, grad_weight, None, None, None


def _input_gradient(
    x: Tensor, weight: Tensor, grad: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    channels = x.size(1)
    if stride == 1:
        flipped = weight.flip(2, 3)
        return F.conv2d(grad, flipped, None, 1, padding, dilation, groups=channels)
    gradients = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        [stride, stride],
        [padding, padding],
        [dilation, dilation],
        False,
        [0, 0],
        channels,
        [True, False, False],
    )
    result: Tensor = gradients[0]
    return result


def _weight_gradient(
    x: Tensor, weight: Tensor, grad: Tensor, stride: int, padding: int, dilation: int
) -> Tensor:
    batch, channels, frames, bins = x.shape
    maps = batch * channels
    # One group for each utterance and channel: (1, BC, T, F) with kernels (BC, 1, T', F').
    product = F.conv2d(
        x.reshape(1, maps, frames, bins),
        grad.reshape(maps, 1, grad.size(2), grad.size(3)),
        None,
        stride=dilation,
        padding=padding,
        dilation=stride,
        groups=maps,
    )
    size = weight.size(2)  # at stride 2 and an even size, one row and column more come out
    product = product[0, :, :size, :size].reshape(batch, channels, size, size)
    return product.sum(0)[:, None]
