"""What every gradient strategy must hold, in every space."""

from __future__ import annotations

import random
from dataclasses import asdict, replace
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric

from nas_encoder.common.choices import Candidates, Probabilities
from nas_encoder.common.problems import Problems
from nas_encoder.data import Batch, FeatureConfig
from nas_encoder.genotype import Genotype
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.search import SearchConfig
from nas_encoder.search.config.sections import EDGES, StageConfig
from nas_encoder.search.gradient.steps import StepsContext
from nas_encoder.search.gradient.strategies.base import Strategy
from nas_encoder.search.strategies import GRADIENT, strategies
from nas_encoder.spaces import get_space, searchable_spaces
from nas_encoder.spaces.base import LEARNED_EDGES, LIMITS

STAGES = (
    StageConfig(layers=5, operations=8, epochs=4, warmup_epochs=2),
    StageConfig(layers=11, operations=5, epochs=3, warmup_epochs=0),
    StageConfig(layers=17, operations=3, epochs=5, warmup_epochs=4),
)
CASES = [(name, "operations") for name in searchable_spaces()]
CASES += [
    (name, edges)
    for edges in EDGES[1:]
    for name in searchable_spaces()
    if LEARNED_EDGES in get_space(name).features
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
) -> Strategy:
    document = {
        "strategy": request.param,
        "space": space.name,
        "edges": case[1],
        "stages": [asdict(stage) for stage in stages_of(space, learned)],
    }
    return SearchConfig.from_dict(document).new_strategy()


def allowed_layers(space: Any, at_least: int) -> int:
    """Return the fewest layers that a stage can have in a space."""
    for layers in (*range(at_least, 65), *range(1, at_least)):
        problems = Problems()
        space.check_layers(layers, space.section(), "layers", problems)
        if not problems:
            return layers
    raise AssertionError(f"no number of layers suits '{space.name}'")


def stages_of(space: Any, learned_edges: bool = False) -> tuple[StageConfig, ...]:
    """Return stages that begin with all candidates and end with two."""
    first = max(len(own[0]) for own in space.first_candidates(learned_edges).values())
    counts = (first, max(3, first - 2), 2)
    return tuple(
        replace(stage, layers=allowed_layers(space, stage.layers), operations=count)
        for stage, count in zip(STAGES, counts, strict=True)
    )


def test_the_strategies_are_there() -> None:
    known = {"pdarts", "darts", "stnas"}  # 'darts' is the name of a space too
    assert known <= set(strategies(GRADIENT))


def probabilities(alive: Candidates, seed: int) -> Probabilities:
    rng = random.Random(seed)
    return {
        kind: tuple({op: rng.choice([0.1, 0.2, rng.random()]) for op in edge} for edge in edges)
        for kind, edges in alive.items()
    }


def parameters(alive: Candidates, seed: int, learned_edges: bool = False) -> ArchitectureParameters:
    generator = torch.Generator().manual_seed(seed)
    made = ArchitectureParameters(alive, generator, learned_edges)
    for parameter in made.parameters():
        parameter.data.normal_(generator=generator)
    return made


def require_choices(alive: Candidates, space: Any, count: int) -> None:
    """Equally many operations on every edge, each once, in the space's order."""
    assert list(alive) == list(space.kinds)
    for name, edges in alive.items():
        kind = space.kinds[name]
        assert len(edges) == len(kind.names)
        for edge in edges:
            assert len(edge) == (count if kind.pruned else len(kind.operations))
            assert list(edge) == [op for op in kind.operations if op in edge]
            assert set(edge) - {space.zero}


@pytest.mark.parametrize("seed", range(5))
def test_choices_shrink_as_the_stages_say(
    strategy: Strategy, space: Any, learned: bool, seed: int
) -> None:
    alive = strategy.first_candidates()
    stages = stages_of(space, learned)
    require_choices(alive, space, stages[0].operations)
    for stage in range(len(stages) - 1):
        table = probabilities(alive, seed)
        following = strategy.next_candidates(stage, table)
        assert following == strategy.next_candidates(stage, table)
        require_choices(following, space, stages[stage + 1].operations)
        for kind in alive:
            for before, after in zip(alive[kind], following[kind], strict=True):
                assert set(after) <= set(before)
        alive = following


