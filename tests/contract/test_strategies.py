"""What every gradient strategy must hold, in every space."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric

from nas_encoder.data import Batch, FeatureConfig
from nas_encoder.genotype import Genotype
from nas_encoder.network.choices.parameters import (
    BLOCKS,
    KINDS,
    NO_SKIP,
    NODES,
    SKIP,
    SKIPS,
    Alive,
    ArchitectureParameters,
    Probabilities,
    all_alive,
    edge_list,
)
from nas_encoder.search import SearchConfig
from nas_encoder.search.config.gradient import EDGES, StageConfig, searchable_spaces
from nas_encoder.search.config.sections import NetworkConfig
from nas_encoder.search.gradient.steps import StepsContext
from nas_encoder.search.gradient.strategies.base import GradientStrategy
from nas_encoder.search.strategies import GRADIENT, strategies
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.cells.space import CellSpace
from nas_encoder.spaces.nasbench_asr.architecture import ZERO, SkipArchitecture
from nas_encoder.spaces.nasbench_asr.space import NasBenchSpace
from nas_encoder.spaces.tdnn_chain.architecture import ChainArchitecture
from nas_encoder.spaces.tdnn_chain.space import ChainSpace
from nas_encoder.tables import STRATEGIES

STAGES = (
    StageConfig(layers=5, operations=8, epochs=4, warmup_epochs=2),
    StageConfig(layers=11, operations=5, epochs=3, warmup_epochs=0),
    StageConfig(layers=17, operations=3, epochs=5, warmup_epochs=4),
)
CHAIN_STAGES = tuple(
    replace(stage, layers=6, operations=count)
    for stage, count in zip(STAGES, (4, 3, 2), strict=True)
)
NODE_STAGES = tuple(
    replace(stage, layers=layers, operations=count)
    for stage, layers, count in zip(STAGES, (4, 7, 18), (6, 4, 2), strict=True)
)


CASES = [(name, "operations") for name in searchable_spaces()]
CASES += [
    (name, edges)
    for edges in EDGES[1:]
    for name in searchable_spaces()
    if isinstance(get_space(name), CellSpace)
]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0]}-{case[1]}")
def case(request: pytest.FixtureRequest) -> Any:
    """A space, and how nodes come by their edges."""
    return request.param


@pytest.fixture
def space(case: tuple[str, str]) -> Any:
    return get_space(case[0])


@pytest.fixture
def learned(case: tuple[str, str]) -> bool:
    return case[1] != "operations"


@pytest.fixture(params=sorted(strategies(GRADIENT)))
def strategy(
    request: pytest.FixtureRequest, case: tuple[str, str], space: Any, learned: bool
) -> GradientStrategy:
    document = {
        "strategy": request.param,
        "space": space.name,
        "edges": case[1],
        "stages": [asdict(stage) for stage in stages_of(space, learned)],
    }
    return STRATEGIES[request.param].load()(SearchConfig.from_dict(document))


def stages_of(space: Any, learned_edges: bool = False) -> tuple[StageConfig, ...]:
    if isinstance(space, NasBenchSpace):
        return NODE_STAGES
    if isinstance(space, ChainSpace):
        return CHAIN_STAGES
    if learned_edges:  # no 'none'
        return (replace(STAGES[0], operations=7), *STAGES[1:])
    return STAGES


def edges_of(space: Any) -> dict[str, int]:
    """Return how many choices each kind has."""
    if isinstance(space, NasBenchSpace):
        return {NODES: 3, SKIPS: 6}
    if isinstance(space, ChainSpace):
        return {BLOCKS: space.blocks}
    return dict.fromkeys(KINDS, len(edge_list(4)))


def test_the_strategies_are_there() -> None:
    assert set(strategies(GRADIENT)) >= {"pdarts", "darts", "stnas"}


def probabilities(alive: Alive, seed: int) -> Probabilities:
    rng = random.Random(seed)
    return {
        kind: tuple({op: rng.choice([0.1, 0.2, rng.random()]) for op in edge} for edge in edges)
        for kind, edges in alive.items()
    }


def parameters(alive: Alive, seed: int, learned_edges: bool = False) -> ArchitectureParameters:
    generator = torch.Generator().manual_seed(seed)
    made = ArchitectureParameters(alive, generator, learned_edges)
    for parameter in made.parameters():
        parameter.data.normal_(generator=generator)
    return made


def require_choices(alive: Alive, space: Any, count: int) -> None:
    """Equally many operations on every edge, each once, in the space's order."""
    assert {kind: len(edges) for kind, edges in alive.items()} == edges_of(space)
    for kind, edges in alive.items():
        for edge in edges:
            if kind == SKIPS:  # never pruned
                assert edge == (NO_SKIP, SKIP)
                continue
            assert len(edge) == count
            assert list(edge) == [op for op in space.operations if op in edge]
            assert set(edge) - {"none", ZERO}


