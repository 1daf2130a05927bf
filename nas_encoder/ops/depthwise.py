"""Depthwise 2-D convolution with a fast backward pass on CPUs.

PyTorch's backward of a depthwise convolution takes most of a cell network's training time on a
CPU (above all for kernels of 5 and dilated ones). Both gradients are convolutions themselves, for
which the library has fast routines if asked in the right form:

- of the input, at stride 1: the gradient convolved with the flipped kernel;
- of the weight, channels last: the library is fast up to 3 columns of taps without dilation. A
  dilated convolution is an undilated one on every second row and column; a kernel of 5 columns is
  two of 3, one column to the left and one to the right; one of stride 2 is four of 3;
- of the weight, channels first: each channel's input convolved with its gradient as the kernel,
  with stride and dilation exchanged.

``benchmarks/depthwise.py`` measures where this pays. Elsewhere (plain 3x3 kernels, CUDA, float64,
bf16, graphs being captured) PyTorch's own backward is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import is_capturing

INPUT, WEIGHT = 0, 1  # places among the inputs of a convolution
_HAS_MKLDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def depthwise_conv2d(
    x: Tensor, weight: Tensor, stride: int, dilation: int, delay: int = 0
) -> Tensor:
    """Convolve each channel with its own odd kernel, (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)).

    Args:
        x: (B, C, T, F).
        weight: (C, 1, K, K), K odd; zero padding keeps the size at stride 1.
        stride: s, in time and frequency.
        dilation: In time and frequency.
        delay: Frames that the kernel lies further back than if it were centred, at most half of it.
    """
    # Where the custom backward is faster, as measured by benchmarks/depthwise.py.
    if _is_fast(x, weight) and (weight.size(2) > 3 or dilation > 1):
        result: Tensor = _Depthwise.apply(x, weight, stride, dilation, delay)  # type: ignore[no-untyped-call]
        return result
    return _convolve(x, weight, stride, dilation, delay)


class DepthwiseConv2d(nn.Conv2d):
    """``nn.Conv2d`` with one group per channel, no bias and the fast backward pass."""

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

    def forward(self, input: Tensor, delay: int = 0) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :func:`depthwise_conv2d`."""
        return depthwise_conv2d(input, self.weight, self.stride[0], self.dilation[0], delay)


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


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last) and not x.is_contiguous()


