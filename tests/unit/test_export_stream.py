"""Streaming exports: their graph, audio as it arrives, text as it comes, and sources that fail."""

from __future__ import annotations

import io
import json
import os
import struct
import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from export_samples import model

from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.export.export import ExportOptions
from nas_encoder.export.material import generated, inputs_of
from nas_encoder.export.recognizer import parts_of
from nas_encoder.export.recordings import check_finite
from nas_encoder.export.streaming.check import check_stream
from nas_encoder.export.streaming.decoder import LiveDecoder
from nas_encoder.export.streaming.encodings import ENCODINGS, EncodingReader
from nas_encoder.export.streaming.export import export_stream
from nas_encoder.export.streaming.figures import Figures, Quantiles
from nas_encoder.export.streaming.live import play
from nas_encoder.export.streaming.runtime import StreamRuntime, open_streaming
from nas_encoder.export.streaming.signal import Signal, SignalForm
from nas_encoder.export.streaming.sources import FileSource, PipeSource
from nas_encoder.export.vocabulary import BLANK, Vocabulary
from nas_encoder.interchange.features import ESPnetFeatures, NeMoFeatures

RATE = 16000


# -- audio as it arrives ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "features",
    [
        ESPnetFeatures(n_mels=4, hop_length=160, win_length=400),
        ESPnetFeatures(n_mels=4, center=False),
        NeMoFeatures(features=4, normalize="NA"),
        NeMoFeatures(features=4, normalize="NA", preemph=None, n_fft=511),
    ],
    ids=["espnet", "espnet at once", "nemo", "nemo odd"],
)
def test_features_are_those_of_the_whole_file(features: Any) -> None:
    features.eval().prepare_tracing()
    form = SignalForm.of(features, 8)
    torch.manual_seed(0)
    for size in (1, 2, 159, 160, 255, 256, 257, 511, 512, 513, 600, 1183, 1184, 8000, 12345):
        x = torch.randn(size)
        whole, frames = features(x[None], torch.tensor([size]))
        count = int(frames)
        assert form.total(size) == count
        signal, windows = Signal(form), []
        cuts = [0, *sorted(torch.randint(size + 1, (7,)).tolist()), size]
        for start, end in zip(cuts, cuts[1:], strict=False):
            signal.push(x[start:end])
            windows += [*signal.windows()]
            assert 1 <= signal.missing <= form.size
        signal.end()
        windows += [*signal.windows()]
        assert [*signal.windows()] == [] and windows[-1][1] < 8
        # What is under each frame: the same numbers as if all had come at once.
        at_once = Signal(SignalForm(**{**vars(form), "frames": count + 1}))
        at_once.push(x)
        at_once.end()
        ((window, valid),) = at_once.windows()
        under = [one.unfold(0, form.points, form.hop)[:n] for one, n in windows]
        assert valid == count
        assert torch.equal(torch.cat(under), window.unfold(0, form.points, form.hop)[:count])
        found = torch.cat([features.of_windows(one[None])[0, :n] for one, n in windows])
        torch.testing.assert_close(found, whole[0, :count], rtol=1e-3, atol=2e-2)


def wav(samples: Any, rate: int = RATE, subtype: str = "PCM_16") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, subtype=subtype, format="WAV")
    return buffer.getvalue()


@pytest.mark.parametrize("subtype", ["PCM_16", "PCM_32", "FLOAT"])
def test_wav_from_pipes_in_any_pieces(subtype: str) -> None:
    samples = (np.random.default_rng(0).random(500) - 0.5).astype(np.float32)
    content = wav(samples, subtype=subtype)
    expected = soundfile.read(io.BytesIO(content), dtype="float32")[0]
    for size in (1, 7, 64, 5000):
        reader = EncodingReader("-", RATE, ENCODINGS["s16le"])
        pieces = [reader.feed(content[i : i + size]) for i in range(0, len(content), size)]
        assert reader.complete
        assert torch.equal(torch.cat([*pieces, reader.end()]), torch.from_numpy(expected))


