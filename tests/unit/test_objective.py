"""Costs of the network that a search derives: exact where certain, and held to a budget."""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
import torch
from choice_samples import all_candidates
from torch import Tensor

from nas_encoder.errors import ConfigError
from nas_encoder.network import build_encoder
from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.network.choices.edges import inclusion_probabilities
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.search import SearchConfig
from nas_encoder.search.gradient.objective import Objective
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.space import KINDS, derive_cell, edge_list
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig
from nas_encoder.spaces.tdnn_chain.space import ChainConfig

SIZES: tuple[dict[str, Any], ...] = (
    {"input_size": 13, "output_size": 11},
    {"input_size": 21, "output_size": 9, "stem_stride": (2, 2), "hidden_sizes": (7,),
     "deltas": False},
)  # fmt: skip


def make(space: str = "asr_revised", size: dict[str, Any] = SIZES[0], **config: Any) -> Objective:
    settings = ObjectiveConfig(**{"layers": 6, "channels": 3, "seconds": 0.37, **config})
    kinds = {"tdnn_chain": ChainConfig, "nasbench_asr": NasBenchConfig}
    network: Any = kinds.get(space, CellConfig)(**size)
    objective = Objective.of(settings, get_space(space), network, 0.01)
    assert objective is not None
    return objective


def certain(architecture: CellArchitecture, operations: tuple[str, ...]) -> dict[str, Tensor]:
    """Return the probabilities of an architecture that is already decided."""
    tables = {}
    edges = edge_list(4)
    for kind in KINDS:
        table = torch.zeros(len(edges), len(operations), dtype=torch.float64)
        table[:, operations.index("none")] = 1
        for node, chosen in enumerate(getattr(architecture, kind).nodes):
            for edge in chosen:
                row = edges.index((node, edge.source))
                table[row] = 0
                table[row, operations.index(edge.op)] = 1
        tables[kind] = table
    return tables


@pytest.mark.parametrize("space", ["darts", "asr_revised"])
@pytest.mark.parametrize("size", SIZES, ids=["plain", "strided"])
def test_costs_are_those_of_the_network_that_is_built(space: str, size: dict[str, Any]) -> None:
    objective = make(space, size)
    cells = get_space(space)
    for seed in range(6):
        architecture = cells.sample(random.Random(seed))
        network = build_encoder(architecture, layers=6, channels=3, **size)
        costs = objective.costs.of(architecture.architecture)
        assert costs["parameters"] == count_parameters(network)
        assert costs["macs"] == count_macs(network, 37, size["input_size"])


@pytest.mark.parametrize("space", ["darts", "asr_revised"])
def test_certain_choices_cost_what_their_network_costs(space: str) -> None:
    objective, cells = make(space), get_space(space)
    for seed in range(60):
        architecture = cells.sample(random.Random(seed)).architecture
        weights = certain(architecture, cells.operations)
        expected = objective.costs.expected(weights, all_candidates(cells))
        assert {k: float(v) for k, v in expected.items()} == objective.costs.of(architecture)


@pytest.mark.parametrize("width", [None, 6])
@pytest.mark.parametrize("output", [5, 9])
def test_costs_of_chains(width: int | None, output: int) -> None:
    size = {"input_size": 7, "channels": 5, "output_size": output}
    objective, space = (
        make("tdnn_chain", size, layers=None, channels=width),
        get_space("tdnn_chain"),
    )
    alive = all_candidates(space)
    for seed in range(4):
        genotype = space.sample(random.Random(seed))
        network = build_encoder(genotype, **{**size, "channels": width or 5})
        costs = objective.costs.of(genotype.architecture)
        assert costs["parameters"] == count_parameters(network)
        assert costs["macs"] == count_macs(network, 37, 7)
        one_hot = torch.tensor(
            [[float(op == own) for op in space.choices] for own in genotype.architecture.blocks]
        )
        expected = objective.costs.expected({"blocks": one_hot}, alive)
        assert {name: float(value) for name, value in expected.items()} == costs
    weights = torch.full((space.blocks, 4), 0.25, requires_grad=True)
    dear = space.decode([3] * 6).architecture
    budget = 1.02 * make("tdnn_chain", size).costs.cheapest("parameters")
    penalty = make("tdnn_chain", size, parameters=budget).penalty({"blocks": weights}, alive, dear)
    penalty.backward()
    grad = weights.grad
    assert grad is not None
    # A context of 2 costs more than one of 1, the dilation costs nothing.
    assert torch.all(grad[:, 2:] > grad[:, :2]) and torch.equal(grad[:, 0], grad[:, 1])
    with pytest.raises(ConfigError, match="is for spaces of cells"):
        make("tdnn_chain", size, latency_ms=3)


