"""Derivation and pruning of small tables, worked out by hand."""

from __future__ import annotations

import pytest

from nas_encoder.common.choices import prune
from nas_encoder.spaces.cells.architecture import Cell, Edge
from nas_encoder.spaces.cells.space import derive_cell, edge_list

# Two nodes: edges (0, k-2), (0, k-1), (1, k-2), (1, k-1), (1, node 0).
TABLE = [
    {"none": 0.70, "avg_pool_3x3": 0.20, "sep_conv_3x3": 0.10},  # best 0.20, average pool
    {"none": 0.10, "avg_pool_3x3": 0.50, "sep_conv_3x3": 0.40},  # best 0.50, average pool
    {"none": 0.05, "avg_pool_3x3": 0.35, "sep_conv_3x3": 0.60},  # best 0.60, convolution
    {"none": 0.34, "avg_pool_3x3": 0.33, "sep_conv_3x3": 0.33},  # best 0.33, tie: pool is first
    {"none": 0.00, "avg_pool_3x3": 0.55, "sep_conv_3x3": 0.45},  # best 0.55, average pool
]


def cell(*nodes: tuple[tuple[str, int], ...]) -> Cell:
    return Cell(tuple(tuple(Edge(op, source) for op, source in node) for node in nodes), (2, 3))


def test_edges_are_listed_node_by_node() -> None:
    assert edge_list(2) == [(0, 0), (0, 1), (1, 0), (1, 1), (1, 2)]
    assert [len(edge_list(n)) for n in (1, 2, 3, 4)] == [2, 5, 9, 14]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (
            8,
            cell(
                (("avg_pool_3x3", 0), ("avg_pool_3x3", 1)),
                (("sep_conv_3x3", 0), ("avg_pool_3x3", 2)),
            ),
        ),
        # The weakest of the three is the one of 0.20.
        (
            2,
            cell(
                (("sep_conv_3x3", 0), ("avg_pool_3x3", 1)),
                (("sep_conv_3x3", 0), ("avg_pool_3x3", 2)),
            ),
        ),
        # Then that of 0.50; its edge has a convolution of 0.40 left.
        (
            1,
            cell(
                (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
                (("sep_conv_3x3", 0), ("avg_pool_3x3", 2)),
            ),
        ),
        # Then that of 0.55. Its edge's convolution, 0.45, still beats the other edge's 0.33.
        (
            0,
            cell(
                (("sep_conv_3x3", 0), ("sep_conv_3x3", 1)),
                (("sep_conv_3x3", 0), ("sep_conv_3x3", 2)),
            ),
        ),
    ],
)
def test_by_hand(limit: int, expected: Cell) -> None:
    assert derive_cell(TABLE, 2, {"avg_pool_3x3": limit}) == expected


def test_a_forbidden_operation_can_cost_its_edge_the_place() -> None:
    table = [dict(edge) for edge in TABLE]
    table[4] = {"none": 0.0, "avg_pool_3x3": 0.55, "sep_conv_3x3": 0.10}
    table[3] = {"none": 0.0, "avg_pool_3x3": 0.10, "sep_conv_3x3": 0.30}
    derived = derive_cell(table, 2, {"avg_pool_3x3": 0})
    assert derived.nodes[1] == (Edge("sep_conv_3x3", 0), Edge("sep_conv_3x3", 1))


def test_prune_by_hand() -> None:
    assert prune(TABLE, 2) == (
        ("none", "avg_pool_3x3"),
        ("avg_pool_3x3", "sep_conv_3x3"),
        ("avg_pool_3x3", "sep_conv_3x3"),
        ("none", "avg_pool_3x3"),
        ("avg_pool_3x3", "sep_conv_3x3"),
    )
    # With average pooling limited, an edge may not be left with it and 'none' alone.
    assert prune(TABLE, 2, ["none", "avg_pool_3x3"])[0] == ("none", "sep_conv_3x3")
    assert prune(TABLE, 1, ["none"])[0] == ("avg_pool_3x3",)
