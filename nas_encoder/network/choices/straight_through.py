"""Straight-through gradients with sampled paths (Zheng, An, Ou 2021; ST-NAS).

On each edge one operation is drawn from the edge's probabilities p = softmax(alpha); as a one-hot
vector z it makes the edge's output ``sum_o z_o o(x)``, that of the drawn operation. The loss is
the expectation over z (that of SNAS), and its gradient is passed straight through the draw,
``dL/dp := dL/dz``, so that ``dL/dp_o = <dL/dy, o(x)>`` for **every** operation o of the edge, at
the current sample. The other operations are only needed for that inner product: they are
evaluated, but neither receive nor propagate a gradient, which is exact, as their z_o is 0.

E edges, n candidates on each, m of them involved in an architecture step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable


@dataclass(frozen=True)
class Paths:
    """One sample of the operations of a kind of cell, or of a chain.

    Attributes:
        active: For each edge the place of the drawn operation.
        involved: For each edge the places of the operations that contribute to its gradient; None
            if the architecture is not trained and only the active ones are evaluated.
        shares: (E, m) probabilities of the involved ones, with their gradient; or None.
        taken: For each edge of a cell whether its node takes it; None if nodes take all of their
            edges. An edge that is not taken gives zeros.
        edges: (E,) probabilities that an edge is taken, with their gradient; or None.
    """

    active: tuple[int, ...]
    involved: tuple[tuple[int, ...], ...] | None = None
    shares: Tensor | None = None
    taken: tuple[bool, ...] | None = None
    edges: Tensor | None = None

    def takes(self, edge: int) -> bool:
        """Return whether an edge is taken."""
        return self.taken is None or self.taken[edge]

    def needs(self, edge: int) -> tuple[int, ...]:
        """Return the places of the operations to evaluate on an edge."""
        return (self.active[edge],) if self.involved is None else self.involved[edge]


def draw_active(probabilities: Tensor, generator: torch.Generator) -> tuple[int, ...]:
    """Draw one operation per edge from probabilities (E, n), using only the CPU generator."""
    drawn = torch.multinomial(probabilities.detach().cpu(), 1, generator=generator)
    return tuple(int(place) for place in drawn[:, 0].tolist())


def draw_paths(alphas: Tensor, generator: torch.Generator, candidates: int | None = None) -> Paths:
    """Draw the paths of an architecture step.

    Args:
        alphas: (E, n), with gradient.
        generator: A CPU generator, the only source of randomness.
        candidates: How many operations of an edge are involved, None for all. With 2 (two-path
            variant), two are drawn without replacement from the edge's probabilities, these are
            renormalized, and the active one is drawn from the two; the loss is then the
            expectation over edges of two operations, and memory and time are those of two paths.
    """
    count = alphas.size(1)
    if candidates is None or candidates >= count:
        shares = alphas.softmax(dim=-1)
        every = tuple(range(count))
        return Paths(draw_active(shares, generator), (every,) * alphas.size(0), shares)
    probabilities = alphas.detach().softmax(dim=-1).cpu()
    chosen = torch.multinomial(probabilities, candidates, generator=generator).sort(dim=-1).values
    shares = alphas.gather(1, chosen.to(alphas.device)).softmax(dim=-1)
    within = draw_active(shares, generator)
    involved = tuple(tuple(int(place) for place in row) for row in chosen.tolist())
    active = tuple(row[place] for row, place in zip(involved, within, strict=True))
    return Paths(active, involved, shares)


def straight_through(
    output: Tensor, shares: Tensor, candidates: Sequence[Tensor | None], active: int
) -> Tensor:
    """Return the output of the active operation, passing the shares their gradient.

    Args:
        output: Output of the active operation, with its graph.
        shares: (m,) probabilities of the involved operations.
        candidates: Their outputs, None for zeros; they get no gradient. The entry at ``active``
            is ignored in favour of ``output``.
        active: The active one's place among them; -1 if it is none of them and the output is
            zeros, in place of which any candidate could have been.
    """
    present = [value for value in candidates if value is not None]
    places = [place for place, value in enumerate(candidates) if value is not None]
    result: Tensor = _StraightThrough.apply(  # type: ignore[no-untyped-call]
        output, shares, places, active, *present
    )
    return result


class _StraightThrough(torch.autograd.Function):
    """Identity on the output; the gradient of a share is an inner product."""

    @staticmethod
    def forward(
        ctx: Any,
        output: Tensor,
        shares: Tensor,
        places: list[int],
        active: int,
        *candidates: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(output if active >= 0 else None, shares, *candidates)
        ctx.places, ctx.active = places, active
        return output.view_as(output)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        output, shares, *candidates = ctx.saved_tensors
        products = torch.zeros_like(shares)
        for place, value in zip(ctx.places, candidates, strict=True):
            value = output if place == ctx.active else value
            products[place] = _inner_product(grad, value, shares.dtype)
        needs = ctx.needs_input_grad[0]
        return (grad if needs else None, products, None, None, *([None] * len(candidates)))


def _inner_product(a: Tensor, b: Tensor, dtype: torch.dtype) -> Tensor:
    if a.dtype == b.dtype == dtype and a.device.type == "cpu":
        # On a CPU a third of the time, if elements lie in the same order.
        if a.dim() == 4 and not a.is_contiguous():  # channels may be last in memory
            a, b = a.movedim(1, -1), b.movedim(1, -1)
        if a.is_contiguous() and b.is_contiguous() and a.shape == b.shape:
            return torch.dot(a.view(-1), b.view(-1))
    return (a * b).sum(dtype=dtype)