@pytest.mark.parametrize("width", [None, 24])
@pytest.mark.parametrize("lstm", [0, 5])
def test_costs_of_nodes(width: int | None, lstm: int) -> None:
    size = {"input_size": 7, "channels": 12, "output_size": 9, "block_cells": (1, 0, 2, 1)}
    size["lstm_size"] = lstm
    space = get_space("nasbench_asr")
    costs = make(space.name, size, layers=None, channels=width).costs
    alive = all_candidates(space)
    members = [space.sample(random.Random(seed)) for seed in range(8)]
    for genotype in [*members, space.decode([5] + [0] * 8), space.decode([0, 1] * 2 + [0] * 5)]:
        network = build_encoder(genotype, **{**size, "channels": width or 12})
        found = costs.of(genotype.architecture)
        assert found["parameters"] == count_parameters(network)
        assert found["macs"] == count_macs(network, 37, 7)
        names = [node.op for node in genotype.architecture.nodes]
        if "zero" in names:  # never derived: the expectation is over the others
            continue
        one_hot = torch.tensor([[float(op == own) for op in space.operations] for own in names])
        weights = {"nodes": one_hot, "skips": torch.full((6, 2), 0.5)}
        expected = costs.expected(weights, alive)
        assert {name: float(value) for name, value in expected.items()} == found
    uniform = {"nodes": torch.full((3, 6), 1 / 6)}
    mean = costs.expected(uniform, alive)["parameters"]
    every = [costs.of(space.decode([op, 0, op, 0, 0, op, 0, 0, 0]).architecture) for op in range(5)]
    assert float(mean) == pytest.approx(sum(cost["parameters"] for cost in every) / 5)
    assert costs.cheapest("macs") == min(cost["macs"] for cost in every)
    with pytest.raises(ConfigError, match="is for spaces of cells"):
        make(space.name, size, latency_ms=3)


def test_the_expectation_is_the_mean_over_networks_drawn_as_it_says() -> None:
    """Drawn: two edges a node in proportion to their strengths, then an operation for each."""
    objective, cells = make(), get_space("asr_revised")
    # One node's choices are open, the other nodes' certain.
    architecture = cells.sample(random.Random(4)).architecture
    weights = certain(architecture, cells.operations)
    edges = edge_list(4)
    rows = [row for row, (head, _) in enumerate(edges) if head == 3]
    generator = torch.Generator().manual_seed(1)
    weights["normal"][rows] = torch.rand(
        len(rows), 8, dtype=torch.float64, generator=generator
    ).softmax(1)
    table = weights["normal"][rows][:, 1:]  # without none
    strengths = table.amax(1)
    mean = 0.0
    for first in range(len(rows)):
        for second in range(len(rows)):
            if first == second:
                continue
            chance = strengths[first] / strengths.sum()
            chance = chance * strengths[second] / (strengths.sum() - strengths[first])
            for place in (first, second):
                shares = table[place] / table[place].sum()
                source = edges[rows[place]][1]
                for op, share in zip(cells.operations[1:], shares, strict=True):
                    mean += float(chance * share) * sum(
                        objective.costs._costs[cell.operation(op, source)]["parameters"]
                        for cell in objective.costs.network.cells
                        if cell.place.kind == "normal"
                    )
    others = certain(architecture, cells.operations)
    others["normal"][rows] = 0.0
    others["normal"][rows, 0] = 1.0
    base = float(objective.costs.expected(others, all_candidates(cells))["parameters"])
    got = float(objective.costs.expected(weights, all_candidates(cells))["parameters"])
    assert got == pytest.approx(base + mean, rel=1e-9)


