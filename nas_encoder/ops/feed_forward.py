"""A feed-forward module as one step of autograd, which keeps a third of what its layers do.

Autograd keeps the hidden units four times: before and after the activation, after dropout, and
dropout's factors. Here they are kept once, before the activation, with what dropout keeps as
bytes; the rest is computed again in the backward pass. Both passes take some rows at a time, as
many as fit into the cores' caches. ``benchmarks/training_step.py`` measures networks of it.

B batch, T frames, C width, U hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.dropout import Dropout, draw_kept
from nas_encoder.ops.fused import has_hooks, trains_on_cpu

_MOST = 1 << 18  # elements of hidden units at a time, for each thread
_LEAST_ROWS = 128


def can_fuse(
    x: Tensor, expand: nn.Linear, activation: nn.Module, dropout: nn.Module, project: nn.Linear
) -> bool:
    """Whether :func:`feed_forward` does what these modules would: in training, on a CPU.

    Not if a module has been replaced or has hooks, which would not run.
    """
    return (
        trains_on_cpu(x)
        and dropout.training
        and type(dropout) is Dropout
        and type(activation) in (nn.SiLU, nn.ReLU)
        and all(
            type(layer) is nn.Linear and layer.bias is not None and layer.weight.dtype == x.dtype
            for layer in (expand, project)
        )
        and not any(map(has_hooks, (expand, activation, dropout, project)))
    )


def feed_forward(
    x: Tensor, expand: nn.Linear, activation: nn.Module, rate: float, project: nn.Linear
) -> Tensor:
    """Linear, activation, dropout, linear.

    Args:
        x: (B, T, C).
        expand: From C to U.
        activation: ``nn.SiLU`` or ``nn.ReLU``.
        rate: Of dropout, as of :func:`~nas_encoder.ops.dropout.dropout`, below 1.
        project: From U to C.

    Returns:
        (B, T, C), with the random numbers that the modules would take.
    """
    swish = isinstance(activation, nn.SiLU)
    result: Tensor = _FeedForward.apply(  # type: ignore[no-untyped-call]
        x, expand.weight, expand.bias, project.weight, project.bias, swish, rate
    )
    return result


def _parts(rows: int, units: int) -> list[slice]:
    """Cut the rows, so that what is computed again stays in the cores' caches.

    All but the last have a multiple of four, as :func:`draw_kept` wants.
    """
    most = max(_LEAST_ROWS, _MOST * torch.get_num_threads() // units)
    size = -(-rows // max(1, -(-rows // most)))
    size = max(1, -(-size // 4)) * 4
    return [slice(first, min(first + size, rows)) for first in range(0, rows, size)]


class _Spare:
    """Memory for the hidden units of one part of the rows after the other."""

    def __init__(self, hidden: Tensor, parts: list[slice], dropping: bool) -> None:
        rows = parts[0].stop if parts else 0
        self.units = hidden.new_empty(rows, hidden.size(1))
        self.factors = torch.empty_like(self.units) if dropping else None

    def factor(self, kept: Tensor) -> Tensor:
        assert self.factors is not None
        return self.factors[: kept.size(0)].copy_(kept)

    def activate(self, hidden: Tensor, factor: Tensor | None, swish: bool) -> Tensor:
        out = self.units[: hidden.size(0)]
        if swish:
            torch.ops.aten.silu.out(hidden, out=out)
        else:
            torch.clamp_min(hidden, 0, out=out)
        return out if factor is None else out.mul_(factor)


class _FeedForward(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        expand: Tensor,
        shift: Tensor,
        project: Tensor,
        last: Tensor,
        swish: bool,
        rate: float,
    ) -> Tensor:
        flat = x.reshape(-1, x.size(-1))
        hidden = flat.new_empty(flat.size(0), expand.size(0))
        result = flat.new_empty(flat.size(0), project.size(0))
        kept = torch.empty_like(hidden, dtype=torch.uint8) if rate else None
        parts, scale = _parts(*hidden.shape), 1.0
        spare = _Spare(hidden, parts, bool(rate))
        for part in parts:
            own = torch.addmm(shift, flat[part], expand.t(), out=hidden[part])
            factor = None
            if kept is not None:
                scale = draw_kept(kept[part], rate)
                factor = spare.factor(kept[part])
            active = spare.activate(own, factor, swish)
            torch.addmm(last, active, project.t(), alpha=scale, out=result[part])
        ctx.save_for_backward(flat, hidden, kept, expand, project)
        ctx.scale, ctx.swish = scale, swish
        return result.view(*x.shape[:-1], result.size(1))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, hidden, kept, expand, project = ctx.saved_tensors
        swish, shape = ctx.swish, grad.shape
        grad = grad.reshape(-1, grad.size(-1))
        wanted = ctx.needs_input_grad
        of_last = grad.sum(0) if wanted[4] else None
        grad = grad * ctx.scale if kept is not None else grad
        of_x = torch.empty_like(flat) if wanted[0] else None
        of_expand, of_project = (
            torch.zeros_like(own) if needed else None
            for own, needed in ((expand, wanted[1]), (project, wanted[3]))
        )
        of_shift = hidden.new_zeros(hidden.size(1)) if wanted[2] else None
        parts = _parts(*hidden.shape)
        spare = _Spare(hidden, parts, kept is not None)
        for part in parts:
            own, units = grad[part], hidden[part]
            factor = None if kept is None else spare.factor(kept[part])
            if of_project is not None:
                of_project.addmm_(own.t(), spare.activate(units, factor, swish))
            if not any(wanted[:3]):
                continue
            slope = torch.mm(own, project, out=spare.units[: units.size(0)])
            if factor is not None:
                slope.mul_(factor)
            if swish:
                torch.ops.aten.silu_backward.grad_input(slope, units, grad_input=slope)
            else:
                torch.ops.aten.threshold_backward.grad_input(slope, units, 0, grad_input=slope)
            if of_x is not None:
                torch.mm(slope, expand, out=of_x[part])
            if of_expand is not None:
                of_expand.addmm_(slope.t(), flat[part])
            if of_shift is not None:
                of_shift += slope.sum(0)
        of_x = None if of_x is None else of_x.view(*shape[:-1], flat.size(1))
        return of_x, of_expand, of_shift, of_project, of_last, None, None