@pytest.mark.parametrize("seed", range(5))
def test_choices_shrink_as_the_stages_say(
    strategy: GradientStrategy, space: Any, learned: bool, seed: int
) -> None:
    alive = strategy.first_alive()
    stages = stages_of(space, learned)
    require_choices(alive, space, stages[0].operations)
    for stage in range(len(stages) - 1):
        table = probabilities(alive, seed)
        following = strategy.next_alive(stage, table)
        assert following == strategy.next_alive(stage, table)
        require_choices(following, space, stages[stage + 1].operations)
        for kind in alive:
            for before, after in zip(alive[kind], following[kind], strict=True):
                assert set(after) <= set(before)
        alive = following


@pytest.mark.parametrize("seed", range(5))
def test_a_member_of_the_space_is_derived_at_any_time(
    strategy: GradientStrategy, space: Any, learned: bool, seed: int
) -> None:
    alive = strategy.first_alive()
    for stage in range(len(STAGES)):
        made = parameters(alive, seed, learned)
        architecture = strategy.derive(made)
        assert isinstance(architecture, (CellArchitecture, ChainArchitecture, SkipArchitecture))
        genotype = Genotype("derived", space.name, architecture, {"kind": "search"})
        space.validate(genotype)
        assert Genotype.from_dict(genotype.to_dict()) == genotype
        assert strategy.derive(made) == architecture
        edges = made.edge_probabilities()
        assert set(edges) == (set(alive) if learned else set())
        assert strategy.derive_from(made.probabilities(), edges) == architecture
        if isinstance(architecture, CellArchitecture):
            pools = [edge.op for edge in architecture.normal.edges].count("avg_pool_3x3")
            assert pools <= SearchConfig().regularization.at_most["avg_pool_3x3"]
        if isinstance(architecture, SkipArchitecture):
            assert all(node.op != ZERO for node in architecture.nodes)
        if stage + 1 < len(STAGES):
            alive = strategy.next_alive(stage, made.probabilities())


def test_deriving_changes_no_parameter_and_draws_nothing(strategy: GradientStrategy) -> None:
    made = parameters(strategy.first_alive(), 0)
    before = {kind: alphas.detach().clone() for kind, alphas in made.alphas.items()}
    state = torch.get_rng_state()
    strategy.derive(made)
    assert torch.equal(torch.get_rng_state(), state)
    for kind, alphas in before.items():
        assert torch.equal(made.alphas[kind], alphas)


@pytest.mark.parametrize("stage", STAGES)
def test_the_architecture_moves_in_every_stage(
    strategy: GradientStrategy, stage: StageConfig
) -> None:
    moves = [strategy.moves_architecture(stage, epoch) for epoch in range(stage.epochs)]
    assert all(isinstance(move, bool) for move in moves)
    assert any(moves)
    assert not any(moves[: stage.warmup_epochs])


@pytest.mark.parametrize("stage", STAGES)
def test_dropout_is_a_probability_that_falls(
    strategy: GradientStrategy, stage: StageConfig
) -> None:
    values = [strategy.operation_dropout(stage, epoch) for epoch in range(stage.epochs)]
    assert all(0 <= value < 1 for value in values)
    assert values == sorted(values, reverse=True)
    assert values[0] == stage.dropout


@pytest.mark.parametrize("phase", ["warmup", "retrain"])
def test_the_architecture_rests_in_other_phases(strategy: GradientStrategy, phase: str) -> None:
    stage = StageConfig(phase=phase, epochs=3, warmup_epochs=0)
    assert not any(strategy.moves_architecture(stage, epoch) for epoch in range(3))


