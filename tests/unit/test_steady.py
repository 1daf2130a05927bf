"""One graph for a stream from its first chunk on: sizes, clock, every kind of module."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from streaming_samples import FRONT_ENDS, MODULES, cells_of, encoder_of, mixed, of_module

from nas_encoder.errors import ConfigError
from nas_encoder.network.steady import SteadyStep
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.front_parts import StackFront
from nas_encoder.spaces.blocks.parts import Memory, SelfAttention
from nas_encoder.testing.streaming import one_graph_gives_the_same

ALL = [of_module(part) for part in MODULES]
ALL += [BlockArchitecture(front, stages=(Stage(8, 1, 1, (Memory(2, 1),)),)) for front in FRONT_ENDS]
ALL.append(replace(mixed(), positions="none"))


def _agrees(network: Any) -> None:
    period, least = network.period, network.min_length
    ends = [least, 3 * period + 1, 7 * period, 2 * period + least - 1, least + network.lookahead()]
    one_graph_gives_the_same(network, period, ends)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ALL, ids=range(len(ALL)))
def test_streams_of_all_ages_in_a_batch(architecture: BlockArchitecture) -> None:
    torch.manual_seed(0)
    _agrees(encoder_of(architecture))


@pytest.mark.parametrize("after", [None, 1])
def test_streams_of_cells_in_chunks_of_an_output_frame(after: int | None) -> None:
    torch.manual_seed(0)
    _agrees(cells_of("darts_v2", after, channels=2, layers=3))


def test_two_streams_of_attention_in_chunks() -> None:
    torch.manual_seed(0)
    network = encoder_of(of_module(SelfAttention(2, 6, chunk=4)))
    one_graph_gives_the_same(network, 16, [37, 48])


@torch.no_grad()
def test_the_clock_stops_and_silence_stays_silence() -> None:
    network = encoder_of(of_module(SelfAttention(2, 4, ahead=1)))
    step = SteadyStep(network, 4)
    caches, clock = step.initial_state(2)
    x, seen = torch.randn(2, 4, network.input_size, dtype=torch.float64), []
    for number in range(60):
        lengths = torch.tensor([4, 4 if number < 30 else 1 if number == 30 else 0])
        y, valid, caches, clock = step(x, lengths, caches, clock)
        seen.append(clock.tolist())
    ages, ends = zip(*seen, strict=True)
    assert ages[-1] == max(ages) == ages[40]  # of a stream that goes on
    assert ends[-1] == ends[-2] > ages[-1]  # of one that has ended
    assert valid.tolist() == [[True], [False]] and not y[1].any()
    # Frame after frame the same input: nothing drifts.
    again, _, later, _ = step(x, lengths, caches, clock)
    assert torch.equal(again, y) and torch.equal(later, caches)


def remembering(blocks: int, back: int, ahead: int) -> Any:
    """Return a tiny encoder that sees far."""
    stage = Stage(1, 1, blocks, (Memory(back, ahead, 64),))
    return encoder_of(BlockArchitecture(StackFront(4, 0), stages=(stage,)))


@torch.no_grad()
def test_the_clock_fits_into_32_bits_however_far_back_a_stream_sees() -> None:
    torch.manual_seed(0)
    network, frames = remembering(1, 182, 3), 12_000
    step = SteadyStep(network, frames)
    assert (step.seen + 1) ** 2 > 1 << 31  # what it once got to, long after an end
    x = torch.randn(1, frames, network.input_size, dtype=torch.float64)
    caches, clock = step.initial_state(1)
    pieces, clocks = [], []
    for length in (frames, 5_001, *[0] * 6):
        y, valid, caches, clock = step(x, torch.tensor([length]), caches, clock)
        pieces.append(y[valid])
        clocks.append(int(clock))
    assert max(clocks) == clocks[-1] == clocks[-2] < 1 << 31 and not len(pieces[-1])
    whole, _ = network(torch.cat((x, x[:, :5_001]), 1), torch.tensor([frames + 5_001]))
    torch.testing.assert_close(torch.cat(pieces), whole[0], rtol=0, atol=1e-10)
    with pytest.raises(ConfigError, match=r"would get to \d{10}; at most 2147483647 fits"):
        SteadyStep(remembering(20, 10, 10), 4)


def test_what_has_no_constant_state_is_refused() -> None:
    with pytest.raises(ConfigError, match="absolute positions have no end"):
        SteadyStep(encoder_of(mixed()), 48)
    network = encoder_of(of_module(SelfAttention(2, 6, chunk=4)))
    for frames in (0, 8, 24):
        with pytest.raises(ConfigError, match=f"must be a multiple of 16 frames, got {frames}"):
            SteadyStep(network, frames)
    with pytest.raises(ConfigError, match="sees the whole utterance"):
        SteadyStep(encoder_of(of_module(SelfAttention(2))), 48)
