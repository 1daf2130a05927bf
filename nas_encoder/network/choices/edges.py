"""Which two of its edges a node takes: a separate choice with its own parameters.

DARTS compares edges by the probability of their best operation (Liu et al. 2019, section 2.4),
but each edge's probabilities are normalized separately: no gradient ever compares two edges.
PC-DARTS (Xu et al. 2020, section 3.3, "edge normalization") gives edges parameters. Here they
parametrize a draw of what is derived: with strengths b of a node's edges, the pair (i, j) has
the probability exp(b_i + b_j) over the sum of that of all pairs, so that the two strongest edges
are the most probable pair. The probability that an edge is one of the two (its *inclusion
probability*, of sum 2 per node) weighs it in a mixture.

E edges of a cell, node by node: node i reads the cell's two inputs and the nodes before it.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

_INPUTS = 2  # the inputs of a cell, which its first node can read


def rows_of_nodes(edges: int) -> list[range]:
    """Return the rows of each node's edges: the first two, the next three, and so on."""
    rows: list[range] = []
    start = 0
    while start < edges:
        end = start + _INPUTS + len(rows)
        rows.append(range(start, end))
        start = end
    if start != edges:
        raise ValueError(f"no cell has {edges} edges")
    return rows


def pair_probabilities(strengths: Tensor) -> tuple[list[tuple[int, int]], Tensor]:
    """Return the pairs of one node's k edges and their probabilities (k (k - 1) / 2,)."""
    pairs = list(itertools.combinations(range(len(strengths)), 2))
    first, second = (list(places) for places in zip(*pairs, strict=True))
    return pairs, (strengths[first] + strengths[second]).softmax(0)


def inclusion_probabilities(strengths: Tensor) -> Tensor:
    """Return the probability (E,), with gradient, that each edge is taken; 2 in sum per node."""
    found = []
    for rows in rows_of_nodes(len(strengths)):
        own = strengths[rows.start : rows.stop]
        pairs, probabilities = pair_probabilities(own)
        members = own.new_tensor(
            [[float(row in pair) for pair in pairs] for row in range(len(own))]
        )
        found.append(members @ probabilities)
    return torch.cat(found)


def draw_taken(strengths: Tensor, generator: torch.Generator) -> tuple[bool, ...]:
    """Draw two edges per node from strengths (E,) with a CPU generator; return which are taken."""
    taken = [False] * len(strengths)
    values = strengths.detach().cpu()
    for rows in rows_of_nodes(len(values)):
        pairs, probabilities = pair_probabilities(values[rows.start : rows.stop])
        place = int(torch.multinomial(probabilities, 1, generator=generator))
        for row in pairs[place]:
            taken[rows.start + row] = True
    return tuple(taken)


@torch.no_grad()
def relative_entropy(strengths: Tensor) -> float:
    """Return the mean entropy of the nodes' pairs, relative to a uniform choice.

    A node with two edges has no choice and does not count; a cell of one node gives 0.
    """
    shares = []
    for rows in rows_of_nodes(len(strengths)):
        _, probabilities = pair_probabilities(strengths[rows.start : rows.stop].double())
        if len(probabilities) > 1:
            entropy = -(probabilities * probabilities.clamp(min=1e-300).log()).sum()
            shares.append(float(entropy) / math.log(len(probabilities)))
    return sum(shares) / len(shares) if shares else 0.0
