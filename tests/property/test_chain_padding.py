"""Padding and batch mates never change what a chain network makes of an utterance.

The checks are those of the cell networks, in float64 to 1e-9, for the outputs, the intermediate
outputs and the gradient of the input.
"""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from encoder_samples import padded
from hypothesis import given, settings
from hypothesis import strategies as st
from test_padding import (
    GARBAGE,
    check_alone_equals_in_batch,
    check_more_padding_changes_nothing,
)
from torch import nn

from nas_encoder import build_encoder
from nas_encoder.spaces import get_space

options = st.fixed_dictionaries(
    {
        "input_size": st.integers(1, 9),
        "channels": st.integers(2, 6),
        "output_size": st.integers(1, 6),
        "deltas": st.booleans(),
        "taps": st.sampled_from([(), (4,), (4, 5)]),
    }
)


def chain(seed: int, conditioning: bool = False, **chosen: Any) -> nn.Module:
    """Return a drawn network in float64, its norms away from a fresh network's."""
    torch.manual_seed(seed)
    genotype = get_space("tdnn_chain").sample(random.Random(seed))
    conditioning = conditioning and bool(chosen["taps"])
    module = build_encoder(genotype, conditioning=conditioning, **chosen).double()
    for part in module.modules():
        if isinstance(part, nn.LayerNorm):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
    return module


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**31),
    options,
    st.booleans(),
    st.lists(st.integers(0, 30), min_size=1, max_size=4),
    st.integers(0, 11),
    st.sampled_from(GARBAGE),
)
def test_drawn_chains(
    seed: int,
    chosen: dict[str, Any],
    conditioning: bool,
    beyond: list[int],
    tail: int,
    value: float,
) -> None:
    module = chain(seed, conditioning, **chosen)
    check_alone_equals_in_batch(module, beyond, tail, value, chosen["input_size"])
    check_more_padding_changes_nothing(module, beyond, tail, value, chosen["input_size"])


def test_these_checks_notice_a_leak() -> None:
    """They must fail for a network whose layers leave padding as it comes."""
    module = chain(0, input_size=3, channels=4, output_size=4, deltas=False, taps=())
    for block in module.blocks:  # type: ignore[union-attr]
        plain = block.forward
        block.forward = lambda x, mask, dropout, plain=plain: plain(x, None, dropout)
    with pytest.raises(AssertionError):
        check_alone_equals_in_batch(module, [20, 3, 11], 0, 0.0, 3)


def test_equal_lengths_need_no_mask() -> None:
    module = chain(1, input_size=3, channels=4, output_size=4, deltas=True, taps=()).eval()
    x, lengths = padded([21, 21], 3)
    wide = torch.cat([x, torch.zeros(2, 6, 3, dtype=x.dtype)], dim=1)
    torch.testing.assert_close(
        module(wide, lengths)[0][:, :7], module(x, lengths)[0], rtol=0.0, atol=1e-9
    )
