"""The gradient of the architecture through one step of the weights (Liu et al. 2019).

With w the weights, a the architecture and w' = w - lr * (momentum * m + dL_train/dw + decay * w)
one step of SGD ahead, the loss L_valid(w', a) has the gradient (equation 7; momentum and weight
decay do not depend on a)

    dL_valid/da (w', a) - lr * d^2 L_train / (da dw) * dL_valid/dw' (w', a)

whose second term is taken as a central difference of dL_train/da at w +- epsilon * v
with v = dL_valid/dw' and epsilon = 0.01 / |v| (equation 8).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

Loss = Callable[[], Tensor]
STEP = 0.01  # epsilon * |v|, from the paper


def unrolled_gradient(
    weights_loss: Loss,
    architecture_loss: Loss,
    weights: Sequence[nn.Parameter],
    architecture: Sequence[nn.Parameter],
    optimizer: torch.optim.Optimizer,
    lr: float,
    backward: Callable[[Tensor], None] = Tensor.backward,
) -> float:
    """Set ``grad`` of the architecture's parameters to the gradient of equation 7.

    The weights are left bit for bit as they were, without gradients.

    Args:
        weights_loss: Computes L_train at the current parameters; must be the same function of
            them on each call.
        architecture_loss: Computes L_valid.
        weights: w; the parameters that the losses depend on.
        architecture: a.
        optimizer: SGD of the weights, for momentum, its buffers and weight decay.
        lr: Learning rate of the step ahead.
        backward: Runs the backward pass of a loss.

    Returns:
        L_valid(w', a).
    """
    saved = [w.detach().clone() for w in weights]
    _clear(weights, architecture)
    with _frozen(architecture):
        backward(weights_loss())
    with torch.no_grad():
        for w in weights:
            if w.grad is not None:
                w.sub_(lr * _step(w, optimizer))
    try:
        _clear(weights, architecture)
        loss = architecture_loss()
        backward(loss)
        direct = [_grad(a) for a in architecture]
        along = [_grad(w) for w in weights]
        norm = torch.linalg.vector_norm(torch.stack([v.norm() for v in along]))
        epsilon = STEP / norm.clamp(min=torch.finfo(norm.dtype).tiny)
        differences = []
        for sign in (1.0, -1.0):
            with torch.no_grad():
                for w, start, v in zip(weights, saved, along, strict=True):
                    torch.add(start, v * (sign * epsilon), out=w)
            _clear(weights, architecture)
            with _frozen(weights):
                backward(weights_loss())
            differences.append([_grad(a) for a in architecture])
    finally:
        with torch.no_grad():
            for w, start in zip(weights, saved, strict=True):
                w.copy_(start)
        _clear(weights, architecture)
    for a, first, plus, minus in zip(architecture, direct, *differences, strict=True):
        a.grad = first - lr * (plus - minus) / (2 * epsilon)
    return float(loss.detach())


@contextmanager
def _frozen(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Disable gradients of parameters whose gradients would not be used."""
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(True)


def _step(w: nn.Parameter, optimizer: torch.optim.Optimizer) -> Tensor:
    """Return the update that SGD would apply to ``w``, divided by the learning rate."""
    assert w.grad is not None
    (group,) = [g for g in optimizer.param_groups if any(w is p for p in g["params"])]
    step: Tensor = w.grad + group["weight_decay"] * w
    buffer = optimizer.state[w].get("momentum_buffer") if w in optimizer.state else None
    if buffer is not None:
        step = step + group["momentum"] * buffer
    return step


def _grad(parameter: nn.Parameter) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.detach()


def _clear(*lists: Sequence[nn.Parameter]) -> None:
    for parameters in lists:
        for parameter in parameters:
            parameter.grad = None
