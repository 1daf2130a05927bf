"""What every gradient strategy must hold, in every space."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from nas_encoder.genotype import CellArchitecture, Genotype
from nas_encoder.search import SearchConfig
from nas_encoder.search.config import StageConfig
from nas_encoder.search.gradient import STRATEGIES, GradientStrategy
from nas_encoder.search.gradient.choices import (
    KINDS,
    Alive,
    ArchitectureParameters,
    Probabilities,
    edge_list,
)
from nas_encoder.spaces import get_space, list_spaces

STAGES = (
    StageConfig(layers=5, operations=8, epochs=4, warmup_epochs=2),
    StageConfig(layers=11, operations=5, epochs=3, warmup_epochs=0),
    StageConfig(layers=17, operations=3, epochs=5, warmup_epochs=4),
)


@pytest.fixture(params=list_spaces())
def space(request: pytest.FixtureRequest) -> Any:
    return get_space(request.param)


@pytest.fixture(params=sorted(STRATEGIES))
def strategy(request: pytest.FixtureRequest, space: Any) -> GradientStrategy:
    config = SearchConfig(strategy=request.param, space=space.name, stages=STAGES)
    return STRATEGIES[request.param](config)


def test_there_is_a_strategy() -> None:
    assert "pdarts" in STRATEGIES


def probabilities(alive: Alive, seed: int) -> Probabilities:
    rng = random.Random(seed)
    return {
        kind: tuple({op: rng.choice([0.1, 0.2, rng.random()]) for op in edge} for edge in edges)
        for kind, edges in alive.items()
    }


def parameters(alive: Alive, seed: int) -> ArchitectureParameters:
    generator = torch.Generator().manual_seed(seed)
    made = ArchitectureParameters(alive, generator)
    for alphas in made.alphas.values():
        alphas.data.normal_(generator=generator)
    return made


def require_choices(alive: Alive, operations: tuple[str, ...], count: int) -> None:
    """Equally many operations on every edge, each once, in the space's order."""
    assert set(alive) == set(KINDS)
    for edges in alive.values():
        assert len(edges) == len(edge_list(4))
        for edge in edges:
            assert len(edge) == count
            assert list(edge) == [op for op in operations if op in edge]
            assert set(edge) != {"none"}


@pytest.mark.parametrize("seed", range(5))
def test_choices_shrink_as_the_stages_say(
    strategy: GradientStrategy, space: Any, seed: int
) -> None:
    alive = strategy.first_alive()
    require_choices(alive, space.operations, STAGES[0].operations)
    for stage in range(len(STAGES) - 1):
        table = probabilities(alive, seed)
        following = strategy.next_alive(stage, table)
        assert following == strategy.next_alive(stage, table)
        require_choices(following, space.operations, STAGES[stage + 1].operations)
        for kind in KINDS:
            for before, after in zip(alive[kind], following[kind], strict=True):
                assert set(after) <= set(before)
        alive = following


@pytest.mark.parametrize("seed", range(5))
def test_a_member_of_the_space_is_derived_at_any_time(
    strategy: GradientStrategy, space: Any, seed: int
) -> None:
    alive = strategy.first_alive()
    for stage in range(len(STAGES)):
        made = parameters(alive, seed)
        architecture = strategy.derive(made)
        assert isinstance(architecture, CellArchitecture)
        genotype = Genotype("derived", space.name, architecture, {"kind": "search"})
        space.validate(genotype)
        assert Genotype.from_dict(genotype.to_dict()) == genotype
        assert strategy.derive(made) == architecture
        assert strategy.derive_from(made.probabilities()) == architecture
        pools = [edge.op for edge in architecture.normal.edges].count("avg_pool_3x3")
        assert pools <= SearchConfig().regularization.at_most["avg_pool_3x3"]
        if stage + 1 < len(STAGES):
            alive = strategy.next_alive(stage, made.probabilities())


def test_deriving_changes_no_parameter_and_draws_nothing(strategy: GradientStrategy) -> None:
    made = parameters(strategy.first_alive(), 0)
    before = {kind: alphas.detach().clone() for kind, alphas in made.alphas.items()}
    state = torch.get_rng_state()
    strategy.derive(made)
    assert torch.equal(torch.get_rng_state(), state)
    for kind in KINDS:
        assert torch.equal(made.alphas[kind], before[kind])


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


def test_the_decay_of_p_darts() -> None:
    """Its public code: rate * exp(-0.2 * epochs since the warm-up)."""
    strategy = STRATEGIES["pdarts"](SearchConfig())
    stage = StageConfig(epochs=15, warmup_epochs=6, dropout=0.1)
    assert strategy.operation_dropout(stage, 7) == pytest.approx(0.1 * 0.818730753)
    assert strategy.operation_dropout(stage, 11) == pytest.approx(0.1 * 0.367879441)