def test_learned_edges_are_taken_as_they_say() -> None:
    """The cost of the genotype where they are certain, else of all networks by their share."""
    objective, cells = make(parameters=1.0e4), get_space("asr_revised")
    alive = all_candidates(cells, learned_edges=True)
    architecture = cells.sample(random.Random(4)).architecture
    weights, edges = {}, {}
    for kind in KINDS:
        own = {
            (n, e.source): e.op
            for n, node in enumerate(getattr(architecture, kind).nodes)
            for e in node
        }
        places = edge_list(4)
        edges[kind] = torch.tensor([float(place in own) for place in places]).double()
        weights[kind] = torch.tensor(
            [
                [float(op == own.get(place, "sep_conv_5x5")) for op in cells.choices]
                for place in places
            ]
        ).double()
    expected = objective.costs.expected(weights, alive, edges)
    assert {name: float(v) for name, v in expected.items()} == pytest.approx(
        objective.costs.of(architecture)
    )
    # The last node is open: the mean over the pairs that it can take, by their probabilities.
    strengths = torch.tensor([0.3, -0.5, 1.0, 0.0, -0.2]).double().requires_grad_()
    rows = list(range(9, 14))
    everything = torch.cat([torch.zeros(9).double(), strengths])
    open_edges = {
        **edges,
        "normal": torch.cat([edges["normal"][:9], inclusion_probabilities(everything)[9:]]),
    }
    mean, total = 0.0, 0.0
    for i, j in itertools.combinations(range(5), 2):
        chance = float((strengths[i] + strengths[j]).detach().exp())
        taken = edges["normal"].clone()
        taken[rows] = 0.0
        taken[[rows[i], rows[j]]] = 1.0
        value = objective.costs.expected(weights, alive, {**edges, "normal": taken})["macs"]
        mean, total = mean + chance * float(value), total + chance
    got = objective.costs.expected(weights, alive, open_edges)["macs"]
    assert float(got.detach()) == pytest.approx(mean / total)
    objective.penalty(weights, alive, architecture, open_edges).backward()
    assert strengths.grad is not None and float(strengths.grad.abs().max()) > 0


def test_the_gradient_is_that_of_the_expectation() -> None:
    objective, cells = make(parameters=1.0e4, macs=1.0e6), get_space("asr_revised")
    alive = all_candidates(cells)
    generator = torch.Generator().manual_seed(3)
    alphas = {
        kind: torch.randn(14, 8, dtype=torch.float64, generator=generator).requires_grad_()
        for kind in KINDS
    }

    def total(*values: Tensor) -> Tensor:
        weights = dict(zip(KINDS, [value.softmax(1) for value in values], strict=True))
        return torch.stack(list(objective.costs.expected(weights, alive).values())).log().sum()

    assert torch.autograd.gradcheck(total, tuple(alphas.values()))
    architecture = cells.sample(random.Random(0)).architecture
    weights = {kind: value.softmax(1) for kind, value in alphas.items()}
    objective.penalty(weights, alive, architecture).backward()
    own = [value.grad for value in alphas.values()]
    theirs = torch.autograd.grad(total(*alphas.values()), list(alphas.values()))
    for ours, other in zip(own, theirs, strict=True):
        torch.testing.assert_close(ours, other)


def search_on_a_toy(objective: Objective | None, seed: int = 0) -> CellArchitecture:
    """Move alphas against a made-up loss that likes expensive operations, and the penalty."""
    cells = get_space("asr_revised")
    alive = all_candidates(cells)
    parameters = ArchitectureParameters(alive, torch.Generator().manual_seed(seed))
    optimizer = torch.optim.Adam(parameters.parameters(), lr=0.05, betas=(0.5, 0.999))
    liked = torch.tensor(
        [float("conv_7x1_1x7" == op) + 0.5 * ("sep" in op) for op in cells.operations]
    )
    noise = torch.Generator().manual_seed(seed)

    def derive() -> CellArchitecture:
        table = parameters.probabilities()
        return CellArchitecture(*(derive_cell(table[kind], cells.nodes) for kind in KINDS))

    for _ in range(150):
        weights = parameters.weights()
        loss = sum(
            -(weights[kind] * (liked + 0.2 * torch.randn(14, 8, generator=noise))).sum(1).mean()
            for kind in KINDS
        )
        if objective is not None:
            loss = loss + objective.penalty(weights, alive, derive())
        optimizer.zero_grad()
        torch.as_tensor(loss).backward()
        optimizer.step()
    return derive()


