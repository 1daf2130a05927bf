"""The architecture part of a genotype of ``nasbench_asr``: three nodes in a row with skips.

Mehrotra et al. 2021 (NAS-Bench-ASR). Node k (from 1) applies an operation to the output of node
k - 1 (0 is the cell's input) and adds the outputs that its skips name. The operation ``zero``
means no connection, so many documents describe the same graph: the published hash distinguishes
8,242 graphs among 13,824 documents.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

# Mehrotra et al. 2021, section 3.1; the order is that of the published vectors and hashes.
SPACE = "nasbench_asr"
OPERATIONS = ("linear", "conv5", "conv5d2", "conv7", "conv7d2", "zero")
NODES = 3
ZERO = "zero"
Vector = tuple[tuple[int, ...], ...]
_INPUT_LABEL, _OUTPUT_LABEL = -1, -2


@dataclass(frozen=True)
class Node:
    """An operation on the previous output, and the earlier outputs added to its result.

    Attributes:
        op: Name of the operation.
        skips: Ascending; 0 is the cell's input, k the output of node k.
    """

    op: str
    skips: tuple[int, ...] = ()


@dataclass(frozen=True)
class SkipArchitecture:
    """The nodes of the cell, first to last; the last one's output is the cell's."""

    nodes: tuple[Node, ...]

    @classmethod
    def from_vector(cls, vector: Sequence[Sequence[int]]) -> SkipArchitecture:
        """Build it from a checked vector; see :attr:`vector`."""
        return cls(
            tuple(
                Node(OPERATIONS[op], tuple(place for place, bit in enumerate(bits) if bit))
                for op, *bits in vector
            )
        )

    @property
    def vector(self) -> Vector:
        """The form of the published code: per node the operation's index and one bit per skip."""
        return tuple(
            (OPERATIONS.index(node.op), *(int(place in node.skips) for place in range(number)))
            for number, node in enumerate(self.nodes, 1)
        )

    @property
    def graph_hash(self) -> str:
        """The ``model_hash`` of the published data: 32 hexadecimal digits."""
        return graph_hash(self.vector)

    def reduced(self) -> SkipArchitecture:
        """Return the document that represents all with the same graph hash.

        Without ``zero`` that is the architecture itself. Otherwise it is the first one, in the
        order of the space, that lists nothing that is missing from the graph.
        """
        vector = self.vector
        if all(OPERATIONS[op] != ZERO for op, *_ in vector):
            return self
        return SkipArchitecture.from_vector(_representatives()[graph_hash(vector)])

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        return {"nodes": [{"op": node.op, "skips": list(node.skips)} for node in self.nodes]}

    def canonical(self) -> list[Any]:
        """Return the canonical form, by which architectures are equal if their hashes are."""
        return ["nasbench", self.graph_hash]


# -- the graph and its hash ---------------------------------------------------------------------

Edges = frozenset[tuple[int, int]]


def all_vectors() -> Iterator[Vector]:
    """Yield every vector; the last skip of the last node changes fastest."""
    choices = [
        list(itertools.product(range(len(OPERATIONS)), *[range(2)] * number))
        for number in range(1, NODES + 1)
    ]
    yield from itertools.product(*choices)


@lru_cache(maxsize=16384)
def graph_hash(vector: Vector) -> str:
    """Return the hash of a vector's graph after removing everything without effect.

    Vertices are the input, one operation per node, and the output. Vertex k leads to k + 1, and a
    skip of node k from output j is an edge from j to k + 1. Vertices of ``zero`` are removed with
    their edges, then those that are not on a path from the input to the output.

    The hash is that of NAS-Bench-101 (Ying et al. 2019, section 2.3): a vertex starts with the
    MD5 of its out-degree, in-degree and label, absorbs those of its neighbours as many times as
    there are vertices, and the sorted results are hashed once more. As in the published data, the
    degrees are written as floating point numbers, and the labels are -1 for the input, -2 for the
    output and the operations' positions in the list.
    """
    operations = tuple(op for op, *_ in vector)
    zeros = tuple(OPERATIONS[op] == ZERO for op in operations)
    vertices, edges = _minimal(zeros, tuple(tuple(bits) for _, *bits in vector))
    labels = (_INPUT_LABEL, *operations, _OUTPUT_LABEL)
    return _hash(edges, tuple(labels[vertex] for vertex in vertices))


