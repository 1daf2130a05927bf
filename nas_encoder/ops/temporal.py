"""Depthwise convolution over time for frames as rows, (B, T, C), fast on CPUs.

PyTorch's ``conv1d`` wants the channels first, and from 15 taps on its CPU routine is up to 25 times
slower than that for images with the channels last, as which (B, T, C) can be read: one row of T
pixels. A dilated convolution is an undilated one on each of the interleaved parts of the frames.

The backward pass has the same fast form for the gradient of the input. That of the weight is fast
for columns instead of rows while all fits into a core's cache; else it is taken three taps at a
time. All this is for float32 on CPUs. Graphs captured there have the images, with PyTorch's own
backward pass; everything else uses ``conv1d``. ``benchmarks/residual_modules.py`` compares modules
that are made of it.

B batch, T frames, C channels, K taps.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import is_capturing, is_tracing

_TAPS = 3  # of one call for the weight's gradient
_IN_CACHE = 1 << 17  # elements
_HAS_MKLDNN = bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def depthwise_over_time(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, back: int | None = None, stride: int = 1
) -> Tensor:
    """Convolve each channel of (B, T, C) over time with its own taps; zeros lie outside.

    Args:
        x: (B, T, C).
        weight: (C, 1, K), the earliest frame first.
        bias: (C,).
        back: Taps before the current frame; None: half of them (K is odd).
        stride: Frames from one tap to the next. Every frame has a result all the same.

    Returns:
        (B, T, C).
    """
    taps = weight.size(2)
    back = taps // 2 if back is None else back
    if x.device.type == "cpu" and (x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")):
        # Not in bf16, in which PyTorch 2.13's convolutions over time are wrong on some processors.
        with torch.autocast("cpu", enabled=False):
            shift = None if bias is None else bias.float()
            y = depthwise_over_time(x.float(), weight.float(), shift, back, stride)
        return y.to(x.dtype)
    if not (_HAS_MKLDNN and x.device.type == "cpu" and x.dtype == weight.dtype == torch.float32):
        return _by_library(x, weight, bias, back, stride)
    if is_capturing():
        return _by_library(x, weight, bias, back, stride)
    if stride > 1 and taps > 1:
        return _interleaved(x, weight, bias, back, stride)
    return _rows(x.unsqueeze(1), weight, bias, back).squeeze(1)


def _by_library(x: Tensor, weight: Tensor, bias: Tensor | None, back: int, stride: int) -> Tensor:
    before, after = back * stride, (weight.size(2) - 1 - back) * stride
    signal, padding = x.transpose(1, 2), before
    if is_tracing() or before != after:  # sizes are tensors then, which nothing may depend on
        signal, padding = F.pad(signal, (before, after)), 0
    if x.device.type == "cpu" and is_capturing():  # ONNX Runtime, too, is fast for images only
        signal, kernel = signal.unsqueeze(2), weight.unsqueeze(2)
        image = F.conv2d(
            signal, kernel, bias, 1, (0, padding), dilation=(1, stride), groups=x.size(2)
        )
        return image.squeeze(2).transpose(1, 2)
    y = F.conv1d(signal, weight, bias, padding=padding, dilation=stride, groups=x.size(2))
    return y.transpose(1, 2)


def _interleaved(x: Tensor, weight: Tensor, bias: Tensor | None, back: int, stride: int) -> Tensor:
    batch, frames, channels = x.shape
    spare = -frames % stride
    parts = F.pad(x, (0, 0, 0, spare)).view(batch, -1, stride, channels).transpose(1, 2)
    y = _rows(parts.contiguous(), weight, bias, back).transpose(1, 2)
    return y.reshape(batch, frames + spare, channels)[:, :frames]


def _rows(x: Tensor, weight: Tensor, bias: Tensor | None, back: int) -> Tensor:
    """Convolve (B, R, T, C), R rows of each utterance, over T."""
    learning = x.requires_grad or weight.requires_grad
    if torch.is_grad_enabled() and learning:
        result: Tensor = _Rows.apply(x, weight, bias, back)  # type: ignore[no-untyped-call]
        return result
    return _convolve(x, weight, bias, back)


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None, back: int) -> Tensor:
    ahead, padding = weight.size(2) - 1 - back, back
    if back != ahead:
        x, padding = F.pad(x, (0, 0, back, ahead)), 0
    image = x.contiguous().permute(0, 3, 1, 2)  # (B, C, R, T), channels last
    kernel = weight.unsqueeze(2)
    return F.conv2d(image, kernel, bias, padding=(0, padding), groups=x.size(3)).permute(0, 2, 3, 1)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, back: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.back = back
        return _convolve(x, weight, bias, back)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        ahead = weight.size(2) - 1 - ctx.back
        grad = grad.contiguous()
        grad_x = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_x = _convolve(grad, weight.flip(2), None, ahead)
        if ctx.needs_input_grad[1]:
            grad_weight = _weight_gradient(x, grad, weight, ctx.back)
        if ctx.needs_input_grad[2]:
            grad_bias = grad.sum((0, 1, 2))
        return grad_x, grad_weight, grad_bias, None


def _weight_gradient(x: Tensor, grad: Tensor, weight: Tensor, back: int) -> Tensor:
    """Return the (C, 1, K) gradient from input and gradient of the output, (B, R, T, C)."""
    batch, rows, frames, channels = grad.shape
    taps = weight.size(2)
    if grad.numel() <= _IN_CACHE:
        ahead, padding = taps - 1 - back, back
        if back != ahead:
            x, padding = F.pad(x, (0, 0, back, ahead)), 0
        x, grad = x.flatten(0, 1).unsqueeze(2), grad.flatten(0, 1).unsqueeze(2)
        return _gradient(x, grad, weight.unsqueeze(3), padding).squeeze(3)
    wide = frames + taps - 1
    size = batch * rows * wide * channels
    # Zeros on both sides of each row, and a tail for the last windows.
    storage = x.new_zeros(size + taps * channels)
    padded = storage[:size].view(batch, rows, wide, channels)
    padded[:, :, back : back + frames].copy_(x)
    if taps < _TAPS:
        products = (padded[:, :, tap : tap + frames] * grad for tap in range(taps))
        return torch.stack([product.sum((0, 1, 2)) for product in products], 1).unsqueeze(1)
    # A window begins some frames later and ends in the next row, where the gradient is zero: so
    # it is contiguous, and the library does not copy it.
    grad = F.pad(grad, (0, 0, 0, taps - _TAPS))
    starts = [*range(0, taps - _TAPS, _TAPS), taps - _TAPS]  # the last may overlap
    parts = []
    for start, after in zip(starts, [*starts[1:], taps], strict=True):
        window = torch.as_strided(storage, padded.size(), padded.stride(), start * channels)
        part = _gradient(window, grad, weight[:, :, None, :_TAPS], 0)
        parts.append(part[:, :, 0, : after - start])
    return torch.cat(parts, 2)


def _gradient(x: Tensor, grad: Tensor, kernel: Tensor, padding: int) -> Tensor:
    """Return the gradient of a kernel (C, 1, H, W) from images (B, H', W', C), by the library."""
    found: Tensor = torch.ops.aten.convolution_backward(
        grad.permute(0, 3, 1, 2),
        x.permute(0, 3, 1, 2),
        kernel,
        None,
        [1, 1],
        [padding, 0],
        [1, 1],
        False,
        [0, 0],
        x.size(3),
        [False, True, False],
    )[1]
    return found