def test_samples_without_a_header_and_headers_without_a_size() -> None:
    values = np.array([0, 1, -1, 32767, -32768], np.int16)
    reader = EncodingReader("-", RATE, ENCODINGS["s16le"])
    pieces = [reader.feed(bytes([byte])) for byte in values.tobytes()]
    found = torch.cat([*pieces, reader.end()])
    assert torch.equal(found, torch.from_numpy(values / 2.0**15).float())
    content = bytearray(wav(values))
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", 0xFFFFFFFF)
    reader = EncodingReader("-", RATE, ENCODINGS["s16le"])
    assert len(reader.feed(bytes(content))) == 5 and not reader.complete and not len(reader.end())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (wav(np.zeros(9), 8000), "has 8000 Hz, the model needs 16000; resample it"),
        (wav(np.zeros((9, 2))), "must be mono, has 2 channels"),
        (wav(np.zeros(9), subtype="PCM_24"), "must be PCM of 16 or 32 bits or float of 32"),
        (wav(np.zeros(9))[:-4], "is cut short: 4 bytes fewer than its header says"),
        (wav(np.zeros(9))[:30], "is cut short: ends within the header"),
        (b"abc", "is cut short: ends within a sample"),
        (b"RIFF\0\0\0\0WAVEdata\4\0\0\0abcd", "its samples have no format"),
        (b"RIFF\0\0\0\0WAVEjunk" + b"\xff" * 9, "has no samples in its first"),
    ],
)
def test_pipes_of_other_audio_are_refused(content: bytes, words: str) -> None:
    reader = EncodingReader("-", RATE, ENCODINGS["s16le"])
    with pytest.raises(DataError, match=words):
        reader.feed(content)
        reader.end()


def test_a_sample_that_is_no_number_is_named() -> None:
    x = torch.zeros(100).index_fill(0, torch.tensor(40), float("nan"))
    with pytest.raises(DataError, match=r"x: sample 16040, at 1.002 s, is NaN or infinite"):
        check_finite("x", x, 16000, RATE)
    check_finite("x", torch.full((9,), 3e38), 0, RATE)  # the sum overflows, no sample does


class _Piped:
    """A pipe with a clock that is set by hand."""

    def __init__(self, real_time: bool) -> None:
        read, self.write = os.pipe()
        self.wake = threading.Event()
        encoding = ENCODINGS["s16le"]
        self.source = PipeSource(lambda: read, "-", RATE, encoding, 5.0, real_time, self.wake)

    def put(self, seconds: float) -> None:
        left = bytes(2 * int(seconds * RATE))
        while left:
            left = left[os.write(self.write, left[: 1 << 15]) :]

    def take(self, now: float) -> int:
        assert self.wake.wait(20)
        return len(self.source.take(now))


def test_a_stalled_pipe_ends_and_one_that_is_too_fast() -> None:
    piped = _Piped(real_time=True)
    assert len(piped.source.take(0.0)) == 0
    piped.put(0.25)
    assert piped.take(1.0) == 4000
    assert len(piped.source.take(5.9)) == 0  # patience
    with pytest.raises(DataError, match=r"is stalled: gave nothing for 5 s after 0.2 s of audio"):
        piped.source.take(6.1)
    os.close(piped.write)
    piped = _Piped(real_time=True)
    thread = threading.Thread(target=piped.put, args=(20.0,), daemon=True)
    thread.start()
    with pytest.raises(DataError, match=r"is too fast for real time: gave 1\d.\d s in 0.0 s"):
        while True:
            piped.take(3.0)


def test_a_pipe_that_is_not_heard_live_waits() -> None:
    piped = _Piped(real_time=False)
    thread = threading.Thread(target=piped.put, args=(30.0,))
    thread.start()
    taken = 0
    while taken < 30 * RATE:
        taken += piped.take(1.0)
        assert not piped.source.ended
    thread.join()
    os.close(piped.write)
    while not piped.source.ended:
        assert not piped.take(2.0)
    piped = _Piped(real_time=False)
    os.close(piped.write)
    piped.take(0.0)
    assert piped.source.ended


# -- text as it comes ------------------------------------------------------------------------------


def test_pieces_together_are_the_text_of_the_path() -> None:
    vocabulary = Vocabulary(("▁", "▁A", "B", "</s>", BLANK))
    generator = torch.Generator().manual_seed(0)
    for _ in range(60):
        path = torch.randint(5, (17,), generator=generator)
        decoder, pieces = LiveDecoder(vocabulary), []
        for part in path.split(3):
            pieces += decoder.feed(torch.nn.functional.one_hot(part, 5))
        assert "".join(piece for _, piece in pieces) == vocabulary.text(path.tolist())
        assert decoder.frames == 17 and all(piece for _, piece in pieces)


def test_quantiles_are_within_two_percent_and_do_not_grow() -> None:
    times = Quantiles()
    assert times.to_dict() == {"count": 0, "p50_ms": None, "p95_ms": None}
    for number in range(1, 10001):
        times.add(number / 1000)
    assert times.at(0.5) == pytest.approx(5, rel=0.02)
    assert times.at(0.95) == pytest.approx(9.5, rel=0.02)
    assert len(times._classes) < 500


