"""One encoder with several lookaheads: each is exact, one is drawn for each training batch."""

from __future__ import annotations

from collections import Counter
from typing import Any

import export_samples
import pytest
import torch
from streaming_samples import BINS, FRONT_ENDS, encoder_of, of_module
from torch import Tensor

from nas_encoder import build_encoder
from nas_encoder.errors import ConfigError, InputError
from nas_encoder.export.export import ExportOptions
from nas_encoder.export.streaming.export import export_stream
from nas_encoder.genotype import Genotype
from nas_encoder.network.stream_rows import StreamRows, new_marks
from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.lookaheads import varied
from nas_encoder.spaces.blocks.parts import Convolution, Memory, Parallel, SelfAttention
from nas_encoder.testing.streaming import (
    chunks_give_the_same,
    lookahead_is_exact,
    one_graph_gives_the_same,
)

# Attention at two rates, some of it with no lookahead at all; kernels look ahead on their own.
CHUNKS = BlockArchitecture(
    FRONT_ENDS[0],
    stages=(
        Stage(
            8, 1, 1, (SelfAttention(2, 5, chunk=8), Convolution(3), SelfAttention(2, 3, ahead=0))
        ),
        Stage(12, 2, 2, (Parallel(2, 4, "relative", 2.0, 5, 3, chunk=4, causal=True),)),
    ),
)
WINDOWS = BlockArchitecture(
    FRONT_ENDS[0],
    stages=(
        Stage(8, 2, 2, (SelfAttention(2, 3), Memory(2, 1))),
        Stage(8, 1, 1, (SelfAttention(2, 9, "none", ahead=6), Convolution(3, causal=True))),
    ),
)
CASES = ((CHUNKS, (3, 0, 1)), (WINDOWS, (4, 6, 0)))
EXACT = {"dropout": 0.0, "attention_dropout": 0.0}


@pytest.fixture(autouse=True)
def _same_weights() -> None:
    torch.manual_seed(0)


@pytest.mark.slow
@pytest.mark.parametrize(("architecture", "lookaheads"), CASES, ids=["chunks", "windows"])
def test_each_is_the_encoder_of_its_own_genotype(
    architecture: BlockArchitecture, lookaheads: tuple[int, ...]
) -> None:
    network = encoder_of(architecture, lookaheads=lookaheads)
    x, lengths = torch.randn(2, 130, BINS, dtype=torch.float64), torch.tensor([130, 71])
    seen = []
    for ahead in (None, *reversed(lookaheads)):  # the first one without being selected
        if ahead is not None:
            network.select_lookahead(ahead)
        alone = encoder_of(varied(architecture, lookaheads[0] if ahead is None else ahead))
        alone.load_state_dict(network.state_dict())
        assert torch.equal(network(x, lengths)[0], alone(x, lengths)[0])
        assert (network.field(), network.period) == (alone.field(), alone.period)
        for block, other in zip(network.blocks, alone.blocks, strict=True):
            layers = zip(block.layers, other.layers, strict=True)
            assert [one.reach for one, _ in layers] == [layer.reach for layer in other.layers]
        seen.append(network.lookahead())
        lookahead_is_exact(network, network.period)
        chunks_give_the_same(network, [7, 1, 40, 0, 16, 19], [83, 64, 31])
        one_graph_gives_the_same(network, network.period, [37, 48])
    assert seen[0] == seen[-1] and len(set(seen)) == len(lookaheads)
    assert [field.right for field in network.fields()] == seen[:0:-1]
    with pytest.raises(ConfigError, match=r"must be one of \d, \d, \d, got 7"):
        network.select_lookahead(7)


