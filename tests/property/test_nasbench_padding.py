"""Padding and batch mates never change what a NAS-Bench-ASR network makes of an utterance."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from property.test_padding import (
    check_alone_equals_in_batch,
    check_more_padding_changes_nothing,
    garbage,
    lengths_beyond,
    tails,
)
from torch import nn

from nas_encoder import build_encoder
from nas_encoder.spaces import get_space

SPACE = get_space("nasbench_asr")


def network(seed: int, **options: Any) -> nn.Module:
    """Return a small network of a random genotype with uneven norms, in float64."""
    torch.manual_seed(seed)
    settings_ = {
        "input_size": 7,
        "channels": 12,
        "output_size": 5,
        "block_cells": (1, 1, 1, 2),
        "taps": (4,),
        **options,
    }
    module = build_encoder(SPACE.sample(random.Random(seed)), **settings_).double()
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.5)
    return module


options_ = st.fixed_dictionaries(
    {
        "lstm_size": st.sampled_from([0, 6]),
        "conv_groups": st.sampled_from([0, 1, 3]),
        "deltas": st.booleans(),
        "conditioning": st.booleans(),
    }
)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), options_, lengths_beyond, tails, garbage)
def test_in_evaluation(
    seed: int, options: dict[str, Any], beyond: list[int], tail: int, value: float
) -> None:
    check_alone_equals_in_batch(network(seed, **options), beyond, tail, value, 7)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10**6), options_, lengths_beyond, tails, garbage)
def test_in_training(
    seed: int, options: dict[str, Any], beyond: list[int], tail: int, value: float
) -> None:
    check_more_padding_changes_nothing(network(seed, **options), beyond, tail, value, 7)


@pytest.mark.parametrize("bound", [0, 2])
def test_a_frame_depends_on_the_utterance_alone_even_where_the_mask_is_all_there_is(
    bound: int,
) -> None:
    """The check above can fail: without masks the padding of batch mates is seen."""
    module = network(3, lstm_size=0).eval()
    x = torch.randn(2, 30, 7, dtype=torch.float64)
    y, _ = module(x, torch.tensor([30, 30 - 7 * bound]))
    z, _ = module(x, torch.tensor([30, 30]))
    assert torch.equal(y[0], z[0])
    assert torch.equal(y[1], z[1]) == (bound == 0)
