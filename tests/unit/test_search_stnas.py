"""Straight-through gradients on problems with known gradients, and what a path evaluates."""

from __future__ import annotations

import pytest
import torch
from choice_samples import all_candidates, ctc_chain, ctc_sampled
from lightning.fabric import Fabric
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.network.choices.straight_through import (
    Paths,
    draw_active,
    draw_paths,
    straight_through,
)
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search import SearchConfig
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.steps import StepsContext
from nas_encoder.search.gradient.strategies.stnas import SampledSteps
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.tdnn_chain.space import ChainConfig

# Two edges with three operations each, whose outputs are fixed points of the plane.
ALPHAS = torch.tensor([[0.4, -0.3, 0.1], [0.0, 0.8, -0.5]], dtype=torch.float64)
OUTPUTS = torch.tensor(
    [[[1.0, 0.0], [0.5, -1.0], [-2.0, 1.5]], [[0.3, 2.0], [1.0, 1.0], [-1.0, 0.2]]],
    dtype=torch.float64,
)  # (E, n, 2)
TARGET = torch.tensor([0.5, -0.25], dtype=torch.float64)
SLOPE = torch.tensor([0.7, -1.1], dtype=torch.float64)


def linear(y: Tensor) -> Tensor:
    return (SLOPE * y).sum()


def quadratic(y: Tensor) -> Tensor:
    return 0.5 * ((y - TARGET) ** 2).sum()


def gradient_of_sample(paths: Paths, alphas: Tensor, loss: object) -> Tensor:
    """Return dL/dalpha (E, n) of one sample, by the function under test."""
    assert paths.involved is not None and paths.shares is not None
    total = torch.zeros(2, dtype=torch.float64)
    for edge, places in enumerate(paths.involved):
        values: list[Tensor | None] = [OUTPUTS[edge, place] for place in places]
        chosen = places.index(paths.active[edge])
        total = total + straight_through(
            OUTPUTS[edge, paths.active[edge]], paths.shares[edge], values, chosen
        )
    (gradient,) = torch.autograd.grad(loss(total), alphas, retain_graph=True)  # type: ignore[operator]
    return gradient


def every_sample(alphas: Tensor) -> list[tuple[float, Paths]]:
    """Return all 9 samples of two edges with their probabilities."""
    shares = alphas.softmax(-1)
    p = shares.detach()
    every = ((0, 1, 2), (0, 1, 2))
    return [
        (float(p[0, i] * p[1, j]), Paths((i, j), every, shares)) for i in range(3) for j in range(3)
    ]


def defined(loss_gradient: object) -> Tensor:
    """The definition, written out: the mean over samples of <dL/dy, o>, through the softmax.

    dL/dalpha_i = p_i (q_i - sum_k p_k q_k) for q_o = E_z <dL/dy(z), o>.
    """
    p = ALPHAS.softmax(-1)
    q = torch.zeros_like(p)
    for i in range(3):
        for j in range(3):
            y = OUTPUTS[0, i] + OUTPUTS[1, j]
            g = loss_gradient(y)  # type: ignore[operator]
            q = q + p[0, i] * p[1, j] * (OUTPUTS @ g)
    return p * (q - (p * q).sum(-1, keepdim=True))


def test_the_expectation_over_samples_is_the_definition() -> None:
    alphas = ALPHAS.clone().requires_grad_()
    for loss, slope in ((linear, lambda y: SLOPE), (quadratic, lambda y: y - TARGET)):
        mean = sum(
            weight * gradient_of_sample(paths, alphas, loss)
            for weight, paths in every_sample(alphas)
        )
        torch.testing.assert_close(mean, defined(slope))


def test_for_a_linear_loss_it_is_the_gradient_of_the_expected_loss() -> None:
    """Where the loss is linear in the outputs, straight-through is unbiased, and exact at once."""
    alphas = ALPHAS.clone().requires_grad_()
    mean_output = torch.einsum("en,enc->c", alphas.softmax(-1), OUTPUTS)
    (expected,) = torch.autograd.grad(linear(mean_output), alphas)
    for _, paths in every_sample(alphas):
        torch.testing.assert_close(gradient_of_sample(paths, alphas, linear), expected)


def test_draws_follow_the_probabilities() -> None:
    """The mean over many drawn samples approaches the definition."""
    alphas = ALPHAS.clone().requires_grad_()
    generator = torch.Generator().manual_seed(0)
    count = 2500
    mean = torch.zeros_like(ALPHAS)
    for _ in range(count):
        mean += gradient_of_sample(draw_paths(alphas, generator), alphas, quadratic) / count
    torch.testing.assert_close(mean, defined(lambda y: y - TARGET), rtol=0.0, atol=0.06)