def test_training_batches_draw_one() -> None:
    lookaheads, shares = (3, 0, 1), (0.5, 0.2, 0.3)
    options: dict[str, Any] = {"lookaheads": lookaheads, "lookahead_probs": shares, **EXACT}
    network = encoder_of(CHUNKS, **options).train()
    x, lengths = torch.randn(1, 50, BINS, dtype=torch.float64), torch.tensor([50])
    expected = []
    for ahead in lookaheads:
        alone = encoder_of(varied(CHUNKS, ahead), **EXACT)
        alone.load_state_dict(network.state_dict())
        expected.append(alone.train()(x, lengths)[0])
    drawn: Counter[int] = Counter()
    with torch.no_grad():
        for _ in range(200):
            y, _ = network(x, lengths)
            (number,) = [
                n for n, own in enumerate(expected) if torch.allclose(y, own, rtol=0, atol=1e-10)
            ]
            drawn[number] += 1
    for number, share in enumerate(shares):
        assert abs(drawn[number] / 200 - share) < 0.15, drawn
    # What is drawn changes nothing that is selected.
    assert network.lookahead() == encoder_of(CHUNKS).lookahead()


def test_a_recorded_step_would_keep_one(monkeypatch: pytest.MonkeyPatch) -> None:
    x, lengths = torch.randn(1, 50, BINS, dtype=torch.float64), torch.tensor([50])
    several, one = encoder_of(CHUNKS, lookaheads=(3, 0), **EXACT), encoder_of(CHUNKS, **EXACT)
    expected = several(x, lengths)[0]
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: True)
    assert torch.allclose(several(x, lengths)[0], expected, rtol=0, atol=1e-10)
    assert one.train()(x, lengths)[0].isfinite().all()
    with pytest.raises(ConfigError, match=r"a CUDA graph of a step would keep .* got \(3, 0\)"):
        several.train()(x, lengths)


@pytest.mark.slow
def test_recomputed_blocks_have_what_was_drawn() -> None:
    """Also if another batch comes before the backward pass of the first."""
    grads: list[list[Tensor]] = []
    for checkpointing in (False, True):
        torch.manual_seed(3)
        options: dict[str, Any] = {"lookaheads": (3, 0, 1), "checkpointing": checkpointing}
        network = encoder_of(CHUNKS, **options, **EXACT).train()
        x, lengths = torch.randn(4, 50, BINS, dtype=torch.float64), torch.tensor([50])
        torch.manual_seed(4)
        outputs = [network(x[n : n + 1], lengths)[0] for n in range(4)]
        sum((y**2).sum() for y in outputs).backward()
        grads.append([own.grad for own in network.parameters() if own.grad is not None])
    assert all(map(torch.allclose, *grads)) and len(grads[0]) > 20


def test_streams_do_not_change_it() -> None:
    network = encoder_of(CHUNKS, lookaheads=(3, 0))
    chunk = torch.randn(1, 32, BINS, dtype=torch.float64)
    _, state = network.step(chunk, network.initial_state(1))
    rows, marks = StreamRows(network), new_marks(1, torch.device("cpu"))
    size = rows.size(32)
    empty, lengths = torch.zeros(1, size, dtype=torch.float64), torch.tensor([32])
    kept = rows.step(chunk, empty, marks, lengths)
    rows.step(chunk, kept.rows, kept.marks, lengths)
    network.select_lookahead(0)
    with pytest.raises(InputError, match="another lookahead than these streams; make another"):
        rows.step(chunk, empty, marks, lengths)
    rows = StreamRows(network)
    with pytest.raises(InputError, match="began with another lookahead"):
        rows.step(chunk, kept.rows, kept.marks, lengths)
    rows.step(chunk, empty, marks, lengths)
    with pytest.raises(InputError, match="began with a lookahead of .* begin another"):
        network.step(chunk, state)
    network.select_lookahead(3)
    network.step(chunk, state)


