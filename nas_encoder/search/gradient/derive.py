"""From probabilities to decisions: pruning and derivation, as pure functions.

Ties are broken by order: the operation that stands first in the space, the edge with the lower
source state. So equal parameters always give the same genotype.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from nas_encoder.errors import NasEncoderError
from nas_encoder.network.choices.parameters import SKIP, edge_list, skip_list
from nas_encoder.spaces.cells.architecture import INPUT_STATES, Cell, Edge
from nas_encoder.spaces.nasbench_asr.architecture import ZERO, Node, SkipArchitecture
from nas_encoder.spaces.tdnn_chain.architecture import ChainArchitecture

EDGES_PER_NODE = 2
NONE = "none"


def prune(
    probabilities: Sequence[Mapping[str, float]], keep: int, limited: Iterable[str] = ()
) -> tuple[tuple[str, ...], ...]:
    """Keep the most probable operations of each edge (Chen et al. 2019, section 3.2).

    Args:
        probabilities: For each edge, operation -> probability, in the space's order.
        keep: Operations to keep on each edge, at least 1.
        limited: Operations whose number is limited when a genotype is derived. Each edge keeps
            at least one that is neither limited nor ``none`` (where it has one), so that a
            genotype within the limits can always be derived.

    Returns:
        For each edge the operations kept, in the order given.
    """
    bound = {NONE, *limited}
    kept = []
    for edge in probabilities:
        names = list(edge)
        ranked = sorted(names, key=lambda op: (-edge[op], names.index(op)))
        chosen = ranked[:keep]
        if all(op in bound for op in chosen):
            replacement = next((op for op in ranked if op not in bound), None)
            if replacement is not None:
                chosen[-1] = replacement
        kept.append(tuple(op for op in names if op in chosen))
    return tuple(kept)


def derive_cell(
    probabilities: Sequence[Mapping[str, float]],
    nodes: int,
    at_most: Mapping[str, int] | None = None,
    edges: Sequence[float] | None = None,
) -> Cell:
    """Derive a cell: for each node two edges, for each edge its most probable operation.

    The edges are those whose best operation is most probable, or those of ``edges``.

    Liu et al. 2019, section 2.4; ``none`` is never chosen. Where the cell would hold more of an
    operation than ``at_most`` allows, its least probable one is forbidden on its edge and the
    cell derived again (Chen et al. 2019, section 3.3, there for skip_connect; He et al. 2020,
    section 4.3, for average pooling).

    Args:
        probabilities: For each edge of :func:`edge_list`, operation -> probability.
        nodes: Intermediate nodes.
        at_most: Operation -> how many edges of the cell may have it.
        edges: For each edge how probable it is that its node takes it, where that is learned: the
            two most probable ones are taken instead, whatever their operations.

    Raises:
        NasEncoderError: A node has fewer than two edges with an operation, or the limits
            cannot be kept.
    """
    candidates = [{op: p for op, p in edge.items() if op != NONE} for edge in probabilities]
    places = edge_list(nodes)
    if len(places) != len(candidates):
        raise NasEncoderError(f"{nodes} nodes have {len(places)} edges, got {len(candidates)}")
    if edges is not None and len(edges) != len(places):
        raise NasEncoderError(f"{nodes} nodes have {len(places)} edges, got {len(edges)} strengths")
    while True:
        chosen = _strongest(candidates, places, nodes, edges)
        excess = _excess(chosen, candidates, at_most or {})
        if excess is None:
            break
        edge, operation = excess
        del candidates[edge][operation]
    concat = tuple(range(INPUT_STATES, INPUT_STATES + nodes))
    return Cell(
        tuple(
            tuple(Edge(_best(candidates[index]), places[index][1]) for index in node)
            for node in chosen
        ),
        concat,
    )


def derive_chain(probabilities: Sequence[Mapping[str, float]]) -> ChainArchitecture:
    """Derive a chain: each block's most probable operation (Zheng, An, Ou 2021, section 3).

    Args:
        probabilities: For each block, operation -> probability.

    Raises:
        NasEncoderError: A block has no operation.
    """
    for place, block in enumerate(probabilities):
        if not block:
            raise NasEncoderError(f"block {place} has no operation")
    return ChainArchitecture(tuple(_best(block) for block in probabilities))


def derive_nodes(
    nodes: Sequence[Mapping[str, float]], skips: Sequence[Mapping[str, float]]
) -> SkipArchitecture:
    """Derive a cell of NAS-Bench-ASR: each node's most probable operation, and its likely skips.

    ``zero`` is never chosen for a node, as ``none`` in a cell of edges: how probable it is says
    how strong the others have to be together, not that they do harm (Liu et al. 2019, section
    2.4). 8,000 of the space's 8,242 cells can be derived so.

    Args:
        nodes: For each node, operation -> probability.
        skips: For each skip of :func:`skip_list`, ``skip`` and ``no_skip`` -> probability; one
            that is as probable as not is left out.

    Raises:
        NasEncoderError: A node has no operation, or the skips are not as many as the nodes need.
    """
    places = skip_list(len(nodes))
    if len(places) != len(skips):
        raise NasEncoderError(f"{len(nodes)} nodes have {len(places)} skips, got {len(skips)}")
    taken = [place for place, skip in zip(places, skips, strict=True) if _best(skip) == SKIP]
    chosen = []
    for number, node in enumerate(nodes):
        candidates = {op: p for op, p in node.items() if op != ZERO}
        if not candidates:
            raise NasEncoderError(f"node {number + 1} has no operation")
        sources = tuple(source for own, source in taken if own == number)
        chosen.append(Node(_best(candidates), sources))
    return SkipArchitecture(tuple(chosen))


def _strongest(
    candidates: Sequence[Mapping[str, float]],
    places: Sequence[tuple[int, int]],
    nodes: int,
    strengths: Sequence[float] | None,
) -> list[list[int]]:
    """Return for each node the indices of its two strongest edges, by source."""
    chosen = []
    for node in range(nodes):
        own = [i for i, (head, _) in enumerate(places) if head == node and candidates[i]]
        if len(own) < EDGES_PER_NODE:
            raise NasEncoderError(f"node {node} has fewer than two edges with an operation")
        if strengths is None:
            own.sort(key=lambda i: (-candidates[i][_best(candidates[i])], i))
        else:
            own.sort(key=lambda i: (-strengths[i], i))
        chosen.append(sorted(own[:EDGES_PER_NODE]))
    return chosen


def _best(edge: Mapping[str, float]) -> str:
    return max(edge, key=lambda op: edge[op])  # the first of equals


def _excess(
    chosen: Sequence[Sequence[int]],
    candidates: Sequence[Mapping[str, float]],
    at_most: Mapping[str, int],
) -> tuple[int, str] | None:
    """Return the (edge, operation) to forbid next, or None where the limits are kept."""
    selected = [(index, _best(candidates[index])) for node in chosen for index in node]
    counts = Counter(operation for _, operation in selected)
    for operation, limit in at_most.items():
        if counts[operation] <= limit:
            continue
        removable = [
            index for index, op in selected if op == operation and len(candidates[index]) > 1
        ]
        if not removable:
            raise NasEncoderError(
                f"cannot keep {operation} to {limit}: its edges have no other operation left"
            )
        weakest = min(removable, key=lambda index: (candidates[index][operation], -index))
        return weakest, operation
    return None
