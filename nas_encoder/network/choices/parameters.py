"""The parameters of a supernet's choices, one for each candidate.

E choices of a kind (edges of a cell, blocks of a chain), n candidates of each.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from nas_encoder.common.choices import Candidates, Probabilities
from nas_encoder.network.choices.edges import inclusion_probabilities, relative_entropy


class ArchitectureParameters(nn.Module):
    """One parameter for each candidate of each choice.

    Args:
        candidates: The choices; all of a kind have equally many candidates.
        generator: For the small random initialization (1e-3 x standard normal, Liu et al. 2019).
        learned_edges: Whether each edge of a cell also has a strength, by which nodes take two
            of their edges; see :mod:`~nas_encoder.network.choices.edges`.
    """

    def __init__(
        self, candidates: Candidates, generator: torch.Generator, learned_edges: bool = False
    ) -> None:
        super().__init__()
        self.candidates: Candidates = {kind: tuple(own) for kind, own in candidates.items()}
        self.alphas = nn.ParameterDict(
            {
                kind: nn.Parameter(
                    1e-3 * torch.randn(len(edges), len(edges[0]), generator=generator)
                )
                for kind, edges in self.candidates.items()
            }
        )
        self.strengths = nn.ParameterDict(
            {
                kind: nn.Parameter(1e-3 * torch.randn(len(edges), generator=generator))
                for kind, edges in self.candidates.items()
                if learned_edges
            }
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the softmax over each edge's operations, (E, n) for each kind of cell."""
        return {kind: self.alphas[kind].softmax(dim=-1) for kind in self.candidates}

    def edges(self) -> dict[str, Tensor]:
        """Return the probability that a node takes each edge, (E,); empty if not learned."""
        return {kind: inclusion_probabilities(b) for kind, b in self.strengths.items()}

    def mixture(self) -> dict[str, Tensor]:
        """Return the weights of a mixture, (E, n): the product of both probabilities."""
        weights, edges = self.weights(), self.edges()
        return {
            kind: edges[kind][:, None] * own if kind in edges else own
            for kind, own in weights.items()
        }

    @torch.no_grad()
    def edge_probabilities(self) -> dict[str, list[float]]:
        """Return :meth:`edges` as plain numbers."""
        return {kind: values.double().tolist() for kind, values in self.edges().items()}

    def edge_entropy(self) -> dict[str, float]:
        """Return the entropy of the choice of edges, relative to a uniform one."""
        return {kind: relative_entropy(b) for kind, b in self.strengths.items()}

    @torch.no_grad()
    def probabilities(self) -> Probabilities:
        """Return :meth:`weights` as plain numbers, by operation name."""
        table = {kind: weights.double().tolist() for kind, weights in self.weights().items()}
        return {
            kind: tuple(
                dict(zip(names, row, strict=True))
                for names, row in zip(self.candidates[kind], table[kind], strict=True)
            )
            for kind in self.candidates
        }

    @torch.no_grad()
    def entropy(self) -> dict[str, float]:
        """Return the mean entropy over edges in nats; log(n) is a uniform choice, 0 a hard one.

        Learned edges are weighted by their probability: the operation of an edge that no node
        takes is never learned and does not matter.
        """
        found, edges = {}, self.edges()
        for kind, weights in self.weights().items():
            entropy = -(weights * weights.clamp(min=1e-12).log()).sum(-1)
            share = edges[kind] if kind in edges else torch.ones_like(entropy)
            found[kind] = float((share * entropy).sum() / share.sum())
        return found