@pytest.mark.parametrize("seed", range(5))
def test_a_member_of_the_space_is_derived_at_any_time(
    strategy: Strategy, space: Any, learned: bool, seed: int
) -> None:
    alive = strategy.first_candidates()
    for stage in range(len(STAGES)):
        made = parameters(alive, seed, learned)
        architecture = strategy.derive(made)
        genotype = Genotype("derived", space.name, architecture, {"kind": "search"})
        space.validate(genotype)
        assert Genotype.from_dict(genotype.to_dict()) == genotype
        assert strategy.derive(made) == architecture
        edges = made.edge_probabilities()
        assert set(edges) == (set(alive) if learned else set())
        assert strategy.derive_from(made.probabilities(), edges) == architecture
        limits = strategy.limits  # type: ignore[attr-defined]
        for name, chosen in space.chosen(architecture).items():
            held = [operation for _, operation in chosen]
            assert space.zero not in held
            if space.kinds[name].limited:
                assert all(held.count(op) <= limit for op, limit in limits.items())
        assert (LIMITS in space.features) == bool(limits)
        if stage + 1 < len(STAGES):
            alive = strategy.next_candidates(stage, made.probabilities())


def test_deriving_changes_no_parameter_and_draws_nothing(strategy: Strategy) -> None:
    made = parameters(strategy.first_candidates(), 0)
    before = {kind: alphas.detach().clone() for kind, alphas in made.alphas.items()}
    state = torch.get_rng_state()
    strategy.derive(made)
    assert torch.equal(torch.get_rng_state(), state)
    for kind, alphas in before.items():
        assert torch.equal(made.alphas[kind], alphas)


@pytest.mark.parametrize("stage", STAGES)
def test_the_architecture_moves_in_every_stage(strategy: Strategy, stage: StageConfig) -> None:
    moves = [strategy.moves_architecture(stage, epoch) for epoch in range(stage.epochs)]
    assert all(isinstance(move, bool) for move in moves)
    assert any(moves)
    assert not any(moves[: stage.warmup_epochs])


@pytest.mark.parametrize("stage", STAGES)
def test_dropout_is_a_probability_that_falls(strategy: Strategy, stage: StageConfig) -> None:
    values = [strategy.operation_dropout(stage, epoch) for epoch in range(stage.epochs)]
    assert all(0 <= value < 1 for value in values)
    assert values == sorted(values, reverse=True)
    assert values[0] == stage.dropout


@pytest.mark.parametrize("phase", ["warmup", "retrain"])
def test_the_architecture_rests_in_other_phases(strategy: Strategy, phase: str) -> None:
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
    strategy: Strategy, space: Any, learned: bool
) -> None:
    """On its own network: every strategy, in every space."""
    count = stages_of(space, learned)[0].operations
    stage = StageConfig(layers=allowed_layers(space, 3), channels=6, operations=count)
    config: Any = replace(
        strategy.config,
        features=FeatureConfig(num_mel_bins=8),
        network=space.section(output_size=6),
    )
    strategy.config, strategy.network = config, config.encoder_config
    torch.manual_seed(0)
    alive = strategy.first_candidates()
    assert alive == space.first_candidates(learned)
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


def test_a_penalty_pulls_the_architecture(strategy: Strategy, space: Any, learned: bool) -> None:
    """With the loss of the data switched off, Adam moves every alpha against the penalty."""
    made = ArchitectureParameters(
        strategy.first_candidates(), torch.Generator().manual_seed(0), learned_edges=learned
    )
    network = torch.nn.Linear(1, 1)
    kind = next(iter(made.candidates))

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
    strategy = SearchConfig(strategy="pdarts").new_strategy()
    stage = StageConfig(epochs=15, warmup_epochs=6, dropout=0.1)
    assert strategy.operation_dropout(stage, 7) == pytest.approx(0.1 * 0.818730753)
    assert strategy.operation_dropout(stage, 11) == pytest.approx(0.1 * 0.367879441)
