"""A feed-forward module as one step of autograd, which keeps a third of what its layers do.

Autograd keeps the hidden units four times: before and after the activation, after dropout, and
dropout's factors. Here they are kept once, before the activation, with the dropped ones as bools;
the rest is computed again in the backward pass, in place. ``benchmarks/training_step.py`` measures
networks of it.

B batch, T frames, C width, U hidden units.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.dropout import Dropout, dropout_kept
from nas_encoder.ops.fused import has_hooks, trains_on_cpu


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


def _active(hidden: Tensor, kept: Tensor | None, scale: float, swish: bool) -> Tensor:
    active = F.silu(hidden) if swish else torch.relu(hidden)
    return active if kept is None else active.mul_(kept).mul_(scale)


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
        hidden = torch.addmm(shift, flat, expand.t())
        kept, scale = dropout_kept(hidden, rate) if rate else (None, 1.0)
        active = _active(hidden, kept, scale, swish)
        ctx.save_for_backward(flat, hidden, kept, expand, project)
        ctx.scale, ctx.swish = scale, swish
        return torch.addmm(last, active, project.t()).view(*x.shape[:-1], -1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        flat, hidden, kept, expand, project = ctx.saved_tensors
        shape = grad.shape
        grad = grad.reshape(-1, grad.size(-1))
        wanted = ctx.needs_input_grad
        of_x = of_expand = of_shift = of_project = of_last = None
        if wanted[3]:
            of_project = grad.t() @ _active(hidden, kept, ctx.scale, ctx.swish)
        if wanted[4]:
            of_last = grad.sum(0)
        if any(wanted[:3]):
            slope = grad @ project
            if kept is not None:
                slope.mul_(kept).mul_(ctx.scale)
            if ctx.swish:
                slope = torch.ops.aten.silu_backward(slope, hidden)
            else:
                slope = torch.ops.aten.threshold_backward(slope, hidden, 0)
            of_x = (slope @ expand).view(*shape[:-1], -1) if wanted[0] else None
            of_expand = slope.t() @ flat if wanted[1] else None
            of_shift = slope.sum(0) if wanted[2] else None
        return of_x, of_expand, of_shift, of_project, of_last, None, None