def test_operations_that_were_not_drawn_get_their_gradient() -> None:
    """dL/dp_o = <dL/dy, o> for each operation, at the sample; 'none' has the output zero."""
    shares = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64, requires_grad=True)
    outputs = [v.clone().requires_grad_() for v in OUTPUTS[0]]
    y = straight_through(outputs[1] * 1.0, shares, [outputs[0], None, None], 1)
    assert torch.equal(y, outputs[1])
    y = straight_through(outputs[1] * 1.0, shares, [outputs[0], outputs[1], None], 1)
    quadratic(y).backward()
    g = OUTPUTS[0, 1] - TARGET
    assert shares.grad is not None
    expected = torch.stack([OUTPUTS[0, 0] @ g, OUTPUTS[0, 1] @ g, torch.zeros(()).double()])
    torch.testing.assert_close(shares.grad, expected)
    # The drawn operation gets the whole gradient (z is 1 there, not p), others none.
    torch.testing.assert_close(outputs[1].grad, g)
    assert outputs[0].grad is None and outputs[2].grad is None


def test_two_paths_compare_two_operations() -> None:
    alphas = ALPHAS.clone().requires_grad_()
    generator = torch.Generator().manual_seed(3)
    seen: dict[tuple[int, ...], int] = {}
    active = [0, 0, 0]
    count = 3000
    for _ in range(count):
        paths = draw_paths(alphas, generator, candidates=2)
        assert paths.involved is not None and paths.shares is not None
        for edge, places in enumerate(paths.involved):
            assert len(set(places)) == 2 and paths.active[edge] in places
            # Their probabilities, renormalized.
            torch.testing.assert_close(paths.shares[edge], alphas[edge, list(places)].softmax(-1))
        seen[paths.involved[0]] = seen.get(paths.involved[0], 0) + 1
        active[paths.active[0]] += 1
    p = ALPHAS[0].softmax(-1).tolist()
    for (i, j), times in seen.items():  # first one, then the other of what is left
        expected = p[i] * p[j] / (1 - p[i]) + p[j] * p[i] / (1 - p[j])
        assert times / count == pytest.approx(expected, abs=0.04)
    assert set(seen) == {(0, 1), (0, 2), (1, 2)}
    assert active[0] > active[2] > 0 and active[0] > active[1] > 0
    gradient = gradient_of_sample(paths, alphas, quadratic)
    for edge, places in enumerate(paths.involved):
        for place in range(3):
            assert (float(gradient[edge, place]) != 0) == (place in places)
    # Of two shares the gradients are opposite.
    torch.testing.assert_close(gradient.sum(-1), torch.zeros(2).double())


# -- on supernets -----------------------------------------------------------------------------


class Calls:
    """Counts the modules that are run, with and without a graph."""

    def __init__(self, modules: dict[str, nn.Module]) -> None:
        self.graph: list[str] = []
        self.plain: list[str] = []
        for name, module in modules.items():
            module.register_forward_hook(self._hook(name))

    def _hook(self, name: str) -> object:
        def hook(module: nn.Module, args: object, output: Tensor) -> None:
            (self.graph if torch.is_grad_enabled() else self.plain).append(name)

        return hook


def make_batch() -> Batch:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 24, 8, generator=generator)
    features[1, 17:] = 0
    return Batch(
        features=features,
        feature_lengths=torch.tensor([24, 17]),
        targets=torch.tensor([[1, 2, 3], [2, 1, 0]]),
        target_lengths=torch.tensor([3, 2]),
        ids=["u0", "u1"],
        texts=["abc", "ba"],
    )


def make_steps(space: str, network: nn.Module, **config: object) -> SampledSteps:
    made = ArchitectureParameters(
        all_candidates(get_space(space)), torch.Generator().manual_seed(0)
    )
    document = {"strategy": "stnas", "space": space, **config}
    strategy = SearchConfig.from_dict(document).new_strategy()
    steps = strategy.steps(
        StepsContext(
            Fabric(accelerator="cpu", devices=1),
            network,
            made,
            torch.optim.Adam(network.parameters(), lr=0.01),
            torch.optim.Adam(made.parameters(), lr=0.05),
            0.0,
            StageConfig(),
            5,
        )
    )
    assert isinstance(steps, SampledSteps)
    return steps


CHAIN_STAGES = [{"layers": 6, "channels": 4, "operations": 4}]


def chain_network() -> CtcNetwork:
    torch.manual_seed(0)
    return ctc_chain(all_candidates(get_space("tdnn_chain")), ChainConfig(8, 4, 4), 4)


