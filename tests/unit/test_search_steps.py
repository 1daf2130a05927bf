"""One step of the weights, one of the architecture, and the score."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from choice_samples import all_candidates, ctc_supernet
from lightning.fabric import Fabric
from torch import Tensor

from nas_encoder.data import Batch
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.search.config.sections import ArchitectureConfig, StageConfig
from nas_encoder.search.gradient.steps import Steps, StepsContext, architecture_optimizer
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.spaces.cells.space import KINDS, edge_list
from nas_encoder.training.config import WeightsConfig
from nas_encoder.training.decoding import collapse
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.optimizers import cosine, weights_optimizer
from nas_encoder.training.steps import ctc_loss

SPACE = get_space("asr_revised")


def make_batch(seed: int = 0) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.tensor([24, 17])
    features = torch.randn(2, 24, 8, generator=generator)
    features[1, 17:] = 0
    return Batch(
        features=features,
        feature_lengths=lengths,
        targets=torch.tensor([[1, 2, 3], [2, 1, 0]]),
        target_lengths=torch.tensor([3, 2]),
        ids=["u0", "u1"],
        texts=["abc", "ba"],
    )


def make_steps(optimizer: str = "sgd", weight_decay: float = 3e-4) -> Steps:
    torch.manual_seed(0)
    alive = all_candidates(SPACE)
    network = ctc_supernet(alive, CellConfig(8, 1, 3, 6), SPACE.nodes, 4, ("dil_conv_3x3",))
    parameters = ArchitectureParameters(alive, torch.Generator().manual_seed(0))
    weights = WeightsConfig(optimizer=optimizer, lr=0.1, weight_decay=weight_decay)
    return Steps(
        StepsContext(
            Fabric(accelerator="cpu", devices=1),
            network,
            parameters,
            weights_optimizer(weights, network),
            architecture_optimizer(ArchitectureConfig(lr=0.05), parameters),
            grad_clip=5.0,
            stage=StageConfig(),
            seed=0,
        )
    )


def snapshot(module: torch.nn.Module) -> list[Tensor]:
    return [p.detach().clone() for p in module.parameters()]


def unchanged(before: list[Tensor], module: torch.nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(before, module.parameters(), strict=True))


def test_the_weight_step_moves_the_weights_alone() -> None:
    steps = make_steps()
    weights, alphas = snapshot(steps.network), snapshot(steps.parameters)
    loss = steps.weight_step(make_batch(), lr=0.1, dropout=0.1)
    assert math.isfinite(loss)
    assert unchanged(alphas, steps.parameters)
    assert all(p.grad is None for p in steps.parameters.parameters())
    moved = [
        not torch.equal(a, b) for a, b in zip(weights, steps.network.parameters(), strict=True)
    ]
    assert all(moved)


def test_the_architecture_step_moves_the_architecture_alone() -> None:
    steps = make_steps()
    weights, alphas = snapshot(steps.network), snapshot(steps.parameters)
    steps.architecture_step(make_batch(), dropout=0.1)
    assert unchanged(weights, steps.network)
    assert all(p.grad is None for p in steps.network.parameters())
    assert all(p.requires_grad for p in steps.network.parameters())
    for before, alpha in zip(alphas, steps.parameters.parameters(), strict=True):
        assert not torch.equal(before, alpha)


def test_the_architecture_step_is_first_order_adam() -> None:
    """Its gradient is that of the loss at the present weights; weight decay is Adam's own."""
    steps = make_steps()
    reference, network = copy.deepcopy(steps.parameters), copy.deepcopy(steps.network).train()
    batch = make_batch()
    adam = torch.optim.Adam(reference.parameters(), lr=0.05, betas=(0.5, 0.999), weight_decay=1e-3)
    for _ in range(2):
        log_probs, lengths = network(batch.features, batch.feature_lengths, reference.weights())
        adam.zero_grad()
        ctc_loss(log_probs, lengths, batch).backward()
        adam.step()
        steps.architecture_step(batch, dropout=0.0)
    for ours, theirs in zip(steps.parameters.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.slow
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_steps_lower_the_loss(optimizer: str) -> None:
    steps = make_steps(optimizer)
    batch = make_batch()
    rate = {"sgd": 0.2, "adam": 0.01}[optimizer]
    losses = [steps.weight_step(batch, rate, 0.0) for _ in range(12)]
    assert losses[-1] < 0.85 * losses[0]


def test_the_gradient_of_the_weights_is_clipped() -> None:
    steps = make_steps(weight_decay=0.0)
    steps.grad_clip = 1e-3
    before = snapshot(steps.network)
    steps.weight_step(make_batch(), lr=1.0, dropout=0.0)
    moved = [b.detach() - a for a, b in zip(before, steps.network.parameters(), strict=True)]
    norm = math.sqrt(sum(float(m.square().sum()) for m in moved))
    assert norm == pytest.approx(1e-3, rel=1e-2)


def test_a_loss_that_is_not_finite_stops_the_search_and_moves_nothing() -> None:
    steps = make_steps()
    with torch.no_grad():
        steps.network.classifier.bias.fill_(float("nan"))
    weights, alphas = snapshot(steps.network), snapshot(steps.parameters)
    for step in (
        lambda: steps.weight_step(make_batch(), 0.1, 0.0),
        lambda: steps.architecture_step(make_batch(), 0.0),
    ):
        with pytest.raises(DivergedError, match="the loss is nan on the batch of u0, u1"):
            step()
    assert all(p.requires_grad for p in steps.network.parameters())
    assert unchanged(alphas, steps.parameters)
    for a, b in zip(weights, steps.network.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0, equal_nan=True)


def test_loss_is_the_mean_over_utterances_of_the_loss_per_token() -> None:
    batch = make_batch()
    log_probs = torch.randn(2, 6, 4).log_softmax(-1)
    lengths = torch.tensor([6, 5])
    each = [
        F.ctc_loss(
            log_probs[i, : lengths[i]], batch.targets[i, :n], lengths[i], torch.tensor(n),
            reduction="sum",
        )
        / n
        for i, n in enumerate((3, 2))
    ]  # fmt: skip
    torch.testing.assert_close(ctc_loss(log_probs, lengths, batch), sum(each) / 2)


def test_the_score_counts_errors_and_leaves_the_network_alone() -> None:
    steps = make_steps()
    weights = snapshot(steps.network)
    buffers = [b.clone() for b in steps.network.buffers()]
    with torch.no_grad():
        steps.network.classifier.weight.zero_()
        steps.network.classifier.bias.copy_(torch.tensor([0.0, 9.0, 0.0, 0.0]))
    weights[-2:] = [p.detach().clone() for p in list(steps.network.parameters())[-2:]]
    score = steps.score([make_batch(), make_batch()])
    # Every path is 1 1 1 ..., which is the token 1: of 'abc' it leaves 2 errors, of 'ba' 1.
    assert score.ter == pytest.approx(100 * 3 / 5)
    assert math.isfinite(score.loss)
    assert unchanged(weights, steps.network)
    assert all(torch.equal(a, b) for a, b in zip(buffers, steps.network.buffers(), strict=True))


@pytest.mark.parametrize(
    ("path", "tokens"),
    [
        ([], []),
        ([0, 0], []),
        ([1, 1, 2], [1, 2]),
        ([1, 0, 1], [1, 1]),
        ([0, 1, 1, 0, 0, 1, 2, 2, 0], [1, 1, 2]),
    ],
)
def test_collapse(path: list[int], tokens: list[int]) -> None:
    assert collapse(path) == tokens


def test_cosine() -> None:
    config = WeightsConfig(lr=0.01, min_lr=0.002)
    assert cosine(config, 0.0) == pytest.approx(0.01)
    assert cosine(config, 0.5) == pytest.approx(0.006)
    assert cosine(config, 1.0) == pytest.approx(0.002)
    rates = [cosine(config, step / 10) for step in range(11)]
    assert rates == sorted(rates, reverse=True)


def test_the_rate_rises_before_the_cosine() -> None:
    config = WeightsConfig(lr=0.01, min_lr=0.002, warmup=0.2)
    rates = [cosine(config, progress) for progress in (0.0, 0.05, 0.1, 0.2, 0.6, 1.0)]
    assert rates == pytest.approx([0.00001, 0.0025, 0.005, 0.01, 0.006, 0.002])
    assert isinstance(
        weights_optimizer(replace(config, optimizer="adamw"), torch.nn.Linear(1, 1)),
        torch.optim.AdamW,
    )


def test_parameters_begin_near_a_uniform_choice() -> None:
    parameters = ArchitectureParameters(all_candidates(SPACE), torch.Generator().manual_seed(3))
    for kind in KINDS:
        alphas = parameters.alphas[kind]
        assert alphas.shape == (len(edge_list(SPACE.nodes)), len(SPACE.operations))
        assert 0.5e-3 < float(alphas.detach().std()) < 2e-3
        assert parameters.entropy()[kind] == pytest.approx(math.log(8), abs=1e-4)
        for edge in parameters.probabilities()[kind]:
            assert tuple(edge) == SPACE.operations
            assert sum(edge.values()) == pytest.approx(1.0)
    again = ArchitectureParameters(all_candidates(SPACE), torch.Generator().manual_seed(3))
    assert all(torch.equal(parameters.alphas[kind], again.alphas[kind]) for kind in KINDS)
