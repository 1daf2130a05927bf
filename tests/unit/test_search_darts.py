"""The gradient through one step of the weights: by hand, by double backward, on a supernet."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from choice_samples import all_candidates, ctc_supernet
from lightning.fabric import Fabric
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.errors import ConfigError
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.network.choices.unrolled import unrolled_gradient
from nas_encoder.ops.masking import recomputing
from nas_encoder.search import SearchConfig
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.steps import Steps, StepsContext
from nas_encoder.search.gradient.strategies.darts import UnrolledSteps
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig
from nas_encoder.training.steps import ctc_loss

LR = 0.3


def leaf(*values: float) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


@pytest.mark.parametrize(("momentum", "decay"), [(0.0, 0.0), (0.9, 0.0), (0.9, 0.25)])
def test_a_case_derived_by_hand(momentum: float, decay: float) -> None:
    """Bilinear losses of two numbers, in which equation 8 is exact.

    L_train = 1/2 k w^2 - b a w and L_valid = 1/2 (w - t)^2 + e a w, so that
    dL_train/dw = k w - b a, d^2 L_train / da dw = -b, w' = w - lr (momentum m + k w - b a +
    decay w), and the gradient of equation 7 is e w' + lr b (w' - t + e a).
    """
    k, b, t, e, m = 2.0, 1.5, 0.7, 0.4, -0.6
    w, a = leaf(1.25), leaf(-0.8)
    optimizer = torch.optim.SGD([w], lr=9.0, momentum=momentum, weight_decay=decay)
    if momentum:
        optimizer.state[w]["momentum_buffer"] = torch.tensor([m], dtype=torch.float64)
    before = w.detach().clone()
    loss = unrolled_gradient(
        lambda: (0.5 * k * w**2 - b * a * w).sum(),
        lambda: (0.5 * (w - t) ** 2 + e * a * w).sum(),
        [w],
        [a],
        optimizer,
        LR,
    )
    w0, a0 = 1.25, -0.8
    ahead = w0 - LR * (momentum * m + k * w0 - b * a0 + decay * w0)
    expected = e * ahead + LR * b * (ahead - t + e * a0)
    assert a.grad is not None
    assert float(a.grad) == pytest.approx(expected, abs=1e-9)
    assert loss == pytest.approx(0.5 * (ahead - t) ** 2 + e * a0 * ahead, abs=1e-12)
    assert torch.equal(w, before) and w.grad is None
    # The second term is no small thing here: first order would be e w.
    assert abs(expected - e * w0) > 0.3


def test_no_gradient_is_computed_that_is_not_used() -> None:
    w, a = leaf(1.25, 0.5), leaf(-0.8, 0.1)
    needed: dict[str, list[tuple[bool, bool]]] = {"weights": [], "architecture": []}

    def loss_of(name: str) -> Callable[[], Tensor]:
        def loss() -> Tensor:
            needed[name].append((w.requires_grad, a.requires_grad))
            return (w**2 * a).sum()

        return loss

    optimizer = torch.optim.SGD([w], lr=9.0)
    unrolled_gradient(loss_of("weights"), loss_of("architecture"), [w], [a], optimizer, LR)
    assert needed["weights"] == [(True, False), (False, True), (False, True)]
    assert needed["architecture"] == [(True, True)]
    assert w.requires_grad and a.requires_grad and a.grad is not None

    def failing() -> Tensor:
        raise RuntimeError("no loss")

    with pytest.raises(RuntimeError, match="no loss"):
        unrolled_gradient(failing, failing, [w], [a], optimizer, LR)
    assert w.requires_grad and a.requires_grad


def exact(
    weights_loss: Callable[[Tensor, Tensor], Tensor],
    architecture_loss: Callable[[Tensor, Tensor], Tensor],
    w: Tensor,
    a: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return dL_valid(w'(a), a)/da by differentiating through the step, and its first term."""
    a = a.detach().clone().requires_grad_()
    w = w.detach().clone().requires_grad_()
    (g,) = torch.autograd.grad(weights_loss(w, a), w, create_graph=True)
    ahead = w - LR * g
    (whole,) = torch.autograd.grad(architecture_loss(ahead, a), a, retain_graph=True)
    fixed = ahead.detach()
    (first,) = torch.autograd.grad(architecture_loss(fixed, a), a)
    return whole, first


