"""Utterances whose tokens CTC cannot place: found exactly, left out of the loss."""

from __future__ import annotations

import pytest
import torch

from nas_encoder.data import Batch
from nas_encoder.data.selection import ctc_frames_needed
from nas_encoder.training.steps import ctc_loss, feasible, feasible_ctc_loss

TOKENS = [[1, 2, 3], [1, 1, 1], [2], [3, 3, 2, 2], [1, 2, 2]]


def batch() -> Batch:
    longest = max(map(len, TOKENS))
    return Batch(
        features=torch.zeros(len(TOKENS), 1, 1),
        feature_lengths=torch.ones(len(TOKENS), dtype=torch.int64),
        targets=torch.tensor([ids + [0] * (longest - len(ids)) for ids in TOKENS]),
        target_lengths=torch.tensor([len(ids) for ids in TOKENS]),
        ids=[str(place) for place in range(len(TOKENS))],
        texts=[""] * len(TOKENS),
    )


def log_probs(frames: int) -> torch.Tensor:
    torch.manual_seed(0)
    logits = torch.randn(len(TOKENS), frames, 4, dtype=torch.float64, requires_grad=True)
    return logits.log_softmax(2)


@pytest.mark.parametrize("frames", range(1, 8))
def test_exactly_those_whose_loss_is_infinite(frames: int) -> None:
    lengths = torch.full((len(TOKENS),), frames)
    kept = feasible(lengths, batch())
    assert kept.tolist() == [ctc_frames_needed(ids) <= frames for ids in TOKENS]
    losses = ctc_loss(log_probs(frames), lengths, batch(), "none")
    assert kept.tolist() == torch.isfinite(losses).tolist()


def test_the_loss_is_the_mean_over_the_others_and_its_gradient_is_finite() -> None:
    lengths = torch.tensor([3, 4, 1, 6, 4])
    x = log_probs(6)
    x.retain_grad()
    loss = feasible_ctc_loss(x, lengths, batch())
    each = ctc_loss(x, lengths, batch(), "none") / batch().target_lengths
    assert torch.isinf(each[1]) and int(torch.isinf(each).sum()) == 1
    torch.testing.assert_close(loss, each[torch.isfinite(each)].mean())
    loss.backward()  # type: ignore[no-untyped-call]
    assert x.grad is not None and bool(torch.isfinite(x.grad).all())
    assert (x.grad[1] == 0).all() and (x.grad[0] != 0).any()


def test_without_any_the_loss_and_its_gradient_are_zero() -> None:
    x = log_probs(6)
    x.retain_grad()
    loss = feasible_ctc_loss(x, torch.zeros(len(TOKENS), dtype=torch.int64), batch())
    loss.backward()  # type: ignore[no-untyped-call]
    assert float(loss.detach()) == 0 and x.grad is not None and (x.grad == 0).all()