# -- models ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A streaming model in a folder with a space in its name, and three recordings."""
    folder = tmp_path_factory.mktemp("stream") / "a folder"
    done = export_stream(model("streaming", "espnet global"), ExportOptions(lengths=17))
    assert 0 < done.report["checked"]["worst"] < 1e-3
    done.write(folder)
    for number, sound in enumerate(generated(RATE, 3)):
        soundfile.write(folder / f"{number}.wav", sound.samples.numpy(), RATE, subtype="FLOAT")
    return folder


def said(runtime: StreamRuntime, openings: list[Callable[[float], Any]], **options: Any) -> Any:
    figures = Figures()
    events = [*play(runtime, openings, options.pop("at_once", 1), False, figures, **options)]
    texts = {
        event.stream: "".join(
            one.text for one in events if one.stream == event.stream and one.kind == "text"
        )
        for event in events
    }
    return texts, [event for event in events if event.kind == "fails"], figures


@pytest.mark.slow
def test_one_stream_fails_and_the_others_go_on(exported: Path, tmp_path: Path) -> None:
    runtime = open_streaming(exported / "model.onnx")
    opens = [
        partial(lambda name, begins: FileSource(name, RATE), exported / f"{number}.wav")
        for number in range(3)
    ]
    alone = [said(runtime, [one])[0][0] for one in opens]
    assert all(len(text) > 3 for text in alone)
    broken, _ = soundfile.read(exported / "1.wav", dtype="float32")
    broken[20000] = np.inf
    soundfile.write(tmp_path / "inf.wav", broken, RATE, subtype="FLOAT")
    soundfile.write(tmp_path / "slow.wav", broken[:100], 8000)
    opens[1:1] = [
        lambda begins: FileSource(tmp_path / "inf.wav", RATE),
        lambda begins: FileSource(tmp_path / "slow.wav", RATE),
    ]
    soundfile.write(tmp_path / "before.wav", broken[:19200], RATE, subtype="FLOAT")
    opens.append(lambda begins: FileSource(tmp_path / "before.wav", RATE))
    texts, failed, figures = said(runtime, opens, at_once=5)
    assert [texts[number] for number in (0, 3, 4)] == alone
    assert texts[1] == texts[5] != "" and not texts[2]  # what had come is recognized
    problems = {event.stream: event.text for event in failed}
    assert problems[1] == "sample 20000, at 1.250 s, is NaN or infinite"
    assert "has 8000 Hz, the model needs 16000" in problems[2]
    assert (figures.streams, figures.failed) == (4, 2) and figures.audio == pytest.approx(7.2)


@pytest.mark.slow
def test_a_looped_stream_has_constant_memory_and_does_not_drift(exported: Path) -> None:
    """Three minutes here; benchmarks/endless_stream.py does hours."""
    from benchmarks.endless_stream import endless

    found = endless(runtime=open_streaming(exported / "model.onnx"), seconds=150.0)
    assert found["rounds"] > 30 and found["differing_rounds"] == 0
    assert abs(found["grown_bytes"]) < 1 << 20