def test_a_network_of_mixed_operations_against_double_backward() -> None:
    """softmax(a) mixes tanh, sigmoid and identity of a linear layer; least squares."""
    generator = torch.Generator().manual_seed(1)
    data = [torch.randn(20, 4, dtype=torch.float64, generator=generator) for _ in range(4)]

    def loss(x: Tensor, y: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
        def of(w: Tensor, a: Tensor) -> Tensor:
            z = x @ w
            p = a.softmax(0)
            return ((p[0] * z.tanh() + p[1] * z.sigmoid() + p[2] * z - y) ** 2).mean()

        return of

    train, valid = loss(data[0], data[1]), loss(data[2], data[3])
    w = nn.Parameter(torch.randn(4, 4, dtype=torch.float64, generator=generator))
    a = leaf(0.3, -0.2, 0.1)
    whole, first = exact(train, valid, w, a)
    optimizer = torch.optim.SGD([w], lr=LR)
    unrolled_gradient(lambda: train(w, a), lambda: valid(w, a), [w], [a], optimizer, LR)
    assert a.grad is not None
    second = whole - first
    assert float(second.norm()) > 0.02 * float(first.norm())
    # The central difference of equation 8 is exact up to epsilon^2 of the second term.
    torch.testing.assert_close(a.grad - first, second, rtol=1e-3, atol=0.0)


def make_batch(seed: int) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 20, 8, generator=generator, dtype=torch.float64)
    features[1, 15:] = 0
    return Batch(
        features=features,
        feature_lengths=torch.tensor([20, 15]),
        targets=torch.tensor([[1, 2, 3], [2, 1, 0]]),
        target_lengths=torch.tensor([3, 2]),
        ids=["u0", "u1"],
        texts=["abc", "ba"],
    )


@pytest.fixture(
    params=[1, pytest.param(8, marks=pytest.mark.slow)],
    ids=["few channels", "hand-written backward"],
)
def steps(request: pytest.FixtureRequest) -> UnrolledSteps:
    space = get_space("darts")
    alive = all_candidates(space)
    torch.manual_seed(0)
    network = ctc_supernet(
        alive, CellConfig(8, request.param, 3, 6), space.nodes, 4, ("avg_pool_3x3",)
    )
    parameters = ArchitectureParameters(alive, torch.Generator().manual_seed(0))
    for alphas in parameters.alphas.values():
        alphas.data.normal_(generator=torch.Generator().manual_seed(1))
    network.double()
    parameters.double()
    return UnrolledSteps(
        StepsContext(
            Fabric(accelerator="cpu", devices=1),
            network,
            parameters,
            torch.optim.SGD(network.parameters(), lr=LR, momentum=0.9, weight_decay=3e-4),
            torch.optim.SGD(parameters.parameters(), lr=1.0),
            5.0,
            StageConfig(),
            seed=0,
        )
    )


