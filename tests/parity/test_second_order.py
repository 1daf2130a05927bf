"""Second-order DARTS against the paper's procedure on plain networks, one copy for each weights.

A plain supernet is copied whenever its weights are to be changed (as the authors' code does), so
what the procedure leaves of the original, running statistics included, is clear by construction.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator

import pytest
import torch
from choice_samples import all_candidates
from lightning.fabric import Fabric
from parity.plain_supernet import PlainSupernet
from parity.test_supernet import VOCABULARY, build, plain_of
from torch import Tensor, nn

from nas_encoder.data import Batch
from nas_encoder.network.choices.parameters import ArchitectureParameters
from nas_encoder.search.config.sections import StageConfig
from nas_encoder.search.gradient.steps import StepsContext
from nas_encoder.search.gradient.strategies.darts import UnrolledSteps
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import CellConfig

LR, MOMENTUM, DECAY = 0.05, 0.9, 3e-4
CONFIG = CellConfig(8, 2, 3, 6)


@pytest.fixture(autouse=True)
def float64() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def make_batch(seed: int) -> Batch:
    """Return utterances of one length, which a network without masks can take together."""
    generator = torch.Generator().manual_seed(seed)
    return Batch(
        features=torch.randn(2, 16, CONFIG.input_size, generator=generator),
        feature_lengths=torch.tensor([16, 16]),
        targets=torch.randint(1, VOCABULARY, (2, 2), generator=generator),
        target_lengths=torch.tensor([2, 2]),
        ids=["u0", "u1"],
        texts=["", ""],
    )


def plain_loss(model: PlainSupernet, alphas: dict[str, Tensor], batch: Batch) -> Tensor:
    log_probs = model(batch.features, {kind: a.softmax(-1) for kind, a in alphas.items()})
    lengths = torch.full((len(log_probs),), log_probs.size(1))
    return nn.functional.ctc_loss(
        log_probs.transpose(0, 1), batch.targets, lengths, batch.target_lengths
    )


def moved(model: PlainSupernet, along: list[Tensor], by: float) -> PlainSupernet:
    """Return a copy with ``by * along`` added to its weights."""
    other = copy.deepcopy(model)
    with torch.no_grad():
        for weight, direction in zip(other.parameters(), along, strict=True):
            weight += by * direction
    return other


def gradients(loss: Tensor, of: list[Tensor]) -> list[Tensor]:
    found = torch.autograd.grad(loss, of, allow_unused=True)
    return [torch.zeros_like(t) if g is None else g for t, g in zip(of, found, strict=True)]


def plain_gradient(
    model: PlainSupernet, alphas: dict[str, Tensor], momenta: list[Tensor], train: Batch, val: Batch
) -> list[Tensor]:
    """Return the gradient of equations 7 and 8; ``model`` itself makes no forward pass."""
    own = list(alphas.values())
    here = copy.deepcopy(model)
    weights = list(here.parameters())
    step = [
        gradient + DECAY * weight.detach() + MOMENTUM * momentum
        for gradient, weight, momentum in zip(
            gradients(plain_loss(here, alphas, train), weights), weights, momenta, strict=True
        )
    ]
    ahead = moved(model, step, -LR)
    weights = list(ahead.parameters())
    found = gradients(plain_loss(ahead, alphas, val), [*own, *weights])
    direct, along = found[: len(own)], found[len(own) :]
    epsilon = 0.01 / float(torch.cat([v.flatten() for v in along]).norm())
    plus, minus = (
        gradients(plain_loss(moved(model, along, sign * epsilon), alphas, train), own)
        for sign in (1, -1)
    )
    return [
        first - LR * (p - m) / (2 * epsilon)
        for first, p, m in zip(direct, plus, minus, strict=True)
    ]


@pytest.mark.slow
def test_the_step_is_that_of_the_paper_on_plain_networks() -> None:
    alive = all_candidates(get_space("darts"))
    network = build(alive, CONFIG)
    parameters = ArchitectureParameters(alive, torch.Generator().manual_seed(0)).double()
    for alphas in parameters.alphas.values():
        alphas.data.normal_(generator=torch.Generator().manual_seed(1))
    sgd = torch.optim.SGD(network.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    steps = UnrolledSteps(
        StepsContext(
            Fabric(accelerator="cpu", devices=1),
            network,
            parameters,
            sgd,
            torch.optim.SGD(parameters.parameters(), lr=1.0),
            0.0,
            StageConfig(),
            seed=0,
        )
    )
    steps.weight_step(make_batch(2), LR)  # from here on there is a momentum
    momentum = copy.deepcopy(network)
    for mine, theirs in zip(network.parameters(), momentum.parameters(), strict=True):
        theirs.data.copy_(sgd.state[mine]["momentum_buffer"])
    momenta = [p.detach() for p in plain_of(momentum, alive, CONFIG).parameters()]
    assert any(float(m.abs().max()) > 1e-3 for m in momenta)
    plain = plain_of(network, alive, CONFIG).train()
    before = {name: buffer.clone() for name, buffer in network.named_buffers()}
    untouched = {name: buffer.clone() for name, buffer in plain.named_buffers()}
    own = {k: a.detach().clone().requires_grad_() for k, a in parameters.alphas.items()}
    expected = plain_gradient(plain, own, momenta, make_batch(0), make_batch(1))
    steps.architecture_step(make_batch(1), 0.0, make_batch(0), LR)
    for (kind, was), gradient in zip(own.items(), expected, strict=True):
        torch.testing.assert_close(was - parameters.alphas[kind], gradient, rtol=1e-6, atol=1e-9)
        assert float(gradient.norm()) > 1e-3
    for name, buffer in network.named_buffers():
        assert torch.equal(buffer, before[name])
    for name, buffer in plain.named_buffers():
        assert torch.equal(buffer, untouched[name])
