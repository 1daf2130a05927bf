"""What a trained model is used for in NeMo: transcribing, timestamps, saving, long audio.

One hybrid model is taught a language of tones (``nemo_tones``), of which text and times are known
exactly; CTC and transducer models are made of its parts.
"""

from __future__ import annotations

import json
import math
import random
import textwrap
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from forked import Forks
from nemo_tones import (
    LAST_LETTER,
    NAS,
    RATE,
    SAN,
    Recording,
    Tones,
    build,
    marks,
    teach,
    teach_transducer,
    text_of,
    toolkit,
    trainer,
)

from nas_encoder import load_genotype
from nas_encoder.nemo.registration import targets

pytestmark = marks("__array__ implementation doesn't accept a copy keyword:DeprecationWarning")

KINDS = ("ctc_char", "ctc_bpe", "rnnt_bpe", "hybrid_bpe")


@pytest.fixture(scope="module")
def tones(tmp_path_factory: pytest.TempPathFactory) -> Tones:
    toolkit()
    return Tones.create(tmp_path_factory.mktemp("tones"))


@pytest.fixture(scope="module")
def models(tones: Tones, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Models that know the language; their genotype came from a file that is gone."""
    path = tmp_path_factory.mktemp("search") / "genotype.yaml"
    load_genotype("asrnet_b").save(path)
    encoder = NAS | {"genotype": str(path)}
    torch.manual_seed(0)
    hybrid = build("hybrid_bpe", tones.config("hybrid_bpe", encoder, decoder=LAST_LETTER))
    teach(hybrid, tones)
    teach_transducer(hybrid, tones)
    found = {"hybrid_bpe": hybrid}
    for kind in KINDS[:-1]:
        more = {"decoder": LAST_LETTER} if kind == "rnnt_bpe" else {}
        found[kind] = model = build(kind, tones.config(kind, encoder, **more)).eval()
        model.encoder.load_state_dict(hybrid.encoder.state_dict())
    rnnt, bpe, char = found["rnnt_bpe"], found["ctc_bpe"], found["ctc_char"]
    rnnt.decoder.load_state_dict(hybrid.decoder.state_dict())
    rnnt.joint.load_state_dict(hybrid.joint.state_dict())
    bpe.decoder.load_state_dict(hybrid.ctc_decoder.state_dict())
    pieces = [*hybrid.ctc_decoder.vocabulary, "blank"]
    rows = [pieces.index(label) for label in ["\u2581", *"abcd", "blank"]]
    state = hybrid.ctc_decoder.state_dict()
    char.decoder.load_state_dict({name: value[rows] for name, value in state.items()})
    path.unlink()
    return found


def transcribe(model: Any, audio: Any, **options: Any) -> list[Any]:
    return list(model.transcribe(audio, verbose=False, num_workers=0, **options))


def texts(model: Any, audio: Any, **options: Any) -> list[str]:
    return [hypothesis.text for hypothesis in transcribe(model, audio, **options)]


# -- transcribe ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_transcribe(kind: str, models: dict[str, Any], tones: Tones) -> None:
    model = models[kind]
    expected = [recording.text for recording in tones.recordings]
    assert len({len(recording.samples()) for recording in tones.recordings}) > 20
    # A space at the end says nothing of the toolkit: on some processors training leaves one.
    found = texts(model, tones.paths, batch_size=8)
    assert [text.strip() for text in found] == expected
    arrays = [recording.samples() for recording in tones.recordings[:5]]
    assert texts(model, arrays, batch_size=5) == expected[:5]
    assert texts(model, tones.paths[:3], batch_size=1) == expected[:3]


def test_scores_do_not_depend_on_the_batch(models: dict[str, Any], tones: Tones) -> None:
    model = models["ctc_char"]
    arrays = [recording.samples() for recording in tones.recordings[:4]]
    together = transcribe(model, arrays, batch_size=4, return_hypotheses=True)
    for array, hypothesis in zip(arrays, together, strict=True):
        (alone,) = transcribe(model, [array], batch_size=1, return_hypotheses=True)
        assert alone.text == hypothesis.text
        torch.testing.assert_close(alone.y_sequence, hypothesis.y_sequence, rtol=0, atol=1e-4)


# -- timestamps ---------------------------------------------------------------------------------


def assert_times(hypothesis: Any, recording: Recording, transducer: bool, step: float) -> None:
    """Compare the times with those of the tones, to a frame.

    NeMo says of a CTC letter that it ends where it is first seen, and of a transducer's that it
    starts there.
    """
    found = hypothesis.timestamp["char"]
    seen = []
    for entry in found:
        for edge in ("start", "end"):
            assert entry[edge] == pytest.approx(entry[f"{edge}_offset"] * step)
        letter = entry["char"][0] if isinstance(entry["char"], list) else entry["char"]
        if letter.strip():
            seen.append((letter, float(entry["start" if transducer else "end"])))
    assert [letter for letter, _ in seen] == [letter for letter, _, _ in recording.times]
    for (_, time), (_, start, _) in zip(seen, recording.times, strict=True):
        assert abs(time - start) <= step
    words = [entry["word"] for entry in hypothesis.timestamp["word"]]
    assert words == recording.text.split()


@pytest.mark.parametrize("kind", KINDS)
def test_timestamps(kind: str, models: dict[str, Any], tones: Tones) -> None:
    model = models[kind]
    assert model.encoder.subsampling_factor == 4
    for hypothesis, recording in zip(
        transcribe(model, tones.paths[:8], batch_size=4, timestamps=True),
        tones.recordings,
        strict=False,
    ):
        assert_times(hypothesis, recording, "rnnt" in kind or "hybrid" in kind, step=0.04)


def test_timestamps_at_an_eighth_of_the_rate(tones: Tones) -> None:
    torch.manual_seed(0)
    model = build("ctc_char", tones.config("ctc_char", NAS | {"stem_stride": [2, 2]}))
    assert model.encoder.subsampling_factor == 8
    teach(model, tones)
    hypotheses = transcribe(model, tones.paths[:8], batch_size=4, timestamps=True)
    for hypothesis, recording in zip(hypotheses, tones.recordings, strict=False):
        assert_times(hypothesis, recording, transducer=False, step=0.08)


# -- files --------------------------------------------------------------------------------------

SCRIPT = textwrap.dedent("""
    import json, sys
    from nemo.collections.asr.models import ASRModel, EncDecCTCModel
    model_files, wav = sys.argv[1:-1], sys.argv[-1]
    found = []
    for file in model_files:
        if file.endswith(".nemo"):
            model = ASRModel.restore_from(file, map_location="cpu")
        else:
            model = EncDecCTCModel.load_from_checkpoint(file, map_location="cpu")
        model.eval()
        (hypothesis,) = model.transcribe([wav], verbose=False, num_workers=0)
        found.append([type(model).__name__, type(model.encoder).__name__, hypothesis.text])
    print("FOUND" + json.dumps(found))
""")


def test_files_work_in_a_process_that_imports_nothing_of_ours(
    models: dict[str, Any], tones: Tones, nemo: Forks, tmp_path: Path
) -> None:
    files = []
    for kind in KINDS:
        files.append(str(tmp_path / f"{kind}.nemo"))
        models[kind].save_to(files[-1])
    char = models["ctc_char"]
    fitting = trainer(0)
    fitting.strategy.connect(char)
    files.append(str(tmp_path / "ctc_char.ckpt"))
    fitting.save_checkpoint(files[-1], weights_only=True)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "script.py").write_text(SCRIPT)
    done = nemo.run(["script.py", *files, tones.paths[0]], elsewhere)
    assert done.returncode == 0, done.stderr[-3000:]
    log = nemo.log() + done.stdout + done.stderr  # the import's first
    (added,) = (line for line in log.splitlines() if "added to its allow-list" in line)
    assert all(added.count(target) == 1 for target in targets())
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND"))
    text = tones.recordings[0].text
    names = [type(models[kind]).__name__ for kind in (*KINDS, "ctc_char")]
    assert json.loads(line[5:]) == [[name, "NASEncoder", text] for name in names]


@pytest.mark.parametrize("encoder", [NAS, SAN], ids=["nas", "dfsmn_san"])
def test_change_vocabulary(encoder: dict[str, Any], tones: Tones, tmp_path: Path) -> None:
    for kind in ("ctc_char", "ctc_bpe"):
        model = build(kind, tones.config(kind, encoder)).eval()
        before = {name: value.clone() for name, value in model.encoder.state_dict().items()}
        if kind == "ctc_char":
            model.change_vocabulary(["x", "y", " "])
            classes = 4
        else:
            other = tmp_path / "other"
            other.mkdir()
            other_tones = Tones.create(other, number=2)
            model.change_vocabulary(
                new_tokenizer_dir=str(other_tones.folder), new_tokenizer_type="bpe"
            )
            classes = 9
        assert model.decoder.num_classes_with_blank == classes
        path = str(tmp_path / f"{kind}.nemo")
        model.save_to(path)
        again = toolkit().ASRModel.restore_from(path, map_location="cpu")
        assert again.decoder.num_classes_with_blank == classes
        for name, value in again.encoder.state_dict().items():
            assert torch.equal(value, before[name]), name


# -- long audio ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(tones: Tones) -> tuple[str, Recording]:
    """A recording of 11 s, three times as long as a buffer."""
    recording = Recording(text_of(random.Random(9), 14))
    path = str(tones.folder / "long.wav")
    soundfile.write(path, recording.samples(), RATE, subtype="PCM_16")
    return path, recording


CHUNK, BUFFER = 1.6, 4.0  # seconds: what NeMo's scripts for buffered inference have as defaults


def plan(model: Any) -> tuple[float, int, int]:
    """As NeMo's scripts: seconds of an output frame, frames of a chunk, frames of the delay."""
    step = model.cfg.preprocessor.window_stride * model.encoder.subsampling_factor
    return step, math.ceil(CHUNK / step), math.ceil((CHUNK + (BUFFER - CHUNK) / 2) / step)


def edits(found: str, expected: str) -> int:
    row = list(range(len(expected) + 1))
    for i, letter in enumerate(found, start=1):
        left, row[0] = row[0], i
        for j, other in enumerate(expected, start=1):
            best = min(row[j] + 1, row[j - 1] + 1, left + (letter != other))
            left, row[j] = row[j], best
    return row[-1]


def assert_nearly(found: str, recording: Recording) -> None:
    """A few letters at the start may be wrong.

    NeMo normalizes each buffer by its own mean and variance, and the first buffers are padded
    with the level of digital silence. A wrong frame rate or a shifted frame would lose or double
    letters in every chunk.
    """
    expected = recording.text
    assert edits(found, expected) <= 0.2 * len(expected), (found, expected)


@pytest.mark.parametrize("kind", ["ctc_bpe", "hybrid_bpe"])
def test_buffered_ctc(kind: str, models: dict[str, Any], long: tuple[str, Recording]) -> None:
    from nemo.collections.asr.parts.utils.streaming_utils import FrameBatchASR

    path, recording = long
    model = models[kind]
    step, chunk, delay = plan(model)
    assert (step, chunk, delay) == (0.04, 40, 70)
    helper = FrameBatchASR(asr_model=model, frame_len=CHUNK, total_buffer=BUFFER, batch_size=4)
    helper.reset()
    helper.read_audio_file(path, delay, step)
    found, logits = helper.transcribe(chunk, delay, keep_logits=True)
    assert_nearly(found, recording)
    end = "".join(recording.text.split())[-12:]
    assert "".join(found.split()).endswith(end), (found, recording.text)
    # Each buffer gave the frames that its chunk stands for, in CTC's classes.
    buffers = math.ceil((len(recording.samples()) / RATE + delay * step) / CHUNK)
    assert logits.shape == (buffers * chunk, 9)


@pytest.mark.parametrize("kind", ["rnnt_bpe", "hybrid_bpe"])
def test_buffered_transducer(
    kind: str, models: dict[str, Any], long: tuple[str, Recording]
) -> None:
    from nemo.collections.asr.parts.utils.streaming_utils import BatchedFrameASRRNNT
    from omegaconf import OmegaConf

    path, recording = long
    model = models[kind]
    before = OmegaConf.create(OmegaConf.to_container(model.cfg.decoding))
    changed = OmegaConf.merge(
        before, {"strategy": "greedy", "preserve_alignments": True, "fused_batch_size": -1}
    )
    model.change_decoding_strategy(changed, verbose=False)
    try:
        step, chunk, delay = plan(model)
        helper = BatchedFrameASRRNNT(
            asr_model=model, frame_len=CHUNK, total_buffer=BUFFER, batch_size=2
        )
        helper.reset()
        helper.read_audio_file([path, path], delay, step)
        for found in helper.transcribe(chunk, delay):
            assert_nearly(found, recording)
        for alignments in helper.all_alignments:
            assert {len(alignment) for alignment in alignments} == {round(BUFFER / step)}
    finally:
        model.change_decoding_strategy(before, verbose=False)


def test_chunks_with_context_give_what_the_whole_gives(
    models: dict[str, Any], long: tuple[str, Recording]
) -> None:
    """NeMo's newer way: chunks with left and right context, the decoder's state carried on.

    With fixed means and variances the chunks are exact: the same frames, the same text.
    """
    from nemo.collections.asr.parts.utils.rnnt_utils import batched_hyps_to_hypotheses
    from nemo.collections.asr.parts.utils.streaming_utils import (
        ContextSize,
        StreamingBatchedAudioBuffer,
    )

    _, recording = long
    model = models["rnnt_bpe"].eval()
    featurizer = model.preprocessor.featurizer
    samples = torch.from_numpy(recording.samples())[None]
    total = samples.size(1)
    length = torch.tensor([total])
    factor = model.encoder.subsampling_factor
    frame = int(RATE * model.cfg.preprocessor.window_stride) * factor  # samples of an output frame
    sizes = {"left": 40, "chunk": 40, "right": 30}  # output frames
    context = ContextSize(**{name: frames * frame for name, frames in sizes.items()})
    buffer = StreamingBatchedAudioBuffer(
        batch_size=1, context_samples=context, dtype=torch.float32, device=torch.device("cpu")
    )
    computer = model.decoding.decoding.decoding_computer
    hypotheses, state, start, stop, outputs = None, None, 0, context.chunk + context.right, []
    normalize = featurizer.normalize
    try:
        featurizer.normalize = None
        features, _ = model.preprocessor(input_signal=samples, length=length)
        statistics = {"fixed_mean": features[0].mean(1), "fixed_std": features[0].std(1)}
        featurizer.normalize = {name: value.tolist() for name, value in statistics.items()}
        with torch.inference_mode():
            whole, _ = model(input_signal=samples, input_signal_length=length)
            while start < total:
                stop = min(stop, total)
                last = stop >= total
                buffer.add_audio_batch_(
                    samples[:, start:stop],
                    audio_lengths=torch.tensor([stop - start]),
                    is_last_chunk=last,
                    is_last_chunk_batch=torch.tensor([last]),
                )
                encoded, _ = model(
                    input_signal=buffer.samples,
                    input_signal_length=buffer.context_size_batch.total(),
                )
                left = buffer.context_size.subsample(factor=frame).left
                chunk = buffer.context_size_batch.subsample(factor=frame).chunk
                x = encoded.transpose(1, 2)[:, left:]
                outputs.append(x[0, : int(chunk)])
                found, state = computer(x=x, out_len=chunk, prev_batched_state=state)
                if hypotheses is None:
                    hypotheses = found
                else:
                    hypotheses.merge_(found)
                start, stop = stop, stop + context.chunk
    finally:
        featurizer.normalize = normalize
    assert len(outputs) > 4
    together = torch.cat(outputs)
    torch.testing.assert_close(together, whole[0].T[: len(together)], rtol=1e-3, atol=1e-3)
    assert whole.size(2) - len(together) <= 1
    (result,) = batched_hyps_to_hypotheses(hypotheses, batch_size=1)
    assert model.tokenizer.ids_to_text(result.y_sequence.tolist()) == recording.text