def test_a_supernets_architecture_moves_against_that_gradient(
    steps: UnrolledSteps, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Against the loss itself: one step of the weights taken, at neighbouring architectures.

    ReLU and max pooling have kinks, so both differences are taken over much smaller steps than
    the paper's, within which there is none.
    """
    monkeypatch.setattr("nas_encoder.network.choices.unrolled.STEP", 1e-6)
    network, parameters = steps.network, steps.parameters
    train, valid = make_batch(0), make_batch(1)
    lr = 0.05

    def loss(batch: Batch, model: nn.Module, alphas: ArchitectureParameters) -> Tensor:
        with recomputing():
            out, lengths = model(batch.features, batch.feature_lengths, alphas.weights())
        return ctc_loss(out, lengths, batch)

    def ahead(alphas: ArchitectureParameters) -> float:
        model = copy.deepcopy(network).train()
        sgd = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9, weight_decay=3e-4)
        loss(train, model, alphas).backward()
        sgd.step()
        return float(loss(valid, model, alphas).detach())

    direction = {k: torch.randn_like(v) for k, v in parameters.alphas.items()}
    nearby = []
    for sign in (1.0, -1.0):
        moved = copy.deepcopy(parameters)
        for kind, alphas in moved.alphas.items():
            alphas.data.add_(sign * 1e-6 * direction[kind])
        nearby.append(ahead(moved))
    slope = (nearby[0] - nearby[1]) / 2e-6

    before = copy.deepcopy(parameters)
    weights = copy.deepcopy(network.state_dict())
    value, _ = steps.architecture_step(valid, 0.0, train, lr)
    with torch.no_grad():
        moved_by = sum(
            float(((before.alphas[k] - parameters.alphas[k]) * direction[k]).sum())
            for k in direction
        )
    assert value == pytest.approx(ahead(before), abs=1e-9)
    assert moved_by == pytest.approx(slope, rel=1e-4)
    for name, parameter in network.named_parameters():
        assert torch.equal(parameter, weights[name]) and parameter.grad is None
    assert all(p.grad is None for p in parameters.parameters())


def test_the_same_dropout_stands_in_all_losses_of_the_weights(steps: UnrolledSteps) -> None:
    """Different masks would make the difference of equation 8 noise over epsilon."""
    losses = []
    plain = UnrolledSteps.loss

    def watched(self: Steps, batch: Batch, mixture: object, dropout: float) -> tuple[Tensor, float]:
        loss, value = plain(self, batch, mixture, dropout)
        losses.append(value)
        return loss, value

    steps.loss = watched.__get__(steps)  # type: ignore[method-assign]
    torch.manual_seed(5)
    steps.architecture_step(make_batch(1), 0.5, make_batch(0), 0.05)
    first, _, plus, minus = losses
    assert plus == pytest.approx(first, abs=0.05) and minus == pytest.approx(first, abs=0.05)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_the_running_statistics_stay_as_they_were(steps: UnrolledSteps, dropout: float) -> None:
    """None of the four forward passes has weights that the network keeps."""
    steps.weight_step(make_batch(2), 0.05)
    before = {name: buffer.clone() for name, buffer in steps.network.named_buffers()}
    assert sum(name.endswith("running_var") for name in before) > 10
    steps.architecture_step(make_batch(1), dropout, make_batch(0), 0.05)
    for name, buffer in steps.network.named_buffers():
        assert torch.equal(buffer, before[name])
    steps.weight_step(make_batch(0), 0.05)  # a real step moves each of them
    for name, buffer in steps.network.named_buffers():
        statistic = name.endswith(("running_mean", "running_var", "batches_tracked"))
        assert torch.equal(buffer, before[name]) != statistic


def test_the_order_of_the_configuration_decides() -> None:
    for order, kind in (("first", Steps), ("second", UnrolledSteps)):
        strategy = SearchConfig.from_dict({"strategy": "darts", "order": order}).new_strategy()
        made = ArchitectureParameters(strategy.first_candidates(), torch.Generator())
        network = nn.Linear(1, 1)
        sgd = torch.optim.SGD(network.parameters(), lr=0.1)
        fabric = Fabric(accelerator="cpu", devices=1)
        context = StepsContext(fabric, network, made, sgd, sgd, 5.0, StageConfig(), 0)
        assert type(strategy.steps(context)) is kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"order": "third"}, "order: unknown order 'third'"),
        ({"order": "second"}, "order: 'second' is for the strategy 'darts', not for 'pdarts'"),
        (
            {"strategy": "darts", "order": "second", "weights": {"optimizer": "adam"}},
            "order: 'second' needs weights.optimizer sgd",
        ),
        ({"strategy": "darts", "paths": 2}, "paths: 2 is for the strategy 'stnas'"),
        ({"strategy": "stnas", "paths": 3}, "paths: must be in 1..2"),
    ],
)
def test_what_belongs_to_a_strategy_is_checked(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchConfig.from_dict(changes)
    assert len(caught.value.problems) == 1
    assert message in caught.value.problems[0]