@pytest.mark.parametrize(
    ("modules", "lookaheads"),
    [
        ((Parallel(2, 4, "relative", 2.0, 15, 3, ahead=2),), (2, 0)),  # beside a wider kernel
        ((SelfAttention(2, 4, chunk=3), Convolution(7)), (2, 1)),  # as chunks happen to lie
    ],
)
def test_states_are_told_apart_where_all_see_as_far(
    modules: tuple[Any, ...], lookaheads: tuple[int, int]
) -> None:
    architecture = BlockArchitecture(FRONT_ENDS[0], stages=(Stage(8, 1, 2, modules),))
    network = encoder_of(architecture, lookaheads=lookaheads)
    assert len({field.right for field in network.fields()}) == 1
    chunk = torch.randn(1, 96, BINS, dtype=torch.float64)
    _, state = network.step(chunk, network.initial_state(1))
    network.select_lookahead(lookaheads[1])
    with pytest.raises(InputError, match="began with a lookahead of 2, the encoder has . now"):
        network.step(chunk, state)


@pytest.mark.parametrize(
    ("architecture", "options", "rule"),
    [
        (CHUNKS, {"lookaheads": [1, 0]}, "lookaheads: must hold that of the genotype, 3, got"),
        (CHUNKS, {"lookaheads": [3, 3]}, "lookaheads: lists a lookahead twice"),
        (CHUNKS, {"lookahead_probs": [1.0]}, "must have one for each of lookaheads, 0, got 1"),
        (CHUNKS, {"lookaheads": [3, 0], "lookahead_probs": [0.5, 0.4]}, "the sum 1, got 0.9"),
        (WINDOWS, {"lookaheads": [6, 1]}, "lookaheads: 1: .* would end within a frame .* 1/2"),
        (of_module(SelfAttention(2)), {"lookaheads": [3]}, r"must be \[\], .* whole utterance"),
        (of_module(Convolution(5)), {"lookaheads": [3]}, "no attention of the genotype looks ahe"),
        (
            of_module(SelfAttention(2, 4, ahead=0)),
            {"lookaheads": [0]},
            "no attention of the genotype looks ahead by a window or a chunk",
        ),
        (
            BlockArchitecture(
                FRONT_ENDS[0],
                stages=(Stage(8, 1, 1, (SelfAttention(2, 4, chunk=4), SelfAttention(2, 4))),),
            ),
            {"lookaheads": [3]},
            r"must see the same whole number .* stages\[0\].modules\[0\] 3, .* 4",
        ),
    ],
)
def test_what_has_one_lookahead_is_refused(
    architecture: BlockArchitecture, options: dict[str, Any], rule: str
) -> None:
    with pytest.raises(ConfigError, match=rule):
        encoder_of(architecture, **options)


@pytest.mark.slow
def test_an_export_has_the_one_that_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Genotype("several", "blocks", CHUNKS).to_dict()
    sample = document, {"lookaheads": [3, 0]}
    monkeypatch.setitem(export_samples.ENCODERS, "several", sample)
    given = export_samples.model("several", "nemo none")
    for ahead, chunk in ((None, 32), (0, 8)):
        done = export_stream(
            given, ExportOptions("features", lengths=9, lookahead=ahead), 10.0 * chunk
        )
        encoder = encoder_of(varied(CHUNKS, ahead or 3 * (ahead is None)))
        assert done.report["lookahead_ms"] == 10 * encoder.lookahead()
        assert done.report["metadata"].get("lookahead") == (None if ahead is None else str(ahead))
    with pytest.raises(ConfigError, match="lookahead: must be one of 3, 0, got 2"):
        export_stream(given, ExportOptions("features", lookahead=2))


def test_other_networks_have_one() -> None:
    network: Any = build_encoder("asrnet_b", input_size=BINS, lookaheads=[])
    assert network.lookaheads == () and len(network.fields()) == 1
    with pytest.raises(ConfigError, match="cannot be selected: there is only one, got 1; train"):
        network.select_lookahead(1)
    with pytest.raises(ConfigError, match="lookaheads: .* has no such part"):
        build_encoder("asrnet_b", input_size=BINS, lookaheads=[1])
    assert BlocksConfig().lookaheads == ()