@pytest.mark.slow
@pytest.mark.parametrize("quantity", ["parameters", "macs"])
def test_a_budget_is_kept_that_would_not_be_kept_without_it(quantity: str) -> None:
    costs = make().costs
    unbound = costs.of(search_on_a_toy(None))[quantity]
    cells = get_space("asr_revised")
    cheap = min(
        costs.of(cells.sample(random.Random(seed)).architecture)[quantity] for seed in range(50)
    )
    for share in (0.8, 0.5, 0.2):
        budget = cheap + share * (unbound - cheap)
        bound = costs.of(search_on_a_toy(make(weight=30.0, **{quantity: budget})))[quantity]
        assert bound <= budget < unbound
        # It uses what it may: the pull ends where the budget is kept.
        assert bound > 0.6 * budget
    assert costs.of(search_on_a_toy(make(weight=0.0, **{quantity: budget})))[quantity] == unbound


@pytest.mark.parametrize("space", ["darts", "asr_revised", "tdnn_chain"])
@pytest.mark.parametrize("quantity", ["parameters", "macs"])
def test_no_network_is_cheaper_than_the_cheapest(space: str, quantity: str) -> None:
    size = {"input_size": 13, "output_size": 11}
    costs, known = make(space, size).costs, get_space(space)
    least = costs.cheapest(quantity)
    found = [
        costs.of(known.sample(random.Random(seed)).architecture)[quantity] for seed in range(200)
    ]
    assert least <= min(found)
    # One costs just that: pooling everywhere, a short context everywhere.
    cheap = [choice.startswith(("max_pool", "tdnn_c1_d1")) for choice in known.choices].index(True)
    if space == "tdnn_chain":
        vector = [cheap] * 6
    else:
        vector = [0, cheap, cheap] * 8
    assert costs.of(known.decode(vector).architecture)[quantity] == least
    with pytest.raises(ConfigError, match=f"{quantity}: no network of the space and of this size"):
        make(space, size, **{quantity: 0.99 * least})
    make(space, size, **{quantity: 1.01 * least})


def test_within_the_budget_nothing_is_added() -> None:
    objective, cells = make(parameters=1e9, macs=1e12), get_space("asr_revised")
    parameters = ArchitectureParameters(all_candidates(cells), torch.Generator().manual_seed(0))
    architecture = cells.sample(random.Random(0)).architecture
    penalty = objective.penalty(parameters.weights(), all_candidates(cells), architecture)
    assert float(penalty) == 0 and not penalty.requires_grad
    report = objective.report(parameters.weights(), all_candidates(cells), architecture)
    assert report["macs"].budget == 1e12
    assert report["parameters"].derived == objective.costs.of(architecture)["parameters"]


def test_pruned_choices_cost_too() -> None:
    """In later stages edges have different operations alive, in the space's order."""
    objective, cells = make(), get_space("asr_revised")
    rng = random.Random(0)
    alive = {
        kind: tuple(
            tuple(op for op in cells.operations if op in chosen)
            for chosen in (rng.sample(cells.operations, 3) for _ in range(14))
        )
        for kind in KINDS
    }
    weights = {kind: torch.full((14, 3), 1 / 3) for kind in KINDS}
    expected = objective.costs.expected(weights, alive)
    wide = {
        kind: torch.tensor([[float(op in e) / 3 for op in cells.operations] for e in alive[kind]])
        for kind in KINDS
    }
    for name, value in objective.costs.expected(wide, all_candidates(cells)).items():
        assert float(value) == pytest.approx(float(expected[name]), rel=1e-6)


def test_a_budget_in_latency_needs_a_table_and_says_how_to_make_it() -> None:
    with pytest.raises(ConfigError) as caught:
        make(latency_ms=80)
    text = str(caught.value)
    assert "nas-encoder bench --operations --space asr_revised --layers 6 --channels 3" in text
    assert "--set objective.table=latency.yaml" in text


def test_the_section_of_the_configuration() -> None:
    config = SearchConfig.from_dict({"objective": {"macs": 5.0e9, "layers": 8}})
    assert config.objective == ObjectiveConfig(macs=5.0e9, layers=8)
    assert config.objective.budgets == {"macs": 5.0e9}
    assert SearchConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ConfigError) as caught:
        SearchConfig.from_dict(
            {"objective": {"macs": -1, "latency": 3, "weight": "x", "layers": 2, "table": ""}}
        )
    lines = "\n".join(caught.value.problems)
    for part in (
        "objective.latency: unknown key (did you mean 'latency_ms'?)",
        "objective.macs: must be a number above 0",
        "objective.weight: must be a number in 0..1e+06, got 'x'",
        "objective.layers: must be in 3..1024, got 2",
        "objective.table: must be a file's path or null",
    ):
        assert part in lines