@pytest.mark.slow
def test_the_command_prints_text_as_it_comes(
    exported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    words = ["transcribe", str(exported / "model.onnx"), "--stream"]
    files = [str(exported / f"{number}.wav") for number in range(3)]
    assert main([*words, *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition("\t")[0] for line in lines] == files
    assert main([*words, *files, "--streams", "4", "--real-time", "--json"]) == 0
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    ends = [event for event in events if event["event"] == "ends"]
    assert len(ends) == 6 and events[-1]["first_word"]["count"] == 6
    assert 0 < events[-1]["final"]["p50_ms"] <= events[-1]["final"]["p95_ms"] < 20_000
    for number, line in enumerate(lines):
        pieces = (one["text"] for one in events if one.get("stream") == number and "text" in one)
        assert "".join(pieces) == line.partition("\t")[2]
    assert main([words[0], words[1], files[0]]) == 2
    assert "transcribe --stream' runs it" in capsys.readouterr().err
    # A FIFO, and a file that is not there beside it.
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    content = Path(files[1]).read_bytes()
    writer = threading.Thread(target=lambda: fifo.write_bytes(content))
    writer.start()
    assert main([*words, str(fifo), "nowhere.wav", "--streams", "2"]) == 1
    writer.join()
    out, errors = capsys.readouterr()
    assert out == f"{fifo}\t{lines[1].partition(chr(9))[2]}\n"
    assert "nowhere.wav: cannot be read: does not exist" in errors and "1 failed" in errors


def test_options_that_do_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cases = [
        (
            ["transcribe", "m", "f", "--real-time", "--timeout", "3"],
            "--real-time: goes with --stream",
        ),
        (
            ["transcribe", "m", "f", "--stream", "--window", "3"],
            "--window: does not go with --stream",
        ),
        (["transcribe", "m", "-", "--stream", "--streams", "2"], "--streams: must be at most 1"),
        (["transcribe", "m", "f", "--stream", "--timeout", "0"], "--timeout: must be above 0"),
        (["export", "m", str(tmp_path), "--chunk", "80"], "--chunk: goes with --stream"),
        (["export", "m", str(tmp_path), "--stream", "--int8"], "do not go with --stream"),
    ]
    for words, expected in cases:
        assert main(words) == 2
        assert expected in capsys.readouterr().err


@pytest.mark.slow
def test_cells_stream_too_and_what_differs_is_refused() -> None:
    cells = model("cells with pooling", "espnet global")
    done = export_stream(cells, ExportOptions(lengths=9), 1600.0)
    assert done.report["chunk_ms"] == 1600 and done.report["checked"]["worst"] > 0
    # Of generated sounds one goes on for three chunks after all that the encoder sees.
    longest = done.report["checked"]["longest_ms"]
    assert longest == pytest.approx(done.report["steady_ms"] + 3 * 1600) and longest > 4000
    assert done.report["lookahead_ms"] == 10 * done.parts.network.lookahead() > 30
    given, options = model("streaming", "nemo none"), ExportOptions("features", lengths=33)
    done = export_stream(given, options)
    assert {node.op_type for node in done.model.graph.node}.isdisjoint({"If", "Loop", "Scan"})
    sounds = inputs_of(done.parts, "features", generated(RATE, 1))
    with pytest.raises(CheckpointError, match="differs from torch's whole utterances"):
        check_stream(done.runtime, parts_of(model("streaming", "nemo none", 4)), sounds, 1)
    step = done.runtime.step

    def stopped(rows: Any, lengths: Any, states: Any) -> Any:
        """The step of a model whose clock does not go on."""
        values, counts, new = step(rows, lengths, states)
        return values, counts, [[*now[:2], old[2]] for now, old in zip(new, states, strict=True)]

    object.__setattr__(done.runtime, "step", stopped)
    with pytest.raises(CheckpointError, match=r"gives .* values, torch"):
        check_stream(done.runtime, done.parts, sounds, 1)


def test_what_does_not_stream_is_refused() -> None:
    with pytest.raises(CheckpointError) as caught:
        export_stream(model("conformer", "espnet utterance"), ExportOptions())
    assert "attention 2 heads sees the whole utterance" in caught.value.problems[0]
    assert "utterance_mvn is over the whole utterance" in caught.value.problems[1]
    with pytest.raises(CheckpointError, match="normalize is 'per_feature', over the whole"):
        export_stream(model("streaming", "nemo per feature"), ExportOptions())
    for chunk in (0.0, 100.0, -160.0, float("nan")):
        with pytest.raises(ConfigError, match=r"must be a multiple of 160 ms.*give.*160"):
            export_stream(model("streaming", "nemo none"), ExportOptions(), chunk)


@pytest.mark.slow
def test_damaged_metadata_are_named(exported: Path, tmp_path: Path) -> None:
    import onnx

    (tmp_path / "tokens.txt").write_bytes((exported / "tokens.txt").read_bytes())
    for entries, words in (
        ({"sample_rate": "0"}, "sample_rate: must be an integer from 1 to"),
        ({"signal": "{}"}, "signal: does not say how audio is prepared"),
        ({"stream_frames": "x"}, "stream_frames: must be an integer"),
        ({"stream_frames": "32"}, "must give 32 / 4 frames of 7 classes"),
        ({"stream_delay": "-1"}, "stream_delay: must be an integer"),
        ({"input": "features"}, "must take"),
    ):
        graph = onnx.load(exported / "model.onnx")
        known = {one.key: one.value for one in graph.metadata_props}
        onnx.helper.set_model_props(graph, {**known, **entries})
        onnx.save(graph, tmp_path / "model.onnx")
        with pytest.raises(CheckpointError, match=words):
            open_streaming(tmp_path / "model.onnx")
