"""Pruning and derivation hold their rules for any probabilities."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence

import pytest
from choice_samples import CELL_SPACE_OPERATIONS
from hypothesis import given
from hypothesis import strategies as st

from nas_encoder.common.choices import prune
from nas_encoder.errors import NasEncoderError
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.architecture import Cell
from nas_encoder.spaces.cells.space import derive_cell, edge_list
from nas_encoder.spaces.tdnn_chain.space import TDNN_OPERATIONS

OPERATIONS = get_space("asr_revised").operations
LIMITED = "avg_pool_3x3"
NODES = 4
Table = list[dict[str, float]]

seeds = st.integers(0, 2**32)


def draw_value(rng: random.Random) -> float:
    """Few different values, so that ties are common, or any."""
    return rng.choice([0.0, 0.25, 0.5, rng.random()])


def make_table(seed: int, free: bool = False) -> Table:
    """Return operations that pruning could have left, with a probability for each.

    Whole tables are drawn from a seed: hypothesis would take 50 times as long to draw each of
    their 100 numbers.

    Args:
        seed: Of everything.
        free: Whether each edge has an operation beside 'none' and the limited one.
    """
    rng = random.Random(seed)
    size = rng.randint(2, len(OPERATIONS))
    table = []
    for _ in edge_list(NODES):
        always = rng.choice(OPERATIONS[3:] if free else OPERATIONS[1:])
        kept = {always, *rng.sample(OPERATIONS, size - 1)}
        table.append({op: draw_value(rng) for op in OPERATIONS if op in kept})
    return table


tables = st.builds(make_table, seeds)
free_tables = st.builds(make_table, seeds, free=st.just(True))


def best(edge: Mapping[str, float]) -> float:
    return max(p for op, p in edge.items() if op != "none")


def chosen_edges(cell: Cell) -> dict[tuple[int, int], str]:
    return {(n, edge.source): edge.op for n, node in enumerate(cell.nodes) for edge in node}


@given(tables)
def test_each_node_takes_its_two_strongest_edges(table: Table) -> None:
    cell = derive_cell(table, NODES)
    chosen = chosen_edges(cell)
    edges = dict(zip(edge_list(NODES), table, strict=True))
    assert cell.concat == (2, 3, 4, 5)
    for node, own in enumerate(cell.nodes):
        sources = [edge.source for edge in own]
        assert len(own) == 2 and sources == sorted(set(sources))
        weakest = min(best(edges[node, source]) for source in sources)
        for source in range(2 + node):
            if source not in sources:
                assert best(edges[node, source]) <= weakest
    for place, op in chosen.items():
        assert op != "none"
        assert edges[place][op] == best(edges[place])


@given(free_tables, st.integers(0, 8))
def test_limits_are_kept(table: Table, limit: int) -> None:
    cell = derive_cell(table, NODES, {LIMITED: limit})
    count = Counter(edge.op for edge in cell.edges)[LIMITED]
    assert count <= limit
    plain = derive_cell(table, NODES)
    if Counter(edge.op for edge in plain.edges)[LIMITED] <= limit:
        assert cell == plain


@given(free_tables)
def test_the_limit_forbids_the_least_probable_first(table: Table) -> None:
    plain = derive_cell(table, NODES)
    places = [place for place, op in chosen_edges(plain).items() if op == LIMITED]
    if not places:
        return
    edges = dict(zip(edge_list(NODES), table, strict=True))
    strongest = max(edges[place][LIMITED] for place in places)
    weakest = min(edges[place][LIMITED] for place in places)
    limited = chosen_edges(derive_cell(table, NODES, {LIMITED: len(places) - 1}))
    if strongest > weakest:
        kept = [place for place in places if edges[place][LIMITED] == strongest]
        assert any(limited.get(place) == LIMITED for place in kept)


@given(tables)
def test_the_table_is_not_changed(table: Table) -> None:
    before = [dict(edge) for edge in table]
    derive_cell(table, NODES, {LIMITED: 8})
    prune(table, 2)
    assert table == before


@given(free_tables, seeds)
def test_only_the_order_of_the_values_matters(table: Table, seed: int) -> None:
    rng = random.Random(seed)
    ranks = sorted({p for edge in table for p in edge.values()})
    steps = [rng.uniform(0.1, 1.0) for _ in ranks]
    moved = {p: sum(steps[: place + 1]) for place, p in enumerate(ranks)}
    other = [{op: moved[p] for op, p in edge.items()} for edge in table]
    assert derive_cell(other, NODES, {LIMITED: 1}) == derive_cell(table, NODES, {LIMITED: 1})
    assert prune(other, 2, (LIMITED,)) == prune(table, 2, (LIMITED,))


@given(st.floats(0, 1))
def test_ties_go_to_the_first_operation_and_source(value: float) -> None:
    table = [dict.fromkeys(OPERATIONS, value) for _ in edge_list(NODES)]
    cell = derive_cell(table, NODES)
    assert chosen_edges(cell) == {(n, s): OPERATIONS[1] for n in range(NODES) for s in (0, 1)}
    assert prune(table, 3) == (OPERATIONS[:3],) * len(table)


@given(tables, st.integers(1, 8))
def test_prune_keeps_the_most_probable(table: Table, keep: int) -> None:
    kept = prune(table, keep, ("none",))
    for edge, names in zip(table, kept, strict=True):
        assert len(names) == min(keep, len(edge))
        assert list(names) == [op for op in edge if op in names]
        assert any(op != "none" for op in names)
        dropped = [p for op, p in edge.items() if op not in names]
        # One place may go to an operation that a genotype can be made of.
        strong = sorted((edge[op] for op in names), reverse=True)[: len(names) - 1]
        assert all(p <= min(strong, default=1.0) for p in dropped)


@given(seeds)
@pytest.mark.parametrize("space", CELL_SPACE_OPERATIONS)
def test_a_genotype_within_the_limits_is_left_after_all_stages(space: str, seed: int) -> None:
    rng = random.Random(seed)
    operations = get_space(space).operations
    alive: Sequence[Sequence[str]] = [operations] * len(edge_list(NODES))
    for keep in (5, 3, 2, 1):
        table = [{op: draw_value(rng) for op in edge} for edge in alive]
        assert Counter(e.op for e in derive_cell(table, NODES, {LIMITED: 0}).edges)[LIMITED] == 0
        alive = prune(table, keep, ("none", LIMITED))
    table = [{op: draw_value(rng) for op in edge} for edge in alive]
    assert Counter(e.op for e in derive_cell(table, NODES, {LIMITED: 0}).edges)[LIMITED] == 0


def test_a_node_without_operations_is_an_error() -> None:
    table = [{"none": 1.0} for _ in edge_list(NODES)]
    with pytest.raises(NasEncoderError, match="node 0 has fewer than two edges"):
        derive_cell(table, NODES)


def test_a_limit_that_cannot_be_kept_is_an_error() -> None:
    table = [{LIMITED: 1.0} for _ in edge_list(NODES)]
    with pytest.raises(NasEncoderError, match="cannot keep avg_pool_3x3 to 2"):
        derive_cell(table, NODES, {LIMITED: 2})


def test_a_table_of_another_size_is_an_error() -> None:
    with pytest.raises(NasEncoderError, match="4 nodes have 14 edges, got 13"):
        derive_cell([{"sep_conv_3x3": 1.0}] * 13, NODES)


def derive_chain(table: Table) -> tuple[str, ...]:
    blocks: tuple[str, ...] = get_space("tdnn_chain").derive({"blocks": table}, {}).blocks
    return blocks


def make_blocks(seed: int) -> Table:
    rng = random.Random(seed)
    size = rng.randint(1, len(TDNN_OPERATIONS))
    return [
        {op: draw_value(rng) for op in TDNN_OPERATIONS if op in kept}
        for kept in (rng.sample(TDNN_OPERATIONS, size) for _ in range(rng.randint(1, 8)))
    ]


@given(st.builds(make_blocks, seeds))
def test_a_chain_takes_each_blocks_most_probable_operation(table: Table) -> None:
    before = [dict(block) for block in table]
    blocks = derive_chain(table)
    assert table == before
    assert len(blocks) == len(table)
    for op, block in zip(blocks, table, strict=True):
        highest = max(block.values())
        # The first of equals, in the space's order.
        assert op == next(name for name in TDNN_OPERATIONS if block.get(name) == highest)


@given(st.builds(make_blocks, seeds), seeds)
def test_of_a_chain_too_only_the_order_of_the_values_matters(table: Table, seed: int) -> None:
    scale = random.Random(seed).uniform(0.1, 5.0)
    other = [{op: scale * p + 1.0 for op, p in block.items()} for block in table]
    assert derive_chain(other) == derive_chain(table)


def test_a_block_without_operations_is_an_error() -> None:
    with pytest.raises(NasEncoderError, match="block 1 has no operation"):
        derive_chain([{"tdnn_c1_d1": 1.0}, {}])
