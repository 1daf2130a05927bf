"""Streams of block encoders: lookahead, states, what is refused, precision, captured graphs."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from streaming_samples import (
    BINS,
    FRONT_ENDS,
    MODULES,
    encoder_of,
    mixed,
    of_module,
    state_sizes,
    tensors,
)
from torch._dynamo.testing import CompileCounter

from nas_encoder import build_encoder, load_genotype
from nas_encoder.errors import ConfigError, GenotypeError, InputError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.blocks import spans
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.front_parts import SearchedFront
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import Convolution, FeedForward, Parallel, SelfAttention
from nas_encoder.testing.streaming import chunks_give_the_same, lookahead_is_exact, streamed


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


def of_front(front: Part) -> BlockArchitecture:
    """Return an architecture with a front end and little else."""
    return BlockArchitecture(front, stages=(Stage(8, 1, 1, (FeedForward(2.0),)),))


ARCHITECTURES = [
    *map(of_module, MODULES),
    *map(of_front, FRONT_ENDS),
    of_module(MODULES[3], "after"),
    mixed(),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES, ids=range(len(ARCHITECTURES)))
def test_lookahead_is_what_a_change_ahead_shows(architecture: BlockArchitecture) -> None:
    network = encoder_of(architecture)
    lookahead_is_exact(network, architecture.period * network.front.factor)
    chunks_give_the_same(network, [7, 1, 40, 0, 16, 19], [83, 64, 31])


def test_lookahead_in_known_cases() -> None:
    def ahead(*parts: Part, front: Any = FRONT_ENDS[0], blocks: int = 1) -> int:
        architecture = BlockArchitecture(front, stages=(Stage(8, 1, blocks, parts),))
        return spans.receptive_field(architecture).right

    assert ahead(FeedForward()) == 3
    assert ahead(Convolution(15), blocks=2) == 2 * 7 * 4 + 3
    assert ahead(Convolution(15, causal=True), SelfAttention(2, 32, ahead=0)) == 3
    # All within a chunk: more layers of chunks see no further, unlike layers of windows.
    assert ahead(SelfAttention(2, 32, chunk=8), blocks=3) == 7 * 4 + 3
    assert ahead(SelfAttention(2, 8), blocks=3) == 3 * 8 * 4 + 3


def test_a_searched_front_end_streams() -> None:
    cells = load_genotype("synth_pdarts")
    front = SearchedFront(
        Genotype(cells.name, cells.space, cells.architecture),
        (("channels", 2), ("layers", 3), ("stem_stride", (1, 2))),
    )
    network = encoder_of(of_front(front))
    chunks_give_the_same(network, [30, 1, 90, 11], [132, 64])
    assert network.lookahead() == network.front.reach[1]


# -- states -------------------------------------------------------------------------------------


@torch.no_grad()
def test_a_state_is_not_changed_and_has_a_constant_size() -> None:
    network = encoder_of(mixed())
    sizes = state_sizes(network, frames=48, steps=40)
    assert len(set(sizes[10:])) == 1
    assert max(sizes) < 100_000


@torch.no_grad()
def test_a_far_away_stream_gives_what_a_new_one_gives() -> None:
    """Places begin again, with utterances that ended before and after that."""
    part = Parallel(2, 4, "relative", 2.0, 5, 3, chunk=5, causal=True)
    network = encoder_of(of_module(part))
    sizes = [20 * 4 + 3] * 30
    chunks_give_the_same(network, sizes, [sum(sizes), 600, 83])
    state = network.initial_state(1)
    assert state.cycle is not None
    for size in sizes:
        _, state = network.step(torch.zeros(1, size, BINS, dtype=torch.float64), state)
        assert state.place < sum(state.cycle)
    assert state.frames == sum(sizes) and state.frames % 20 == state.place % 20


@torch.no_grad()
def test_batch_mates_change_nothing() -> None:
    network = encoder_of(mixed()).float()
    x, lengths, sizes = torch.randn(8, 90, BINS), torch.arange(90, 10, -10), [13] * 6 + [12]
    together = torch.cat(streamed(network, x, sizes, lengths), 1)
    for row, length in enumerate(lengths.tolist()):
        cut = [size for size in sizes if size]
        alone = torch.cat(streamed(network, x[row : row + 1], cut, lengths[row : row + 1]), 1)
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-5)
        frames = int(network.output_lengths(torch.tensor(length)))
        assert (together[row, frames:] == 0).all()


@torch.no_grad()
def test_an_end_without_frames_gives_the_rest() -> None:
    network = encoder_of(mixed())
    x = torch.randn(2, 157, BINS, dtype=torch.float64)
    whole, _ = network(x, torch.tensor([157, 157]))
    pieces = streamed(network, x, [157, 0])
    assert 0 < pieces[0].size(1) < whole.size(1)
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-10)
    none, _ = network.step(x[:, :0], network.initial_state(2), last=True)
    assert none.shape == (2, 0, network.output_size)


@torch.no_grad()
def test_taps_are_fed_back_as_in_whole_utterances() -> None:
    stage = Stage(8, 1, 3, (SelfAttention(2, 4, chunk=3),))
    network = encoder_of(
        BlockArchitecture(FRONT_ENDS[0], stages=(stage,)), conditioning=True, taps=[1]
    )
    x = torch.randn(2, 60, BINS, dtype=torch.float64)
    lengths = torch.tensor([60, 41])
    whole, _, _ = network.forward_taps(x, lengths, torch.tanh)
    plain, _ = network(x, lengths)
    assert (whole - plain).abs().max() > 1e-3
    found = torch.cat(streamed(network, x, [11] * 5 + [5], lengths, condition=torch.tanh), 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)


# -- what is refused ----------------------------------------------------------------------------


def test_what_sees_the_whole_utterance_is_named() -> None:
    stages = (
        Stage(8, 1, 1, (FeedForward(), SelfAttention(2))),
        Stage(8, 1, 1, (Parallel(2), SelfAttention(2, 4))),
    )
    network = encoder_of(BlockArchitecture(FRONT_ENDS[0], stages=stages))
    with pytest.raises(ConfigError) as caught:
        network.initial_state(1)
    assert [line.split(": ")[0] for line in caught.value.problems] == [
        "stages[0].modules[1]",
        "stages[1].modules[0]",
    ]
    with pytest.raises(ConfigError, match=r"stages\[0\]") as again:
        network.lookahead()
    assert again.value.problems == caught.value.problems
    lstm = build_encoder("nasbench_asr_example", input_size=BINS, channels=4, lstm_size=8)
    with pytest.raises(ConfigError, match="lstm_size"):
        lstm.initial_state(1)


@torch.no_grad()
def test_bad_chunks_are_refused_and_the_stream_goes_on() -> None:
    network = encoder_of(mixed())
    x = torch.randn(2, 30, BINS, dtype=torch.float64)
    state = network.initial_state(2)
    _, state = network.step(x, state, lengths=torch.tensor([30, 12]))
    bad = x.clone()
    bad[0, 4] = float("nan")
    cases = [
        ((bad, state), r"utterance 0 .* frame 34 of its stream"),
        ((x[:1], state), "must be of 2 utterances, got 1"),
        ((x[:, :, 1:], state), r"must be float \(B, t, 12\)"),
        ((x, state, False, torch.tensor([30, 1])), "utterance 1 .* ended after 12 frames"),
        ((x, state, False, torch.tensor([31, 0])), "from 0 to the frames of the chunk, 30"),
        ((x, state, False, torch.tensor([3.0, 0.0])), "must be integers"),
        ((x, state._replace(over=True)), "has ended"),
    ]
    for given, message in cases:
        with pytest.raises(InputError, match=message):
            network.step(*given)
    bad[0], bad[1] = x[0], float("nan")  # of an utterance that has ended
    y, _ = network.step(bad, state)
    assert torch.isfinite(y).all()
    with pytest.raises(InputError, match="at least 1, got 0"):
        network.initial_state(0)
    with pytest.raises(InputError, match="training mode"):
        network.train().step(x, state)


@pytest.mark.parametrize(
    ("part", "message"),
    [
        ({"window": 4, "chunk": 4, "ahead": 1}, "frames ahead are those of the chunk"),
        ({"ahead": 0}, "whole utterance is seen"),
        ({"window": 4, "ahead": 4}, "must be null where it is the window"),
    ],
)
def test_contexts_that_contradict_are_refused(part: dict[str, Any], message: str) -> None:
    document = {
        **load_genotype("transformer").to_dict(),
        "stages": [{"width": 8, "modules": [{"kind": "attention", "heads": 2, **part}]}],
    }
    with pytest.raises(GenotypeError, match=message):
        Genotype.from_dict(document)


def test_new_options_change_the_hash_only_where_they_are_given() -> None:
    document = load_genotype("fast_conformer").to_dict()
    assert Genotype.from_dict(document).hash == "919bad23ab041ead"  # as before there were any
    seen = set()
    for name, value in (("chunk", 8), ("chunk", 4), ("ahead", 0)):
        changed = copy.deepcopy(document)
        changed["stages"][0]["modules"][1] |= {"window": 8, name: value}
        genotype = Genotype.from_dict(changed)
        assert Genotype.from_dict(genotype.to_dict()) == genotype
        seen.add(genotype.hash)
    assert len(seen) == 3


# -- precision and captured graphs --------------------------------------------------------------


@torch.no_grad()
def test_bf16_stays_near_float32() -> None:
    network = encoder_of(mixed()).float()
    x, lengths = torch.randn(2, 96, BINS), torch.tensor([96, 70])
    whole, _ = network(x, lengths)
    half = network.bfloat16()
    found = torch.cat(streamed(half, x.bfloat16(), [16] * 6, lengths), 1)
    own, _ = half(x.bfloat16(), lengths)
    size = float(whole.abs().max())
    assert found.dtype == torch.bfloat16
    assert (found - own).abs().max() < 0.03 * size
    assert (found - whole).abs().max() < 0.03 * size


@torch.no_grad()
def test_what_does_not_stream_is_recorded_all_the_same() -> None:
    """TorchScript reads every property of a module, so none may refuse."""
    network = encoder_of(of_module(SelfAttention(2)))
    x, lengths = torch.randn(2, 40, BINS, dtype=torch.float64), torch.tensor([40, 21])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the tracer's own
        recorded = torch.jit.trace(network, (x, lengths))
    torch.testing.assert_close(recorded(x, lengths)[0], network(x, lengths)[0])


@pytest.mark.slow
@torch.no_grad()
def test_one_graph_serves_a_stream() -> None:
    network = encoder_of(of_module(SelfAttention(2, 6, chunk=4)))
    size = network.period
    x = torch.randn(1, size, BINS, dtype=torch.float64)
    state = network.initial_state(1)
    while state.frames == state.place:  # until places begin again
        _, state = network.step(x, state)
    graphs = CompileCounter()
    compiled = torch.compile(network.step, backend=graphs, fullgraph=True)
    captured = state
    for _ in range(4):
        expected, state = network.step(x, state)
        found, captured = compiled(x, captured)
        torch.testing.assert_close(found, expected, rtol=0, atol=1e-12)
        assert found.size(1) == size // 4
    assert graphs.frame_count <= 2  # the number of all frames becomes an input with the second
    for own, other in zip(tensors(captured), tensors(state), strict=True):
        torch.testing.assert_close(own, other, rtol=0, atol=1e-12)
