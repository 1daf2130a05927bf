"""Steps of a supernet's training: gradients of several networks, and what small ones learn from."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from lightning.fabric import Fabric
from supernet_samples import SPACE, config, names

from nas_encoder.data import Batch
from nas_encoder.search.trials.sandwich import Chosen, SandwichSteps, SharedCtc
from nas_encoder.spaces.blocks.config import BlocksConfig


def steps(distillation: float) -> tuple[SandwichSteps, list[Any], Batch]:
    torch.manual_seed(0)
    options = BlocksConfig(input_size=16, dropout=0.0, attention_dropout=0.0)
    shared: Any = SPACE.oneshot.build(SPACE, names(config()), options)
    network = SharedCtc(shared, 5)
    optimizer = torch.optim.SGD(network.parameters(), 1.0)
    fabric = Fabric(accelerator="cpu", devices=1)
    made = SandwichSteps(fabric, network, optimizer, distillation=distillation)
    drawn = shared.draws(random.Random(1), 2)
    lengths, targets = torch.tensor([60, 44]), torch.tensor([[1, 2, 3], [4, 1, 0]])
    batch = Batch(
        features=torch.randn(2, 60, 16),
        feature_lengths=lengths,
        targets=targets,
        target_lengths=torch.tensor([3, 2]),
        ids=["a", "b"],
        texts=["abc", "da"],
    )
    return made, drawn, batch


@pytest.mark.parametrize("distillation", [0.0, 0.25, 1.0])
def test_a_step_adds_up_the_gradients_of_its_networks(distillation: float) -> None:
    made, drawn, batch = steps(distillation)
    network = copy.deepcopy(made.network).train()
    sums = made.sandwich_step([batch], 1.0, drawn)
    teacher, losses = None, []
    for genotype in drawn:
        log_probs, lengths = network(batch.features, batch.feature_lengths, Chosen(genotype))
        args = (batch.targets, lengths, batch.target_lengths)
        loss = F.ctc_loss(log_probs.transpose(0, 1), *args)
        if teacher is not None:
            soft = []
            for row, wanted, size, tokens in zip(
                log_probs, teacher, lengths, batch.target_lengths, strict=True
            ):
                p, q = wanted[:size], row[:size]
                soft.append((p.exp() * (p - q)).sum() / tokens)
            loss = distillation * torch.stack(soft).mean() + (1 - distillation) * loss
        teacher = log_probs.detach() if teacher is None else teacher
        loss.backward()
        losses.append(float(loss.detach()))
    moved = 0
    for one, other in zip(network.parameters(), made.network.parameters(), strict=True):
        wanted = one.detach() if one.grad is None else one.detach() - one.grad
        torch.testing.assert_close(other.detach(), wanted, rtol=1e-4, atol=1e-6)
        moved += one.grad is not None
    assert moved > 20
    assert sums["loss"] == pytest.approx(losses[0], rel=1e-4)
    assert sums["smallest"] == pytest.approx(losses[1], rel=1e-3, abs=1e-5)
    assert sums["others"] == pytest.approx(sum(losses[2:]) / 2, rel=1e-3, abs=1e-5)


def test_distillation_ignores_padding() -> None:
    made, drawn, batch = steps(1.0)
    longer = copy.copy(batch)
    longer.features = F.pad(batch.features, (0, 0, 0, 40), value=7.0)
    other = copy.deepcopy(made)
    other.optimizer = torch.optim.SGD(other.network.parameters(), 1.0)
    one, two = made.sandwich_step([batch], 1.0, drawn), other.sandwich_step([longer], 1.0, drawn)
    assert one == pytest.approx(two, rel=1e-4)
