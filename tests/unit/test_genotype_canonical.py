"""The canonical form: equal for isomorphic architectures and for those only."""

from __future__ import annotations

import itertools
import random
import time
from typing import Any

from encoder_samples import MIXED_CELL, ZOO, document, sampled
from hypothesis import given, settings
from hypothesis import strategies as st

from nas_encoder import load_genotype
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.cells.architecture import Cell, CellArchitecture, Edge

OPS = ["sep_conv_3x3", "max_pool_3x3"]


@st.composite
def cells(draw: st.DrawFn, most: int = 5) -> Cell:
    """Draw cells of few kinds of edges, so that equal nodes are common."""
    count = draw(st.integers(1, most))
    nodes = []
    for node in range(count):
        edges = draw(
            st.lists(
                st.builds(Edge, st.sampled_from(OPS), st.integers(0, node + 1)),
                min_size=1,
                max_size=3,
            )
        )
        nodes.append(tuple(edges))
    concat = draw(st.lists(st.integers(2, count + 1), min_size=1, max_size=count, unique=True))
    return Cell(tuple(nodes), tuple(concat))


def rewrite(cell: Cell, rng: random.Random) -> Cell:
    """Return the same cell written differently: nodes, edges and concat in another order."""
    order: list[int] = []
    left = set(range(len(cell.nodes)))
    while left:  # a random topological order
        ready = [
            node
            for node in sorted(left)
            if all(edge.source < 2 or edge.source - 2 in order for edge in cell.nodes[node])
        ]
        order.append(rng.choice(ready))
        left.remove(order[-1])
    label = {0: 0, 1: 1, **{node + 2: place + 2 for place, node in enumerate(order)}}
    nodes = []
    for node in order:
        edges = [Edge(edge.op, label[edge.source]) for edge in cell.nodes[node]]
        rng.shuffle(edges)
        nodes.append(tuple(edges))
    concat = [label[state] for state in cell.concat]
    rng.shuffle(concat)
    return Cell(tuple(nodes), tuple(concat))


def isomorphic(first: Cell, second: Cell) -> bool:
    """Try all renamings of the nodes."""
    if len(first.nodes) != len(second.nodes):
        return False
    wanted = [sorted((edge.op, edge.source) for edge in node) for node in second.nodes]
    for order in itertools.permutations(range(len(first.nodes))):
        label = {0: 0, 1: 1, **{node + 2: place + 2 for node, place in enumerate(order)}}
        nodes: list[Any] = [None] * len(order)
        for node, place in enumerate(order):
            nodes[place] = sorted((edge.op, label[edge.source]) for edge in first.nodes[node])
        if nodes == wanted and {label[s] for s in first.concat} == set(second.concat):
            return True
    return False


@settings(max_examples=100, deadline=None)
@given(cells(), st.randoms(use_true_random=False))
def test_the_way_of_writing_does_not_matter(cell: Cell, rng: random.Random) -> None:
    assert rewrite(cell, rng).canonical() == cell.canonical()


@settings(max_examples=100, deadline=None)
@given(cells(4), cells(4))
def test_equal_forms_mean_isomorphic_cells(first: Cell, second: Cell) -> None:
    assert (first.canonical() == second.canonical()) == isomorphic(first, second)


@settings(max_examples=80, deadline=None)
@given(cells(4), st.randoms(use_true_random=False))
def test_a_small_change_is_noticed(cell: Cell, rng: random.Random) -> None:
    node = rng.randrange(len(cell.nodes))
    place = rng.randrange(len(cell.nodes[node]))
    edge = cell.nodes[node][place]
    if rng.random() < 0.5:
        edge = Edge(OPS[1 - OPS.index(edge.op)], edge.source)
    else:
        edge = Edge(edge.op, rng.randrange(node + 2))
    edges = list(cell.nodes[node])
    edges[place] = edge
    nodes = (*cell.nodes[:node], tuple(edges), *cell.nodes[node + 1 :])
    changed = Cell(nodes, cell.concat)
    assert (changed.canonical() == cell.canonical()) == isomorphic(changed, cell)


def test_normal_and_reduction_are_told_apart() -> None:
    first, second = Cell(((Edge(OPS[0], 0),),), (2,)), Cell(((Edge(OPS[0], 1),),), (2,))
    one = Genotype("a", "darts", CellArchitecture(first, second))
    other = Genotype("a", "darts", CellArchitecture(second, first))
    assert one.hash != other.hash


def test_the_label_plays_no_part_and_the_hash_is_short() -> None:
    doc = document(MIXED_CELL)
    one = Genotype.from_dict(doc)
    other = Genotype.from_dict({**doc, "name": "other", "provenance": {"kind": "search"}})
    assert one.hash == other.hash
    assert len(one.hash) == 16
    assert int(one.hash, 16) >= 0


def test_different_genotypes_have_different_hashes() -> None:
    genotypes = [sampled(seed) for seed in range(500)]
    different = {str(genotype.architecture.canonical()) for genotype in genotypes}
    assert len({genotype.hash for genotype in genotypes}) == len(different) > 490
    assert len({load_genotype(name).hash for name in ZOO}) == len(ZOO)


def test_many_equal_nodes_do_not_take_long() -> None:
    """All orders of 8 nodes would be 40,320 a cell."""
    equal = Cell(((Edge(OPS[0], 0),),) * 8, tuple(range(2, 10)))
    readers = Cell(
        (*((Edge(OPS[0], 0),),) * 6, *((Edge(OPS[1], 2), Edge(OPS[1], 3)),) * 2),
        tuple(range(2, 10)),
    )
    start = time.process_time()
    for cell in (equal, readers):
        cell.canonical()
    assert time.process_time() - start < 1
