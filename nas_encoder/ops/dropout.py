"""Dropout whose random numbers are cheap on CPUs.

PyTorch draws a number of the Mersenne twister for each element, which takes most of the time of a
dropout on a CPU and a third of that of a feed-forward module's training step. Here each element
takes 16 random bits, four of a number.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import is_capturing

_LEVELS = 1 << 16


def dropout(x: Tensor, rate: float, training: bool) -> Tensor:
    """Set a random part of the elements to zero and scale the others up, so that the mean stays.

    Args:
        x: Any shape.
        rate: Probability of zero, at least 0 and below 1; on CPUs rounded to a multiple of 2^-16.
        training: Whether to do anything.
    """
    if not training or rate == 0.0:
        return x
    if x.device.type != "cpu" or is_capturing():
        return F.dropout(x, rate, True)
    result: Tensor = _Dropout.apply(x, rate)  # type: ignore[no-untyped-call]
    return result


def add_dropped(x: Tensor, y: Tensor, rate: float, training: bool, step: float) -> Tensor:
    """Return ``x + step * dropout(y, rate, training)``, with bytes kept for the backward pass."""
    if (
        training
        and 0.0 < rate < 1.0
        and x.device.type == "cpu"
        and x.dtype == y.dtype
        and x.shape == y.shape
        and not is_capturing()
    ):
        result: Tensor = _AddDropped.apply(x, y, rate, step)  # type: ignore[no-untyped-call]
        return result
    y = dropout(y, rate, training)
    return x + y if step == 1.0 else torch.add(x, y, alpha=step)


class Dropout(nn.Dropout):
    """``nn.Dropout`` by :func:`dropout`."""

    def forward(self, input: Tensor) -> Tensor:
        """Return what :func:`dropout` does, of the same shape."""
        return dropout(input, self.p, self.training)


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rate: float) -> Tensor:
        factor = dropout_factor(x, rate)
        ctx.save_for_backward(factor)
        return x * factor

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return grad * factor, None


class _AddDropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, y: Tensor, rate: float, step: float) -> Tensor:
        kept = torch.empty(y.shape, dtype=torch.uint8, device=y.device)
        ctx.scale = step * draw_kept(kept, rate)
        ctx.save_for_backward(kept)
        return torch.addcmul(x, y, kept.to(y.dtype), value=ctx.scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (kept,) = ctx.saved_tensors
        of_y = None
        if ctx.needs_input_grad[1]:
            of_y = kept.to(grad.dtype).mul_(grad).mul_(ctx.scale)
        return grad, of_y, None, None


def dropout_factor(x: Tensor, rate: float) -> Tensor:
    """Return what :func:`dropout` multiplies the elements of ``x`` on a CPU by, at random."""
    bits, least, scale = _drawn(x, rate)
    factor = torch.empty_like(x)
    torch.ge(bits, least, out=factor)
    return factor.mul_(scale)


def draw_kept(out: Tensor, rate: float) -> float:
    """Write to bytes, at random, 1 for what :func:`dropout` keeps, else 0; return its scale.

    Whole numbers of four elements may be drawn one after the other as well as at once.
    """
    bits, least, scale = _drawn(out, rate)
    torch.ge(bits, least, out=out)  # bools are written and read much slower
    return scale


def _drawn(x: Tensor, rate: float) -> tuple[Tensor, int, float]:
    """Return random integers in the shape of ``x``, the least of those that are kept, the scale."""
    level = round(rate * _LEVELS)
    drawn = torch.empty((x.numel() + 3) // 4, dtype=torch.int64, device=x.device)
    drawn.random_(-(1 << 63), None)
    bits = drawn.view(torch.int16)[: x.numel()].view(x.shape)
    scale = _LEVELS / (_LEVELS - level) if level < _LEVELS else 0.0
    return bits, level - _LEVELS // 2, scale
