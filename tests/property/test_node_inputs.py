"""The choice of a node's two edges: probabilities by enumeration, draws, gradients, derivation."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest
import torch
from choice_samples import all_candidates
from hypothesis import given
from hypothesis import strategies as st
from lightning.fabric import Fabric
from torch import Tensor

from nas_encoder.errors import NasEncoderError
from nas_encoder.network.choices.edges import (
    draw_taken,
    inclusion_probabilities,
    relative_entropy,
    rows_of_nodes,
)
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.network.choices.straight_through import straight_through
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.steps import StepsContext
from nas_encoder.search.gradient.strategies.drawn import DrawnEdgesSteps
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.space import derive_cell, edge_list

NODES = 4
seeds = st.integers(0, 2**32)


def strengths_of(seed: int, nodes: int = NODES, scale: float = 2.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    edges = len(edge_list(nodes))
    return scale * torch.randn(edges, dtype=torch.float64, generator=generator)


def written_out(strengths: list[float]) -> list[float]:
    """The definition for one node: each pair weighs the product of its edges' exponentials."""
    total, found = 0.0, [0.0] * len(strengths)
    for i, j in itertools.combinations(range(len(strengths)), 2):
        weight = math.exp(strengths[i]) * math.exp(strengths[j])
        total += weight
        found[i] += weight
        found[j] += weight
    return [value / total for value in found]


@given(seeds, st.integers(1, 6))
def test_probabilities_are_those_of_pairs(seed: int, nodes: int) -> None:
    strengths = strengths_of(seed, nodes)
    got = inclusion_probabilities(strengths)
    heads = [head for head, _ in edge_list(nodes)]
    assert [list(rows) for rows in rows_of_nodes(len(heads))] == [
        [row for row, head in enumerate(heads) if head == node] for node in range(nodes)
    ]
    for rows in rows_of_nodes(len(heads)):
        expected = written_out(strengths[list(rows)].tolist())
        torch.testing.assert_close(got[list(rows)], torch.tensor(expected).double())
        assert float(got[list(rows)].sum()) == pytest.approx(2.0)
    assert got[:2].tolist() == pytest.approx([1.0, 1.0])  # the first node has no choice


def test_edges_that_no_cell_has() -> None:
    with pytest.raises(ValueError, match="no cell has 6 edges"):
        inclusion_probabilities(torch.zeros(6))


@given(seeds)
def test_a_draw_takes_two_edges_of_each_node(seed: int) -> None:
    strengths = strengths_of(seed)
    taken = draw_taken(strengths, torch.Generator().manual_seed(seed))
    assert taken == draw_taken(strengths, torch.Generator().manual_seed(seed))
    for rows in rows_of_nodes(len(taken)):
        assert sum(taken[row] for row in rows) == 2


def test_draws_follow_the_probabilities() -> None:
    strengths = strengths_of(3, scale=1.0)
    generator = torch.Generator().manual_seed(0)
    count = 2000
    counts: Counter[int] = Counter()
    for _ in range(count):
        counts.update(row for row, take in enumerate(draw_taken(strengths, generator)) if take)
    expected = inclusion_probabilities(strengths)
    got = torch.tensor([counts[row] / count for row in range(len(strengths))]).double()
    torch.testing.assert_close(got, expected, rtol=0.0, atol=0.05)  # 4 to 5 deviations


@given(seeds)
def test_entropy(seed: int) -> None:
    edges = len(edge_list(NODES))
    assert relative_entropy(torch.zeros(edges)) == pytest.approx(1.0)
    assert 0 <= relative_entropy(strengths_of(seed)) <= 1 + 1e-12
    order = torch.randperm(edges, generator=torch.Generator().manual_seed(seed))
    assert relative_entropy(1e4 * order.double()) == pytest.approx(0.0, abs=1e-9)
    assert relative_entropy(torch.zeros(2)) == 0.0


def test_the_estimator_is_that_of_the_choice_of_a_pair() -> None:
    """Straight-through over pairs (Zheng, An, Ou 2021), written out, equals what edges give.

    A node with 4 edges whose outputs are points of the plane; with z the one-hot vector of the
    pair that is drawn, dL/dp_pair := <dL/dy, o_i + o_j>, through the softmax over the 6 pairs.
    """
    own = torch.tensor([0.3, -0.4, 0.9, 0.1], dtype=torch.float64)
    # The other nodes' strengths play no part; this is the third one of a cell.
    strengths = torch.cat([torch.zeros(5).double(), own]).requires_grad_()
    outputs = torch.tensor([[1.0, 0.2], [-0.5, 1.5], [0.4, -2.0], [2.0, 0.3]]).double()
    target = torch.tensor([0.5, -0.25]).double()
    pairs = list(itertools.combinations(range(4), 2))
    logits = torch.stack([own[i] + own[j] for i, j in pairs]).requires_grad_()
    for drawn in pairs:
        edges = inclusion_probabilities(strengths)[5:]
        y = torch.zeros(2).double()
        for edge in range(4):
            share = edges[edge : edge + 1]
            if edge in drawn:
                y = y + straight_through(outputs[edge], share, [outputs[edge]], 0)
            else:
                y = y + straight_through(torch.zeros(2).double(), share, [outputs[edge]], -1)
        torch.testing.assert_close(y, outputs[list(drawn)].sum(0))
        (got,) = torch.autograd.grad(0.5 * (y - target).square().sum(), strengths)

        slope = outputs[list(drawn)].sum(0) - target
        of_pairs = torch.stack([(outputs[i] + outputs[j]) @ slope for i, j in pairs])
        (of_logits,) = torch.autograd.grad((logits.softmax(0) * of_pairs).sum(), logits)
        expected = torch.zeros(4).double()
        for value, pair in zip(of_logits, pairs, strict=True):
            for edge in pair:
                expected[edge] += value
        torch.testing.assert_close(got[5:], expected)
        assert float(got[:5].abs().max()) == 0.0
        assert float(got[5:].abs().max()) > 0.1