def hash_of_graph(matrix: Sequence[Sequence[bool]], operations: Sequence[str]) -> str:
    """Return the hash of a graph as it is: of input, these operations and output, or of nothing."""
    edges = {(a, b) for a, row in enumerate(matrix) for b, edge in enumerate(row) if edge}
    labels = (_INPUT_LABEL, *map(OPERATIONS.index, operations), _OUTPUT_LABEL)
    return _hash(frozenset(edges), labels if matrix else ())


@lru_cache(maxsize=4096)
def _minimal(zeros: tuple[bool, ...], skips: Vector) -> tuple[tuple[int, ...], Edges]:
    """Return the remaining vertices, and the edges between their positions in that list."""
    nodes = len(zeros)
    edges = {(vertex, vertex + 1) for vertex in range(nodes + 1)}
    edges |= {
        (source, number + 1)
        for number, bits in enumerate(skips, 1)
        for source, bit in enumerate(bits)
        if bit
    }
    dead = {vertex for vertex, zero in enumerate(zeros, 1) if zero}
    edges = {(a, b) for a, b in edges if a not in dead and b not in dead}
    behind, before = {0}, {nodes + 1}
    for vertex in range(1, nodes + 2):  # edges lead to higher numbers only
        if any((source, vertex) in edges for source in behind):
            behind.add(vertex)
    for vertex in range(nodes, -1, -1):
        if any((vertex, target) in edges for target in before):
            before.add(vertex)
    left = tuple(sorted(behind & before))
    place = {vertex: position for position, vertex in enumerate(left)}
    return left, frozenset((place[a], place[b]) for a, b in edges if a in place and b in place)


@lru_cache(maxsize=1024)  # graphs with zero recur
def _hash(edges: Edges, labels: tuple[int, ...]) -> str:
    count = range(len(labels))
    sources = [[a for a in count if (a, vertex) in edges] for vertex in count]
    targets = [[b for b in count if (vertex, b) in edges] for vertex in count]
    hashes = [
        _md5(f"({float(len(targets[v]))}, {float(len(sources[v]))}, {labels[v]})") for v in count
    ]
    for _ in count:
        hashes = [
            _md5(
                "".join(sorted([hashes[a] for a in sources[v]]))
                + "|"
                + "".join(sorted([hashes[b] for b in targets[v]]))
                + "|"
                + hashes[v]
            )
            for v in count
        ]
    return _md5(str(sorted(hashes)))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


def is_minimal(vector: Vector) -> bool:
    """Return whether every operation but ``zero``, and every skip, is in the graph."""
    zeros = tuple(OPERATIONS[op] == ZERO for op, *_ in vector)
    left, _ = _minimal(zeros, tuple(tuple(bits) for _, *bits in vector))
    alive = set(left)
    for number, (_, *bits) in enumerate(vector, 1):
        if not zeros[number - 1] and number not in alive:
            return False
        if any(bit and {source, number + 1} - alive for source, bit in enumerate(bits)):
            return False
    return True


@lru_cache(maxsize=1)
def _representatives() -> dict[str, Vector]:
    """Return, for each hash of a vector with ``zero``, the first minimal vector of that hash."""
    found: dict[str, Vector] = {}
    for vector in all_vectors():
        if any(OPERATIONS[op] == ZERO for op, *_ in vector) and is_minimal(vector):
            found.setdefault(graph_hash(vector), vector)
    return found