@pytest.mark.parametrize("paths", [1, 2])
def test_a_step_evaluates_no_more_of_a_chain_than_it_needs(paths: int) -> None:
    network = chain_network()
    steps = make_steps("tdnn_chain", network, paths=paths, stages=CHAIN_STAGES)
    layers = {
        f"{b}_{o}": m for b, block in enumerate(network.encoder.blocks) for o, m in enumerate(block)
    }
    calls = Calls(layers)
    before = {name: [p.clone() for p in m.parameters()] for name, m in layers.items()}
    steps.weight_step(make_batch(), 0.01, 0.0)
    assert [name[0] for name in calls.graph] == list("012345") and not calls.plain
    for name, module in layers.items():  # Adam leaves what has no gradient alone
        same = [torch.equal(a, b) for a, b in zip(before[name], module.parameters(), strict=True)]
        assert not any(same) if name in calls.graph else all(same)
    calls.graph.clear()
    steps.architecture_step(make_batch(), 0.0)
    assert [name[0] for name in calls.graph] == list("012345")
    assert len(calls.plain) == 6 * (3 if paths == 1 else 1)
    assert not set(calls.graph) & set(calls.plain)


@pytest.mark.parametrize("paths", [1, 2])
def test_a_step_evaluates_no_more_of_cells_than_it_needs(paths: int) -> None:
    space = get_space("darts")
    torch.manual_seed(0)
    network = ctc_sampled(all_candidates(space), CellConfig(8, 2, 3, 6), 4, 4)
    steps = make_steps("darts", network, paths=paths)
    own = {
        f"{c}_{name}": module
        for c, cell in enumerate(network.encoder.cells)
        for edges in cell.sources  # type: ignore[union-attr]
        for name, module in edges.own.items()
    }
    shared = {
        f"{c}_{s}_{name}": module
        for c, cell in enumerate(network.encoder.cells)
        for s, edges in enumerate(cell.sources)  # type: ignore[arg-type]
        for name, module in edges.shared.items()
    }
    calls, pools = Calls(own), Calls(shared)
    steps.weight_step(make_batch(), 0.01, 0.0)
    assert not calls.plain and not pools.plain
    edges_run = [name.split("_")[:2] for name in calls.graph]
    assert 0 < len(edges_run) == len({tuple(edge) for edge in edges_run}) < 3 * 14
    for name, module in own.items():
        touched = any(p.grad is not None for p in module.parameters())
        assert touched == (name in calls.graph)
    for each in (calls, pools):
        each.graph.clear()
    steps.architecture_step(make_batch(), 0.0)
    run = [*calls.graph, *calls.plain]
    assert len(run) == len(set(run))
    if paths == 1:
        assert sorted(run) == sorted(own)  # each once
        assert sorted([*pools.graph, *pools.plain]) == sorted(shared)
    else:
        assert len(run) <= 2 * 3 * 14
    assert len(calls.graph) <= 3 * 14


def test_paths_are_drawn_apart_from_everything_else() -> None:
    """Equal seeds give equal paths, whatever dropout or another device draws in between."""
    steps, other = (make_steps("darts", nn.Linear(1, 1)) for _ in range(2))
    state = torch.get_rng_state()
    drawn = [steps.mixture() for _ in range(3)]
    assert torch.equal(state, torch.get_rng_state())
    torch.rand(17)
    assert [other.mixture() for _ in range(3)] == drawn
    saved = steps.state()
    following = steps.mixture()
    steps.mixture()
    steps.load_state(saved)
    assert steps.mixture() == following


def test_a_warm_up_draws_uniformly_and_a_search_by_the_probabilities() -> None:
    steps = make_steps("tdnn_chain", nn.Linear(1, 1), stages=CHAIN_STAGES)
    with torch.no_grad():
        steps.parameters.alphas["blocks"][:, 2] = 3.0
    for uniform, expected in ((True, 0.25), (False, 20.0855 / 23.0855)):
        steps.uniform = uniform
        drawn = [steps.mixture()["blocks"].active for _ in range(400)]
        share = sum(row.count(2) for row in drawn) / (400 * 6)
        assert share == pytest.approx(expected, abs=0.04)


def test_the_score_draws_the_same_paths_each_time() -> None:
    steps = make_steps("tdnn_chain", chain_network(), stages=CHAIN_STAGES)
    mixtures = [next(iter(steps.score_mixtures())) for _ in range(2)]
    assert mixtures[0] == mixtures[1]
    state = steps.state()
    steps.score([make_batch()])
    assert torch.equal(state["paths"], steps.state()["paths"])


def test_draw_active_never_draws_what_has_no_probability() -> None:
    shares = torch.tensor([[0.0, 1.0, 0.0], [0.5, 0.0, 0.5]])
    for seed in range(50):
        first, second = draw_active(shares, torch.Generator().manual_seed(seed))
        assert first == 1 and second != 1
