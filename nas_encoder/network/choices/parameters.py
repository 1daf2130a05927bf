"""The choices of a search: which operations are alive on which edge, and their parameters.

E edges of a cell (14 for 4 nodes), blocks of a chain, or nodes or skips of NAS-Bench-ASR's cell;
n operations alive on each.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import torch
from torch import Tensor, nn

from nas_encoder.errors import NasEncoderError
from nas_encoder.network.choices.edges import inclusion_probabilities, relative_entropy
from nas_encoder.spaces import SearchSpace
from nas_encoder.spaces.cells.architecture import INPUT_STATES
from nas_encoder.spaces.cells.space import CellSpace
from nas_encoder.spaces.nasbench_asr.space import NasBenchSpace
from nas_encoder.spaces.tdnn_chain.space import ChainSpace

KINDS = ("normal", "reduction")  # of cells
BLOCKS = "blocks"  # the one kind of a chain
NODES, SKIPS = "nodes", "skips"  # of NAS-Bench-ASR's cell
NO_SKIP, SKIP = "no_skip", "skip"  # what the latter choose from

# kind of cell -> edge -> names of the operations that are alive, in the space's order
Alive = Mapping[str, tuple[tuple[str, ...], ...]]
# kind of cell -> edge -> operation -> probability
Probabilities = Mapping[str, Sequence[Mapping[str, float]]]
# kind of cell -> edge -> how probable it is that its node takes it; empty where not learned
EdgeProbabilities = Mapping[str, Sequence[float]]
NO_EDGES: EdgeProbabilities = MappingProxyType({})


def edge_list(nodes: int) -> list[tuple[int, int]]:
    """Return (node, source state) of every edge, node by node."""
    return [(node, source) for node in range(nodes) for source in range(INPUT_STATES + node)]


def skip_list(nodes: int) -> list[tuple[int, int]]:
    """Return (node from 0, source) of every skip; source 0 is the cell's input, k node k."""
    return [(node, source) for node in range(nodes) for source in range(node + 1)]


def all_alive(space: SearchSpace, learned_edges: bool = False) -> Alive:
    """Return the choices with which a search begins: every operation on every edge.

    Args:
        space: Of the search.
        learned_edges: Whether edges have parameters of their own. ``none``, which says of an
            edge what they say, is then no candidate, and what is drawn is a member of the space.

    Raises:
        NasEncoderError: The space has no supernet.
    """
    if isinstance(space, ChainSpace):
        return {BLOCKS: (space.operations,) * space.blocks}
    if isinstance(space, NasBenchSpace):
        skips = len(skip_list(space.nodes))
        return {
            NODES: (space.operations,) * space.nodes,
            SKIPS: ((NO_SKIP, SKIP),) * skips,
        }
    if not isinstance(space, CellSpace):
        raise NasEncoderError(f"the space '{space.name}' cannot be searched with gradients")
    edges = len(edge_list(space.nodes))
    operations = space.choices if learned_edges else space.operations
    return {kind: (operations,) * edges for kind in KINDS}


class ArchitectureParameters(nn.Module):
    """One parameter for each operation that is alive on each edge of each kind of cell.

    Args:
        alive: The choices; every edge of a kind has equally many.
        generator: For the small random start (1e-3 x standard normal, Liu et al. 2019).
        learned_edges: Whether each edge of a cell has a strength too, by which nodes take two of
            their edges; see :mod:`~nas_encoder.network.choices.edges`.
    """

    def __init__(
        self, alive: Alive, generator: torch.Generator, learned_edges: bool = False
    ) -> None:
        super().__init__()
        self.alive: Alive = {kind: tuple(edges) for kind, edges in alive.items()}
        self.alphas = nn.ParameterDict(
            {
                kind: nn.Parameter(
                    1e-3 * torch.randn(len(edges), len(edges[0]), generator=generator)
                )
                for kind, edges in self.alive.items()
            }
        )
        self.strengths = nn.ParameterDict(
            {
                kind: nn.Parameter(1e-3 * torch.randn(len(edges), generator=generator))
                for kind, edges in self.alive.items()
                if learned_edges
            }
        )

    def weights(self) -> dict[str, Tensor]:
        """Return the softmax over each edge's operations, (E, n) for each kind of cell."""
        return {kind: self.alphas[kind].softmax(dim=-1) for kind in self.alive}

    def edges(self) -> dict[str, Tensor]:
        """Return how probable it is that a node takes an edge, (E,); nothing if not learned."""
        return {kind: inclusion_probabilities(b) for kind, b in self.strengths.items()}

    def mixture(self) -> dict[str, Tensor]:
        """Return what a mixture weighs operations by, (E, n): both probabilities together."""
        weights, edges = self.weights(), self.edges()
        return {
            kind: edges[kind][:, None] * own if kind in edges else own
            for kind, own in weights.items()
        }

    @torch.no_grad()
    def edge_probabilities(self) -> dict[str, list[float]]:
        """Return what :meth:`edges` does as plain numbers."""
        return {kind: values.double().tolist() for kind, values in self.edges().items()}

    def edge_entropy(self) -> dict[str, float]:
        """Return the entropy of the choice of edges, over that of a uniform one."""
        return {kind: relative_entropy(b) for kind, b in self.strengths.items()}

    @torch.no_grad()
    def probabilities(self) -> Probabilities:
        """Return what :meth:`weights` does as plain numbers, by the operations' names."""
        table = {kind: weights.double().tolist() for kind, weights in self.weights().items()}
        return {
            kind: tuple(
                dict(zip(names, row, strict=True))
                for names, row in zip(self.alive[kind], table[kind], strict=True)
            )
            for kind in self.alive
        }

    @torch.no_grad()
    def entropy(self) -> dict[str, float]:
        """Return the mean entropy over edges in nats; log(n) is a uniform choice, 0 a hard one.

        Where edges are learned each counts as much as it is probable: what an edge would do that
        no node takes is never learned, and matters to nobody.
        """
        found, edges = {}, self.edges()
        for kind, weights in self.weights().items():
            entropy = -(weights * weights.clamp(min=1e-12).log()).sum(-1)
            share = edges[kind] if kind in edges else torch.ones_like(entropy)
            found[kind] = float((share * entropy).sum() / share.sum())
        return found