def small_batch(bins: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 24, bins, generator=generator)
    features[1, 17:] = 0
    return Batch(
        features=features,
        feature_lengths=torch.tensor([24, 17]),
        targets=torch.tensor([[1, 2, 3], [2, 1, 0]]),
        target_lengths=torch.tensor([3, 2]),
        ids=["u0", "u1"],
        texts=["abc", "ba"],
    )


def test_the_steps_of_a_strategy_move_what_they_should(
    strategy: GradientStrategy, space: Any, learned: bool
) -> None:
    """On its own network: every strategy, in every space."""
    layers, channels = {ChainSpace: (6, 2), NasBenchSpace: (4, 6)}.get(type(space), (3, 2))
    count = stages_of(space, learned)[0].operations
    stage = StageConfig(layers=layers, channels=channels, operations=count)
    strategy.config = replace(  # type: ignore[attr-defined]
        strategy.config,  # type: ignore[attr-defined]
        features=FeatureConfig(num_mel_bins=8),
        network=NetworkConfig(output_size=6),
    )
    torch.manual_seed(0)
    alive = strategy.first_alive()
    assert alive == all_alive(space, learned)
    network = strategy.supernet(alive, stage, 4)
    made = ArchitectureParameters(alive, torch.Generator().manual_seed(0), learned)
    steps = strategy.steps(
        StepsContext(
            Fabric(accelerator="cpu", devices=1),
            network,
            made,
            torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9),
            torch.optim.Adam(made.parameters(), lr=0.05),
            5.0,
            stage,
            7,
        )
    )
    batch = small_batch(8)
    alphas = [p.detach().clone() for p in made.parameters()]
    weights = [p.detach().clone() for p in network.parameters()]
    steps.architecture_step(batch, 0.1, batch, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    assert all(not torch.equal(a, b) for a, b in zip(alphas, made.parameters(), strict=True))
    assert all(p.requires_grad for p in network.parameters())
    alphas = [p.detach().clone() for p in made.parameters()]
    steps.weight_step(batch, 0.1, 0.1)
    assert all(torch.equal(a, b) for a, b in zip(alphas, made.parameters(), strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(weights, network.parameters(), strict=True))
    score = steps.score([batch])
    assert score == steps.score([batch])
    # The mean of sums over 3 and 2 tokens is that many times the mean per token.
    assert 2 * score.loss < score.utterance_loss < 3 * score.loss


def test_a_penalty_pulls_the_architecture(
    strategy: GradientStrategy, space: Any, learned: bool
) -> None:
    """With the loss of the data switched off, Adam moves every alpha against the penalty."""
    made = ArchitectureParameters(
        strategy.first_alive(), torch.Generator().manual_seed(0), learned_edges=learned
    )
    network = torch.nn.Linear(1, 1)
    kind = next(iter(made.alive))

    def penalty(present: ArchitectureParameters) -> torch.Tensor:
        edge = present.edges()[kind][2] if learned else 0.0  # the first that can be left out
        return present.weights()[kind][:, 0].sum() + edge

    steps = strategy.steps(
        StepsContext(
            Fabric(accelerator="cpu", devices=1),
            network,
            made,
            torch.optim.SGD(network.parameters(), lr=0.1),
            torch.optim.Adam(made.parameters(), lr=0.05),
            0.0,
            StageConfig(),
            7,
            penalty,
        )
    )
    steps.loss = lambda *_: (torch.zeros(()), 0.0)  # type: ignore[method-assign]
    before = made.weights()[kind][:, 0].detach().clone()
    edges = made.edge_probabilities()
    steps.architecture_step(small_batch(8), 0.0)
    assert (made.weights()[kind][:, 0] < before).all()
    if learned:
        assert made.edge_probabilities()[kind][2] < edges[kind][2]


def test_the_decay_of_p_darts() -> None:
    """Its public code: rate * exp(-0.2 * epochs since the warm-up)."""
    strategy = STRATEGIES["pdarts"].load()(SearchConfig())
    stage = StageConfig(epochs=15, warmup_epochs=6, dropout=0.1)
    assert strategy.operation_dropout(stage, 7) == pytest.approx(0.1 * 0.818730753)
    assert strategy.operation_dropout(stage, 11) == pytest.approx(0.1 * 0.367879441)
