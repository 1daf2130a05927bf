"""Encoders of both toolkits, of Zipformer's authors and of ours behind one interface.

Those that stream see as far ahead as they say, in training too, and give in chunks what they give
whole.
"""

from __future__ import annotations

import importlib
import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from nas_encoder.bench.measure import EncoderSettings, benchmark
from nas_encoder.bench.sources import read_source
from nas_encoder.bench.subjects import build
from nas_encoder.errors import (
    ConfigError,
    MissingDependencyError,
    RegistryError,
    UtteranceTooShortError,
)
from nas_encoder.network.complexity import count_parameters
from nas_encoder.peers import build_peer, zipformer
from nas_encoder.peers.streaming import chunk_of, seen_ahead, streamed
from nas_encoder.tables import PEERS
from recipes.blocks.local.encoders import read_encoders

pytestmark = [
    pytest.mark.slow,
    pytest.mark.espnet,
    pytest.mark.nemo,
]

RECIPES = Path(__file__).resolve().parents[2] / "recipes"
BINS = 20
ESPNET: dict[str, Any] = {"attention_heads": 2, "linear_units": 24, "num_blocks": 1}
ESPNET |= {"output_size": 16}
NEMO: dict[str, Any] = {"d_model": 16, "n_layers": 1, "n_heads": 2}
CHUNKS = {**NEMO, "subsampling_factor": 4, "att_context_size": [8, 3]}
BLOCKS = {**ESPNET, "block_size": 7, "hop_size": 3, "look_ahead": 2}
ZIPFORMER: dict[str, Any] = {
    "downsampling_factor": [1, 2],
    "num_encoder_layers": 1,
    "encoder_dim": [16, 24],
    "encoder_unmasked_dim": 16,
    "feedforward_dim": [24, 32],
    "num_heads": 4,
    "query_head_dim": 8,
    "value_head_dim": 4,
    "pos_dim": 8,
    "layer2_channels": 8,
    "layer3_channels": 8,
}
# name -> options, output size, output frames of 50 frames
CASES: dict[str, tuple[dict[str, Any], int, int]] = {
    "genotype": ({"genotype": "asrnet_a", "layers": 2, "channels": 2, "output_size": 12}, 12, 13),
    "dfsmn_san": (
        {"output_size": 8, "hidden_size": 8, "blocks": 2, "attention_heads": 2},
        8,
        13,
    ),
    "espnet_transformer": (ESPNET, 16, 11),
    "espnet_conformer": (ESPNET, 16, 11),
    "espnet_e_branchformer": ({**ESPNET, "cgmlp_linear_units": 24}, 16, 11),
    "espnet_contextual_block_conformer": (BLOCKS, 16, 11),
    "nemo_conformer": (NEMO, 16, 13),
    "nemo_fast_conformer": ({**NEMO, "subsampling_factor": 4}, 16, 13),
    "nemo_cache_aware_fast_conformer": (CHUNKS, 16, 14),  # its last frame is mostly padding
    "zipformer": (ZIPFORMER, 24, 11),
}


