"""NeMo's own streaming programs give with our encoder what it gives for whole recordings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from nemo_streams import config, ctc_texts, pipeline, stream
from nemo_tones import BINS, BLOCKS, NAS, RATE, build, marks, toolkit
from streaming_samples import causal, unlike_new
from torch import Tensor, nn

from nas_encoder.errors import ConfigError, InputError

# Of modules that NeMo's pipelines import in order to read audio.
pytestmark = marks(
    ".* is deprecated and slated for removal in Python:DeprecationWarning",
    # NeMo exports by tracing, which torch 2.13 calls old, and does not name all sizes.
    "You are using the legacy TorchScript:DeprecationWarning",
    "The feature will be removed:DeprecationWarning:torch",
    "No names were found for specified dynamic axes",
    "Constant folding - Only steps=1",
    "Exporting a model to ONNX with a batch_size other than 1",
    ":torch.jit.TracerWarning",
)

# Every other frame of a stage at half the rate; a lookahead of one output frame.
GENOTYPE = {
    "schema": 1,
    "name": "streams",
    "space": "blocks",
    "front": {"kind": "conv2d", "channels": 4},
    "stages": [
        {
            "width": 16,
            "modules": [
                {"kind": "convolution", "kernel": 5, "causal": True},
                {"kind": "attention", "heads": 2, "window": 6, "ahead": 1},
            ],
        },
        {"width": 12, "modules": [{"kind": "memory", "back": 4, "ahead": 0}]},
    ],
}
# The genotype's own lookahead, further and none; the convolution and the memory see none.
STREAMING = BLOCKS | {"genotype": GENOTYPE, "lookaheads": [1, 3, 0]}
CONTEXTS = [[15, 1], [15, 3], [15, 0]]
FILL = -16.635  # NeMo's pipelines: features before the beginning (LOG_MEL_ZERO)
CACHES = ("channel", "time", "channel_len")
SECONDS = (1.23, 0.31, 0.8, 1.6, 0.05)


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Recordings, and beside them a tokenizer of single letters."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("noise")
    generator = np.random.default_rng(0)
    found = []
    for number, seconds in enumerate(SECONDS):
        time = np.arange(int(seconds * RATE)) / RATE
        tone = np.sin(2 * np.pi * (300 + 200 * number) * time * (1 + time))
        samples = 0.3 * tone * generator.uniform(0.2, 1, len(time))
        found.append(str(folder / f"{number}.wav"))
        soundfile.write(found[-1], samples.astype(np.float32), RATE, subtype="FLOAT")
    letters = "abcdefgh"
    (folder / "text").write_text("\n".join(f"{one}{two}" for one in letters for two in letters))
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "text"),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=12,
        model_type="char",
        minloglevel=2,
    )
    vocabulary = (folder / "tokenizer.vocab").read_text("utf-8").splitlines()
    pieces = [line.split("\t")[0] + "\n" for line in vocabulary]
    (folder / "vocab.txt").write_text("".join(pieces), encoding="utf-8")
    return found


@pytest.fixture(scope="module")
def model(paths: list[str]) -> Any:
    """A hybrid model whose scores are centred, so that it says much."""
    toolkit()
    torch.manual_seed(0)
    found: Any = build("hybrid_bpe", config(STREAMING, Path(paths[0]).parent))
    unlike_new(found.encoder.network)
    found.eval()
    ctc, joint = found.ctc_decoder.decoder_layers[0], found.joint.joint_net[-1]
    with torch.no_grad():
        audio = torch.from_numpy(soundfile.read(paths[0], dtype="float32")[0])[None]
        features, lengths = found.preprocessor(
            input_signal=audio, length=torch.tensor([audio.size(1)])
        )
        encoded, _ = found.encoder(audio_signal=features, length=lengths)
        nothing, _ = found.decoder.predict(None, None, add_sos=False, batch_size=1)
        for scores, bias in (
            (found.ctc_decoder(encoder_output=encoded)[0], ctc.bias),
            (found.joint.joint(encoded.transpose(1, 2), nothing).flatten(0, 2), joint.bias),
        ):
            bias -= scores.mean(0)
            bias[:3] = -1e3  # no letters
    return found


@torch.inference_mode()
def test_the_buffer_gives_what_whole_recordings_give(model: Any, paths: list[str]) -> None:
    """As speech_to_text_cache_aware_streaming_infer does, five recordings in a batch."""
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    encoder = model.encoder
    for context, sizes in zip(
        CONTEXTS, ({}, {"chunk_size": 6, "shift_size": 3}, {"chunk_size": 7}), strict=True
    ):
        encoder.set_default_att_context_size(context)
        encoder.setup_streaming_params(**sizes)
        assert encoder.network.lookahead() == 4 * context[1] + 3
        for padded in (False, True):
            buffer = CacheAwareStreamingAudioBuffer(model, False, padded)
            for path in paths:
                buffer.append_audio_file(path)
            whole, frames, *none = encoder.cache_aware_stream_step(*buffer.get_all_audios())
            assert none == [None] * 3
            transducer = bool(sizes) and padded
            model.cur_decoder = "rnnt" if transducer else "ctc"
            found, texts = stream(model, buffer, padded)
            for number, count in enumerate(frames.tolist()):
                torch.testing.assert_close(
                    found[number], whole[number, :, :count], rtol=0, atol=1e-5
                )
            if transducer:
                hypotheses = model.decoding.rnnt_decoder_predictions_tensor(whole, frames)
                expected = [hypothesis.text for hypothesis in hypotheses]
            else:
                expected = ctc_texts(model, whole, frames)
            assert texts == expected
            assert len(set(texts)) > 2 and max(map(len, texts)) > 4, texts
    encoder.set_default_att_context_size(CONTEXTS[0])


@torch.inference_mode()
def test_training_draws_one_of_the_contexts(model: Any) -> None:
    """And a context that was selected stays so in inference."""
    from nemo.collections.common.parts.adapter_modules import LinearAdapterConfig

    encoder = copy.deepcopy(model.encoder)
    assert encoder.att_context_size_all == CONTEXTS and encoder.att_context_size == CONTEXTS[0]
    signal, length = torch.randn(1, BINS, 60), torch.tensor([60])
    encoder.train()
    outputs = [encoder(audio_signal=signal, length=length)[0] for _ in range(30)]
    different = [outputs[0]]
    for y in outputs:
        if not any(torch.equal(y, other) for other in different):
            different.append(y)
    assert len(different) == len(CONTEXTS)
    encoder.eval()
    found = []
    for context in CONTEXTS:
        encoder.set_default_att_context_size(context)
        found.append(encoder(audio_signal=signal, length=length)[0])
    encoder.network.select_lookahead(1)  # by hand: all sizes follow
    assert torch.equal(encoder(audio_signal=signal, length=length)[0], found[0])
    caches = encoder.get_initial_cache_state(1)
    assert not torch.equal(found[0], found[1]) and encoder.att_context_size == CONTEXTS[0]
    assert caches[0].shape == model.encoder.get_initial_cache_state(1)[0].shape
    encoder.add_adapter("accent", LinearAdapterConfig(in_features=16, dim=3))
    for parameter in encoder.eval().adapter_points.parameters():
        nn.init.normal_(parameter)
    pieces: list[Tensor] = []
    size = encoder.streaming_cfg.chunk_size
    for start in range(0, 60, size):
        piece = signal[:, :, start : start + size]
        y, count, *caches = encoder.cache_aware_stream_step(
            piece, torch.tensor([piece.size(2)]), *caches, start + size >= 60, 0
        )
        pieces.append(y[:, :, : int(count)])
    whole, _ = encoder(audio_signal=signal, length=length)
    torch.testing.assert_close(torch.cat(pieces, 2), whole, rtol=0, atol=1e-5)
    assert not torch.allclose(whole, found[0], atol=0.1)


@torch.inference_mode()
def test_recordings_of_all_lengths_fit_into_the_caches(model: Any) -> None:
    """If chunks overlap, the last but one may be short: a stream is at any place then."""
    torch.manual_seed(0)
    cells = {"genotype": causal("darts_v2", 3).to_dict(), "layers": 5, "channels": 2}
    for options, sizes in ((cells, (4, 1)), ({"genotype": GENOTYPE}, (4, 3))):
        encoder = unlike_new(type(model.encoder)(feat_in=8, d_model=12, **options)).eval()
        encoder.setup_streaming_params(*sizes)
        chunk, shift = encoder.streaming_cfg.chunk_size, encoder.streaming_cfg.shift_size
        for frames in range(3 * chunk, 3 * chunk + shift + 8):
            x, caches, found = torch.randn(1, 8, frames), encoder.get_initial_cache_state(1), []
            shapes = [cache.shape for cache in caches]
            for start in range(0, frames, shift):  # as NeMo's buffer does
                piece, last = x[:, :, start : start + chunk], start + shift >= frames
                y, count, *caches = encoder.cache_aware_stream_step(
                    piece, torch.tensor([piece.size(2)]), *caches, last, drop_extra_pre_encoded=0
                )
                found.append(y[:, :, : int(count)])
                assert [cache.shape for cache in caches] == shapes, (frames, start)
            whole, _ = encoder(audio_signal=x, length=torch.tensor([frames]))
            torch.testing.assert_close(torch.cat(found, 2), whole, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_exported_graphs_with_caches_give_what_whole_recordings_give(
    model: Any, paths: list[str], tmp_path: Path
) -> None:
    """NeMo's own buffer feeds them; each step is that of torch, the texts those offline."""
    import onnxruntime
    from nemo.collections.asr.parts.utils.streaming_utils import CacheAwareStreamingAudioBuffer

    encoder = model.encoder
    settings = (("ctc", None), ("ctc", 5), ("rnnt", 3))
    for context, (decoder, size) in zip(CONTEXTS, settings, strict=True):
        encoder.set_default_att_context_size(context)
        model.set_export_config({"decoder_type": decoder, "cache_support": True})
        encoder.setup_streaming_params(chunk_size=size)
        path = tmp_path / f"{decoder}{size}.onnx"
        model.export(str(path))
        graph = path if decoder == "ctc" else path.with_name(f"encoder-{path.name}")
        session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
        window = encoder.streaming_cfg.chunk_size + encoder.streaming_cfg.pre_encode_cache_size[1]
        names = [own.name for own in session.get_inputs()]
        assert names == ["audio_signal", "length", *(f"cache_last_{own}" for own in CACHES)]
        assert session.get_inputs()[0].shape[1:] == [BINS, window]
        buffer = CacheAwareStreamingAudioBuffer(model, False, pad_and_drop_preencoded=True)
        for recording in paths:
            buffer.append_audio_file(recording)
        whole, frames = encoder(
            **dict(zip(("audio_signal", "length"), buffer.get_all_audios(), strict=True))
        )
        if decoder == "ctc":
            whole = model.ctc_decoder(encoder_output=whole)
        caches = encoder.get_initial_cache_state(batch_size=len(paths))
        given = [caches[0].transpose(0, 1), caches[1].transpose(0, 1), caches[2]]
        sent = list(buffer)
        chunks = [nn.functional.pad(x, (0, window - x.size(2)), value=9.0) for x, _ in sent]
        lengths = [length for _, length in sent]
        rest = [torch.full_like(lengths[0], window - encoder.streaming_cfg.chunk_size)] * 2
        found: list[list[Tensor]] = [[] for _ in paths]
        for chunk, length in zip([*chunks, *chunks[-2:]], [*lengths, *rest], strict=True):
            feed = [chunk, length, *given]
            expected = encoder.forward_for_export(*feed)
            if decoder == "ctc":
                expected = (model.ctc_decoder(encoder_output=expected[0]), *expected[1:])
            inputs = {name: x.numpy() for name, x in zip(names, feed, strict=True)}
            got = [torch.from_numpy(y) for y in session.run(None, inputs)]
            torch.testing.assert_close(got, list(expected), rtol=1e-6, atol=1e-5)
            for own, y, count in zip(found, got[0], got[1].tolist(), strict=True):
                own.append(y[:count] if decoder == "ctc" else y[:, :count].T)
            given = got[2:]
        for number, count in enumerate(frames.tolist()):
            offline = whole[number, :count] if decoder == "ctc" else whole[number, :, :count].T
            torch.testing.assert_close(torch.cat(found[number]), offline, rtol=1e-6, atol=1e-5)
    encoder.setup_streaming_params(4, 3, att_context_size=CONTEXTS[0])
    with pytest.raises(ConfigError, match="chunk_size and shift_size must be equal.*got 4 and 3"):
        model.export(str(path))
    model.set_export_config({"cache_support": False})
    assert len(encoder.input_example()) == 2