@given(seeds)
def test_mixtures_weigh_by_both_probabilities(seed: int) -> None:
    alive = all_candidates(get_space("asr_revised"), learned_edges=True)
    assert all("none" not in edge for edges in alive.values() for edge in edges)
    plain = ArchitectureParameters(alive, torch.Generator().manual_seed(seed))
    made = ArchitectureParameters(alive, torch.Generator().manual_seed(seed), learned_edges=True)
    for kind, alphas in plain.alphas.items():  # the same start with and without
        assert torch.equal(made.alphas[kind], alphas)
        assert torch.equal(plain.mixture()[kind], plain.weights()[kind])
        made.strengths[kind].data.copy_(strengths_of(seed))
        rows = made.mixture()[kind].sum(-1)
        torch.testing.assert_close(rows, made.edges()[kind])
    assert plain.edges() == plain.edge_probabilities() == plain.edge_entropy() == {}


@pytest.mark.slow
@given(seeds)
def test_drawn_edges_are_there_or_not(seed: int) -> None:
    """Rows of a drawn mixture are the operations' or zero; every strength has its gradient."""
    alive = all_candidates(get_space("asr_revised"), learned_edges=True)
    made = ArchitectureParameters(alive, torch.Generator().manual_seed(seed), learned_edges=True)
    for kind, strengths in made.strengths.items():
        strengths.data.copy_(strengths_of(seed, scale=1.0) if kind == "normal" else 0 * strengths)
    steps = drawing(made, seed)
    mixture = steps.architecture_mixture()
    again = drawing(made, seed)
    with torch.no_grad():
        for kind, rows in again.mixture().items():
            torch.testing.assert_close(rows, mixture[kind].detach())
    for kind, rows in mixture.items():
        weights, strengths = made.weights()[kind], made.strengths[kind]
        taken = rows.detach().sum(-1) > 0.5
        assert int(taken.sum()) == 8
        torch.testing.assert_close(rows[taken], weights[taken])
        assert float(rows[~taken].detach().abs().max()) < 1e-6
        slope = torch.randn(rows.shape, generator=torch.Generator().manual_seed(seed))
        got = torch.autograd.grad((slope * rows).sum(), [strengths, made.alphas[kind]])
        edges = inclusion_probabilities(strengths)
        own = (slope * weights).sum(-1)
        (of_edges,) = torch.autograd.grad((edges * own.detach()).sum(), strengths)
        (of_alphas,) = torch.autograd.grad((own * taken).sum(), made.alphas[kind])
        torch.testing.assert_close(got[0], of_edges)
        torch.testing.assert_close(got[1], of_alphas)


def test_scores_are_over_the_same_draws_every_time() -> None:
    alive = all_candidates(get_space("darts"), learned_edges=True)
    made = ArchitectureParameters(alive, torch.Generator().manual_seed(0), learned_edges=True)
    steps = drawing(made, 5)
    state = steps.state()
    first = [mixture["normal"].detach() for mixture in itertools.islice(steps.score_mixtures(), 3)]
    then = [mixture["normal"].detach() for mixture in itertools.islice(steps.score_mixtures(), 3)]
    assert all(map(torch.equal, first, then)) and not torch.equal(first[0], first[1])
    assert torch.equal(steps.state()["paths"], state["paths"])  # none of the search's own


def drawing(made: ArchitectureParameters, seed: int) -> DrawnEdgesSteps:
    network = torch.nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    context = StepsContext(
        Fabric(accelerator="cpu", devices=1),
        network,
        made,
        optimizer,
        optimizer,
        0.0,
        StageConfig(),
        seed,
    )
    return DrawnEdgesSteps(context)


@given(seeds)
def test_learned_edges_decide_what_a_node_takes(seed: int) -> None:
    rng = random.Random(seed)
    operations = get_space("asr_revised").choices
    table = [{op: rng.random() for op in operations} for _ in edge_list(NODES)]
    edges = [rng.choice([0.5, rng.random()]) for _ in edge_list(NODES)]
    cell = derive_cell(table, NODES, edges=edges)
    places = edge_list(NODES)
    for node, own in enumerate(cell.nodes):
        sources = [edge.source for edge in own]
        assert len(set(sources)) == 2
        weakest = min(edges[places.index((node, source))] for source in sources)
        for source in range(2 + node):
            if source not in sources:
                assert edges[places.index((node, source))] <= weakest
        for edge in own:
            row = table[places.index((node, edge.source))]
            assert row[edge.op] == max(row.values())


def test_ties_of_edges_go_to_the_lower_source() -> None:
    table = [{"sep_conv_3x3": 1.0} for _ in edge_list(NODES)]
    cell = derive_cell(table, NODES, edges=[0.4] * len(table))
    assert all([edge.source for edge in node] == [0, 1] for node in cell.nodes)
    with pytest.raises(NasEncoderError, match="4 nodes have 14 edges, got 3 strengths"):
        derive_cell(table, NODES, edges=[0.4] * 3)