def _convolve(x: Tensor, weight: Tensor, stride: int, dilation: int, delay: int = 0) -> Tensor:
    over_time = padding = dilation * (weight.size(2) // 2)
    if delay:
        x, over_time = F.pad(x, (0, 0, padding + delay, padding - delay)), 0
    return F.conv2d(x, weight, None, stride, (over_time, padding), dilation, x.size(1))


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, stride: int, dilation: int, delay: int
    ) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, dilation
        ctx.delay = delay
        return _convolve(x, weight, stride, dilation, delay)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, dilation = ctx.geometry
        delay = ctx.delay
        if delay:  # a centred kernel over later frames, the last of which have no gradient
            x = F.pad(x, (0, 0, delay, 0))
            grad = F.pad(grad, (0, 0, 0, -(-x.size(2) // stride) - grad.size(2)))
        grad_x = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_x = depthwise_input_gradient(x, weight, grad, stride, dilation)
            grad_x = grad_x[:, :, delay:] if delay else grad_x
        if ctx.needs_input_grad[1]:
            grad_weight = depthwise_weight_gradient(x, weight, grad, stride, dilation)
        return grad_x, grad_weight, None, None, None


def depthwise_input_gradient(
    x: Tensor, weight: Tensor, grad: Tensor, stride: int, dilation: int
) -> Tensor:
    """Return the gradient of :func:`depthwise_conv2d`'s input, shaped as ``x``."""
    if stride == 1:
        return _convolve(grad, weight.flip(2, 3), 1, dilation)
    if stride == dilation == 2:  # see depthwise_weight_gradient
        result = torch.zeros_like(x)
        result[:, :, ::2, ::2] = _convolve(grad, weight.flip(2, 3), 1, 1)
        return result
    return _library(x, weight, grad, stride, dilation, wanted=INPUT)


def depthwise_weight_gradient(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    stride: int,
    dilation: int,
    prepared: dict[tuple[bool, ...], Tensor] | None = None,
) -> Tensor:
    """Return the gradient of :func:`depthwise_conv2d`'s weight (C, 1, K, K).

    The input ``x`` is (B, C, T, F), the output's gradient ``grad`` (B, C, ceil(T/s), ceil(F/s)).
    ``prepared`` caches rearranged forms of ``x`` between kernels; start with an empty one.
    """
    if not _is_channels_last(grad) and grad.dtype == torch.float32:
        return _by_convolution(x, weight, grad, stride, dilation)
    # On a grid of every second row and column, a dilated kernel reads just what a further stride
    # of 2 leaves.
    thin = stride == dilation == 2
    if stride == 2 and dilation == 1 and weight.size(3) == 5:
        return _from_parities(x, weight, grad, prepared)
    wide = weight.size(3) == 5 and (stride == 1 or thin)
    phases = dilation == 2 and not thin
    if thin or phases or wide:
        prepared = {} if prepared is None else prepared
        key = (thin, phases, wide)
        if key not in prepared:
            last = x[:, :, ::2, ::2] if thin else x
            prepared[key] = _arranged(last, phases, wide)
        x, grad = prepared[key], _arranged(grad, phases, wide)
    if wide:
        return _from_two_windows(x, weight, grad)
    left = 1 if thin or phases else stride
    return _library(x, weight, grad, left, 1, wanted=WEIGHT)


def _arranged(x: Tensor, phases: bool, wide: bool) -> Tensor:
    if phases:
        return _phases(x, wide)
    return _framed(x) if wide else x.contiguous(memory_format=torch.channels_last)


def _library(
    x: Tensor,
    weight: Tensor,
    grad: Tensor,
    stride: int,
    dilation: int,
    wanted: int,
    padding: tuple[int, int] | None = None,
) -> Tensor:
    """Return PyTorch's own gradient of one of the inputs."""
    same = dilation * (weight.size(2) // 2)
    result: Tensor = torch.ops.aten.convolution_backward(
        grad,
        x,
        weight,
        None,
        [stride, stride],
        [same, same] if padding is None else list(padding),
        [dilation, dilation],
        False,
        [0, 0],
        x.size(1),
        [wanted == INPUT, wanted == WEIGHT, False],
    )[wanted]
    return result


_EDGE = 2  # columns of zeros on either side of a frame


def _blank(x: Tensor, parts: int, frames: int, bins: int, wide: bool) -> Tensor:
    """Return zeros (parts, B, frames, bins, C), framed and with a spare pixel at both ends."""
    channels = x.size(1)
    bins += 2 * _EDGE if wide else 0
    size = parts * x.size(0) * frames * bins * channels
    storage = x.new_zeros(size + 2 * channels)
    return storage[channels : channels + size].view(parts, x.size(0), frames, bins, channels)


def _framed(x: Tensor) -> Tensor:
    """Return (B, C, T, F + 4), channels last: two zero columns on either side."""
    frame = _blank(x, 1, x.size(2), x.size(3), True)
    frame[0, :, :, _EDGE:-_EDGE].copy_(x.permute(0, 2, 3, 1))
    return frame[0].permute(0, 3, 1, 2)


def _phases(x: Tensor, wide: bool) -> Tensor:
    """Return the rows and columns of each parity, (4B, C, ceil(T/2), ceil(F/2)), channels last.

    With ``wide`` they are framed as by :func:`_framed`.
    """
    last = x.permute(0, 2, 3, 1)
    left = _EDGE if wide else 0
    frame = _blank(x, 4, -(-x.size(2) // 2), -(-x.size(3) // 2), wide)
    for phase in range(4):
        part = last[:, phase // 2 :: 2, phase % 2 :: 2]
        frame[phase, :, : part.size(1), left : left + part.size(2)].copy_(part)
    return frame.flatten(0, 1).permute(0, 3, 1, 2)


def _from_two_windows(x: Tensor, weight: Tensor, grad: Tensor) -> Tensor:
    """Return the gradient of a 5x5 kernel from framed maps, as two of 5x3.

    Shifting ``x`` by a column only shifts its first element: values that then come from a
    neighbouring row meet the zeros that frame ``grad``.
    """
    window = weight[:, :, :, :3]
    left, right = (
        _library(
            torch.as_strided(x, x.size(), x.stride(), x.storage_offset() + step * x.size(1)),
            window,
            grad,
            1,
            1,
            wanted=WEIGHT,
            padding=(2, 1),
        )
        for step in (-1, 1)
    )
    return torch.cat([left, right[:, :, :, 1:]], dim=3)


def _from_parities(
    x: Tensor, weight: Tensor, grad: Tensor, prepared: dict[tuple[bool, ...], Tensor] | None
) -> Tensor:
    """Return the gradient of a 5x5 kernel of stride 2, as four of 3x3 without a stride.

    Every second tap, over time and frequency, sees positions of one parity.
    """
    prepared = {} if prepared is None else prepared
    if () not in prepared:
        prepared[()] = _phases(x, False)
    result = torch.empty_like(weight)
    for phase, part in enumerate(prepared[()].chunk(4)):
        own = result[:, :, phase // 2 :: 2, phase % 2 :: 2]
        found = _library(part, weight[:, :, :3, :3], grad, 1, 1, wanted=WEIGHT)
        own.copy_(found[:, :, : own.size(2), : own.size(3)])
    return result


def _by_convolution(x: Tensor, weight: Tensor, grad: Tensor, stride: int, dilation: int) -> Tensor:
    batch, channels, frames, bins = x.shape
    maps = batch * channels
    # One group for each utterance and channel: (1, BC, T, F) with kernels (BC, 1, T', F').
    product = F.conv2d(
        x.reshape(1, maps, frames, bins),
        grad.reshape(maps, 1, grad.size(2), grad.size(3)),
        None,
        stride=dilation,
        padding=dilation * (weight.size(2) // 2),
        dilation=stride,
        groups=maps,
    )
    size = weight.size(2)  # at stride 2 and an even size, one row and column more come out
    product = product[0, :, :size, :size].reshape(batch, channels, size, size)
    return product.sum(0)[:, None]