@pytest.fixture(scope="module")
def saved(model: Any, tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("model") / "streams.nemo"
    model.save_to(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("kind", "streaming"),
    [("ctc", {}), ("ctc", {"chunk_size_in_secs": 0.04, "use_feat_cache": False}), ("rnnt", {})],
)
def test_the_pipelines_give_what_whole_recordings_give(
    kind: str, streaming: dict[str, Any], model: Any, saved: str, paths: list[str]
) -> None:
    """Three streams are in a batch, of different ages, in slots that were used before."""
    found = pipeline(saved, kind, **streaming)
    sizes = found.asr_model.asr_model.encoder.streaming_cfg
    ages: set[int] = set()
    step = found.asr_model.stream_step

    def noting(**options: Any) -> Any:
        ages.add(len(set(options["context"].cache_last_channel_len.tolist())))
        return step(**options)

    found.asr_model.stream_step = noting
    texts = found.run(paths)
    assert max(ages) > 1
    # Chunks that overlap begin with features of silence, for NeMo's encoders too.
    before = sizes.chunk_size - sizes.shift_size
    assert bool(before) == bool(streaming)
    for number, path in enumerate(paths):
        audio = torch.from_numpy(soundfile.read(path, dtype="float32")[0])[None]
        with torch.inference_mode():
            features, frames = model.preprocessor(
                input_signal=audio, length=torch.tensor([audio.size(1)])
            )
            features = nn.functional.pad(features, (before, 0), value=FILL)
            whole, frames = model.encoder(audio_signal=features, length=frames + before)
            if kind == "ctc":
                (expected,) = ctc_texts(model, whole, frames)
            else:
                (best,) = model.decoding.rnnt_decoder_predictions_tensor(whole, frames)
                expected = best.text
        assert texts[number]["text"].strip() == expected.strip(), number


def test_what_is_not_possible_is_refused(model: Any, saved: str, paths: list[str]) -> None:
    encoder = model.encoder
    assert encoder.att_context_size == CONTEXTS[0]
    listed = r"one of \[15, 1\], \[15, 3\], \[15, 0\], got \[70, 13\]"
    with pytest.raises(ConfigError, match=listed):
        encoder.set_default_att_context_size([70, 13])
    possible = r"can be equal, any number from 2 on; or shift_size any number from 1 on .* 1 more"
    for sizes in ((1, 1), (5, 3), (0, 0)):
        with pytest.raises(ConfigError, match=possible):
            encoder.setup_streaming_params(*sizes)
    encoder.setup_streaming_params()
    caches = encoder.get_initial_cache_state(2, dtype=torch.bfloat16)
    assert [cache.dtype for cache in caches] == [torch.float32, torch.float32, torch.int64]
    frames = encoder.streaming_cfg.chunk_size
    signal = torch.randn(2, BINS, frames)
    given = {f"cache_last_{name}": cache for name, cache in zip(CACHES, caches, strict=True)}
    lengths = torch.full((2,), frames)
    for length, wrong in (
        (frames - 1, {"drop_extra_pre_encoded": 2}),
        (frames, {"drop_extra_pre_encoded": 0, "cache_last_time": None}),
        (frames, {"drop_extra_pre_encoded": 0, "bypass_pre_encode": True}),
    ):
        with pytest.raises(InputError):
            encoder.cache_aware_stream_step(
                signal[:, :, :length], lengths - frames + length, **given | wrong
            )
    with pytest.raises(InputError, match="needs caches"):
        encoder.cache_aware_stream_step(signal, lengths, keep_all_outputs=False)
    # All outputs of a chunk are kept only of the last one.
    done = encoder.cache_aware_stream_step(signal, lengths, drop_extra_pre_encoded=0, **given)
    given = dict(zip(given, done[2:], strict=True))
    with pytest.raises(InputError, match="keep_all_outputs=True says that a chunk is the last"):
        encoder.cache_aware_stream_step(signal, lengths, drop_extra_pre_encoded=0, **given)
    with pytest.raises(InputError, match=r"use_cache: true"):
        pipeline(saved, "ctc", use_cache=False).run(paths[:1])
    for whole, why in ((BLOCKS, "sees the whole utterance"), (NAS, None)):
        other = type(encoder)(**{k: v for k, v in whole.items() if k != "_target_"})
        if why is None:  # cells stream, if at a price
            other.setup_streaming_params()
            assert other.streaming_cfg.chunk_size > other.network.lookahead()
            continue
        assert other.att_context_size == [-1, -1] and other.streaming_cfg is None
        with pytest.raises(ConfigError, match=why):
            other.setup_streaming_params()
        with pytest.raises(ConfigError, match=why):
            other.get_initial_cache_state(1)
