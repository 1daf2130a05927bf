"""Chains and networks of NAS-Bench-ASR stream with caches of their own."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
from streaming_samples import BINS, state_sizes, unlike_new

from nas_encoder import build_encoder
from nas_encoder.errors import ConfigError
from nas_encoder.spaces import get_space
from nas_encoder.testing.streaming import chunks_give_the_same, one_graph_gives_the_same, streamed


def drawn(space: str, seed: int, **options: Any) -> Any:
    """Return a network of a space in evaluation mode and float64."""
    torch.manual_seed(seed)
    genotype = get_space(space).sample(random.Random(seed))
    sizes = {"input_size": BINS, "channels": 4, "output_size": 6, **options}
    return unlike_new(build_encoder(genotype, **sizes)).double().eval()


@pytest.mark.parametrize("space", ["tdnn_chain", "nasbench_asr"])
@pytest.mark.parametrize(("seed", "deltas"), [(0, True), (1, False), (2, True)])
@torch.no_grad()
def test_chunks_give_what_the_whole_gives_as_early_as_they_can(
    space: str, seed: int, deltas: bool
) -> None:
    network = drawn(space, seed, deltas=deltas)
    chunks_give_the_same(network, [7, 1, 40, 0, 16, 19, 60], [143, 64, 31])
    one_graph_gives_the_same(network, 5 * network.period, [37, 148])
    factor, ahead, frames = network.subsampling_factor, network.lookahead(), 90
    x = torch.randn(1, frames, BINS, dtype=torch.float64)
    total = 0
    for number, y in enumerate(streamed(network, x, [1] * frames)[:-1]):
        total += y.size(1)
        assert total == max(0, (number - ahead) // factor + 1)


@pytest.mark.parametrize("space", ["tdnn_chain", "nasbench_asr"])
@torch.no_grad()
def test_conditions_are_fed_back_and_states_stay_small(space: str) -> None:
    network = drawn(space, 1, conditioning=True, taps=[4 if space == "tdnn_chain" else 17])
    x, lengths = torch.randn(2, 60, BINS, dtype=torch.float64), torch.tensor([60, 41])
    whole, *_ = network.forward_taps(x, lengths, torch.tanh)
    plain, _ = network(x, lengths)
    found = torch.cat(streamed(network, x, [11] * 5 + [5], lengths, condition=torch.tanh), 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)
    assert not torch.allclose(whole, plain)
    sizes = state_sizes(network, frames=60, steps=30)
    assert len(set(sizes[15:])) == 1
    # Windows would keep all the input frames that an output frame depends on.
    assert network.initial_caches(1, x)[1] != ()


def test_an_lstm_does_not_stream() -> None:
    network = drawn("nasbench_asr", 0, lstm_size=8)
    with pytest.raises(ConfigError, match="lstm_size: an LSTM reaches back"):
        network.initial_state(1)