@pytest.fixture(scope="module", autouse=True)
def packages() -> Iterator[None]:
    """Import what warns of its own old code, so that only our warnings are errors.

    Zipformer compiles its activations, which would take most of the time.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        importlib.import_module("nemo.collections.asr.modules.conformer_encoder")
        zipformer.authors_modules()
    with torch._dynamo.config.patch(disable=True):
        yield


def test_every_entry_of_the_table_is_tested() -> None:
    assert set(PEERS) == set(CASES)


@pytest.mark.parametrize("name", CASES)
def test_the_interface(name: str) -> None:
    options, width, frames = CASES[name]
    torch.manual_seed(0)
    encoder: Any = build_peer(name, options, BINS)
    x = torch.randn(2, 50, BINS)
    y, lengths = encoder(x, torch.tensor([50, 40]))
    assert y.shape == (2, frames, width) and encoder.output_size == width
    assert lengths.tolist()[0] == frames > lengths.tolist()[1]
    assert 50 / encoder.subsampling_factor - 2 <= frames <= 50 / encoder.subsampling_factor + 2
    (y[0].square().mean() + y[1, : lengths[1]].square().mean()).backward()
    used = [p.grad is not None and bool(p.grad.abs().sum()) for p in encoder.parameters()]
    # Keys of attention have no gradient through their bias; Zipformer skips modules by chance.
    assert sum(used) > (0.5 if name == "zipformer" else 0.8) * len(used)
    encoder.eval()
    shortest = int(encoder.min_length)
    least, length = encoder(x[:1, :shortest], torch.tensor([shortest]))
    assert least.shape[1] == 1 == int(length)
    with pytest.raises(UtteranceTooShortError):
        encoder(x[:1, : shortest - 1], torch.tensor([shortest - 1]))
    with torch.inference_mode():  # deterministic, and the same alone as beside a longer one
        again, _ = encoder(x, torch.tensor([50, 50]))
        alone, _ = encoder(x[:1], torch.tensor([50]))
    assert torch.allclose(again[:1], alone, atol=1e-5)


def test_any_encoder_of_a_toolkit_by_its_name() -> None:
    """They are those of the classes themselves, and refused with all that is wrong."""
    theirs = importlib.import_module("espnet2.asr.encoder.branchformer_encoder")
    conf = {"output_size": 16, "attention_heads": 2, "num_blocks": 1, "cgmlp_linear_units": 24}
    for name, given, cls in (
        ("espnet:branchformer", conf, theirs.BranchformerEncoder),
        ("nemo.collections.asr.modules.ConformerEncoder", NEMO, None),
    ):
        torch.manual_seed(0)
        subject = build(read_source(f"{name}{json.dumps(given)}"), features=BINS)
        assert subject.module is not None
        if cls is not None:
            assert subject.parameters == count_parameters(cls(BINS, **conf))
        row = benchmark([subject], EncoderSettings(speech=(0.5, 0.3), seconds=0.0, repeats=3))
        assert row["networks"][0]["step"]["1"]["ms"] > 0
    for text, said in (
        ("espnet:branchformers", "must be one of .*branchformer"),
        ("espnet:branchformer{widths: 3}", "widths: unknown option; known: .*output_size"),
        ("nemo.collections.asr.modules.ConformerEncoder{n_layers: 1}", "cannot be built .*d_model"),
        ("nemo.collections.asr.modules.ConvASRDecoder{num_classes: 3}", "is no encoder"),
        ("nemo.collections.common.tokenizers.AutoTokenizer", "cannot be built"),
        ("nemo.nothing.Here{n_layers: 1}", "cannot be built"),
    ):
        with pytest.raises(ConfigError, match=said):
            build(read_source(text))
    short = build(read_source(f"espnet:branchformer{json.dumps(conf)}"), features=BINS)
    with pytest.raises(ConfigError, match=r"shape \(1, 5, .*: TooShortUttError: has 5 frames"):
        benchmark([short], EncoderSettings(frames=5, seconds=0.0, repeats=3))


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("espnet_conformer", {"front_channels": 4}),
        ("espnet_transformer", {"front_channels": 4}),
        ("espnet_contextual_block_conformer", {"front_channels": 4}),
        ("nemo_fast_conformer", {"subsampling_conv_channels": 4}),
    ],
)
def test_a_narrowed_front_end(name: str, more: dict[str, int]) -> None:
    options, width, frames = CASES[name]
    shipped, narrow = build_peer(name, options, BINS), build_peer(name, {**options, **more}, BINS)
    channels = [m.out_channels for m in narrow.modules() if isinstance(m, nn.Conv2d)]
    assert set(channels) == {4}
    assert count_parameters(narrow) < count_parameters(shipped)
    y, _ = narrow(torch.randn(1, 50, BINS), torch.tensor([50]))
    assert y.shape == (1, frames, width)


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("espnet_conformer", {"output_size": 16, "blocks": 1}, "blocks: unknown option"),
        ("espnet_conformer", {"output_size": 16}, "num_blocks: is missing"),
        ("espnet_conformer", {**ESPNET, "input_layer": "linear"}, "input_layer: must be one of"),
        ("espnet_conformer", {**ESPNET, "attention_heads": 3}, "refuses these options"),
        ("espnet_transformer", {**ESPNET, "front_channels": 0}, "front_channels: must be"),
        ("nemo_conformer", {"d_model": 16}, "n_heads: is missing"),
        ("nemo_conformer", {**NEMO, "subsampling": "none of them"}, "refuses these options"),
        ("espnet_contextual_block_conformer", ESPNET, "block_size: is missing"),
        ("espnet_contextual_block_conformer", {**BLOCKS, "hop_size": 6}, "got .7, 6, 2"),
        ("nemo_cache_aware_fast_conformer", NEMO, "att_context_size: must be two numbers"),
        ("nemo_cache_aware_fast_conformer", {**CHUNKS, "att_context_size": [7, 3]}, "refuses"),
        (
            "nemo_cache_aware_fast_conformer",
            {**CHUNKS, "causal_downsampling": False},
            "causal_downsampling: must be left at True",
        ),
        ("zipformer", {**ZIPFORMER, "batch_seconds": 0}, "batch_seconds: must be above 0"),
        ("zipformer", {"encoder_dim": 8}, "feedforward_dim: is missing"),
        ("genotype", {}, "genotype: is missing"),
    ],
)
def test_wrong_options(name: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        build_peer(name, options, BINS)


CHUNKED = {
    "schema": 1,
    "name": "chunked",
    "space": "streaming_blocks",
    "front": {"kind": "conv2d", "channels": 4},
    "stages": [{"width": 16, "modules": [{"kind": "attention", "window": 8, "chunk": 3}]}],
}


@pytest.mark.parametrize(
    ("name", "options", "ahead"),
    [
        # A chunk of 4, of which the causal front end gives the last frame only its first one.
        ("nemo_cache_aware_fast_conformer", CHUNKS, 3 * 4),
        # The first of 3 frames sees 4 more, and the front end 7 frames of the last of them.
        ("espnet_contextual_block_conformer", BLOCKS, 4 * 4 + 6),
        ("espnet_contextual_block_conformer", {**BLOCKS, "block_size": 5}, 4 * 4 + 6),  # no history
        ("genotype", {"genotype": CHUNKED, "dropout": 0.0, "attention_dropout": 0.0}, 2 * 4 + 3),
    ],
)
def test_what_streams(name: str, options: dict[str, Any], ahead: int) -> None:
    torch.manual_seed(0)
    encoder: Any = build_peer(name, options, BINS)
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    assert encoder.lookahead() == seen_ahead(encoder, 90) == ahead
    assert encoder.training and all(p.dtype == torch.float32 for p in encoder.parameters())
    assert all(torch.equal(before[key], value) for key, value in encoder.state_dict().items())
    encoder.eval()
    utterances = [torch.randn(1, n, BINS) for n in (encoder.min_length, 20, 77, 78, 79, 80, 131)]
    for x in utterances:
        lengths = torch.tensor([x.size(1)])
        with torch.inference_mode():
            whole, _ = encoder(x, lengths)
        for frames in (50, 0):
            pieces = list(streamed(encoder, x, frames))
            torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=0, atol=1e-5)
    assert chunk_of(encoder, 50) == (16 if name.startswith("nemo") else 48)
    assert sum(piece.size(1) > 0 for piece in pieces) > 4  # it did not wait for the end
    # In training the masks are the same: nothing but dropout and statistics of batches differs.
    for part in encoder.train().modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        elif isinstance(part, nn.modules.batchnorm._BatchNorm):
            part.eval()
    torch.testing.assert_close(encoder(x, lengths)[0], whole, rtol=0, atol=1e-5)


@torch.no_grad()
def test_espnets_streaming_waits_longer_than_it_must() -> None:
    peer: Any = build_peer("espnet_contextual_block_conformer", BLOCKS, BINS).eval()
    before, frames = 4 * peer.history, 80
    x, state, counts = torch.randn(1, before + frames, BINS), None, list[int]()
    for place in range(before + frames):
        y, _, state = peer.encoder(
            x[:, place : place + 1], torch.tensor([1]), state, is_final=False, infer_mode=True
        )
        counts += [place - before] * y.size(1)  # the frame that each output came out with
    late = [came - 4 * place for place, came in enumerate(counts[peer.history :])]
    assert len(late) > 9 and max(late) == peer.lookahead() + 9


def test_peers_of_the_streaming_recipe_are_within_their_bounds() -> None:
    listed = read_encoders(RECIPES / "streaming" / "conf" / "encoders.yaml")
    peers = {name: own for name, own in listed.items() if own.role == "narrowed"}
    bounds = [own.lookahead_ms for own in peers.values()]
    assert bounds.count(190) == bounds.count(550) == 3 and len(peers) == 6
    for name, own in peers.items():
        encoder: Any = build_peer(own.build, own.options, 40)
        ahead = seen_ahead(encoder, 64)  # the first output frame sees the furthest
        assert ahead == encoder.lookahead(), name
        assert own.lookahead_ms is not None
        # Another output frame more would be beyond.
        assert 10 * ahead <= own.lookahead_ms < 10 * (ahead + 4), name
        assert 150_000 <= count_parameters(encoder) <= 450_000


def test_what_does_not_stream() -> None:
    encoder: Any = build_peer("espnet_conformer", ESPNET, BINS)
    with pytest.raises(ConfigError, match="ConformerEncoder sees whole utterances"):
        encoder.lookahead()
    with pytest.raises(ConfigError, match="ConformerEncoder sees whole utterances"):
        list(streamed(encoder.eval(), torch.randn(1, 50, BINS)))
    assert seen_ahead(encoder, 60) > 40


def test_blocks_without_a_history_are_espnets() -> None:
    """Where nothing is put before an utterance, the peer is ESPnet's class itself."""
    theirs = importlib.import_module("espnet2.asr.encoder.contextual_block_conformer_encoder")
    options = {**BLOCKS, "block_size": 5, "cnn_module_kernel": 15, "macaron_style": True}
    torch.manual_seed(0)
    peer: Any = build_peer("espnet_contextual_block_conformer", options, BINS).eval()
    own = theirs.ContextualBlockConformerEncoder(BINS, **options).eval()
    own.load_state_dict(peer.encoder.state_dict())
    x, lengths = torch.randn(1, 60, BINS), torch.tensor([60])
    with torch.inference_mode():
        assert torch.equal(peer(x, lengths)[0], own(x, lengths)[0])


