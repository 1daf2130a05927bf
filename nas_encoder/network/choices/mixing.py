"""One choice of a supernet: a weighted mixture of its candidates, or the one that is drawn."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from nas_encoder.network.choices.straight_through import Paths, straight_through

# Returns the output of the candidate at a place, None for zeros.
Evaluate = Callable[[int], Tensor | None]


def choose(
    weights: Tensor | Paths, row: int, evaluate: Evaluate, zeros: Callable[[], Tensor]
) -> Tensor | None:
    """Return the output of a choice, None for zeros.

    Args:
        weights: (E, n) weights of a mixture (Liu et al. 2019, equation 2), or the drawn paths,
            whose other candidates are evaluated without a graph, and only if the architecture
            is trained.
        row: Row of the choice among the E.
        evaluate: Called once for every candidate that is needed.
        zeros: Makes the zeros that a gradient of the paths must pass through.
    """
    if not isinstance(weights, Paths):
        return _mix(weights[row], evaluate)
    active = weights.active[row]
    output = evaluate(active)
    if weights.involved is None:
        return output
    assert weights.shares is not None
    places = weights.involved[row]
    with torch.no_grad():
        candidates = [output if place == active else evaluate(place) for place in places]
    output = zeros() if output is None else output
    return straight_through(output, weights.shares[row], candidates, places.index(active))


def _mix(weights: Tensor, evaluate: Evaluate) -> Tensor | None:
    total: Tensor | None = None
    for place, weight in enumerate(weights.unbind()):
        value = evaluate(place)
        if value is not None:
            part = weight.to(value.dtype) * value
            total = part if total is None else total + part
    return total