def test_other_mistakes() -> None:
    with pytest.raises(RegistryError, match="did you mean 'zipformer'"):
        build_peer("zipformers", {}, BINS)
    with pytest.raises(ConfigError, match="input_size: must be in"):
        build_peer("dfsmn_san", {}, 0)


def test_zipformer_counts_speech_in_training() -> None:
    encoder: Any = build_peer("zipformer", {**ZIPFORMER, "batch_seconds": 0.5}, BINS)
    x, lengths = torch.randn(2, 50, BINS), torch.tensor([50, 40])
    encoder.eval()(x, lengths)
    assert float(encoder.seen) == 0
    encoder.train()
    for _ in range(2):
        encoder(x, lengths)
    assert float(encoder.seen) == pytest.approx(2 * 0.9 / 0.5)
    counts = {part.batch_count for part in encoder._counting}
    assert len(counts) == 1
    assert counts.pop() == pytest.approx(0.9 / 0.5)  # what was seen before the second one
    again: Any = build_peer("zipformer", ZIPFORMER, BINS)
    again.load_state_dict(encoder.state_dict())
    assert float(again.seen) == float(encoder.seen)


def test_zipformer_leaves_the_package_to_its_user(monkeypatch: pytest.MonkeyPatch) -> None:
    build_peer("zipformer", ZIPFORMER, BINS)
    assert not [name for name in sys.modules if name.split(".")[0] == "zipformer"]
    monkeypatch.setattr(zipformer, "PACKAGE", "zipformer_that_is_missing")
    with pytest.raises(MissingDependencyError, match="pip install --no-deps zipformer==0.1.3"):
        zipformer.authors_modules.__wrapped__()
