"""What live recognition gets beside good audio: other files, pipes read twice, odd features."""

from __future__ import annotations

import os
import struct
import sys
import threading
from argparse import Namespace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from export_samples import model

from nas_encoder.cli.main import main
from nas_encoder.cli.transcribe_stream import _opened
from nas_encoder.errors import CheckpointError, DataError
from nas_encoder.export.export import ExportOptions
from nas_encoder.export.streaming.encodings import ENCODINGS, EncodingReader
from nas_encoder.export.streaming.export import export_stream
from nas_encoder.export.streaming.runtime import StreamRuntime, _form
from nas_encoder.export.streaming.signal import Signal, SignalForm
from nas_encoder.export.streaming.sources import PipeSource
from nas_encoder.export.vocabulary import BLANK, Vocabulary
from nas_encoder.interchange.features import ESPnetFeatures, NeMoFeatures

RATE = 16000


def reader() -> EncodingReader:
    return EncodingReader("-", RATE, ENCODINGS["s16le"])


@pytest.mark.parametrize(
    "features",
    [
        NeMoFeatures(features=4, normalize="NA", n_window_stride=320),
        ESPnetFeatures(n_mels=4, n_fft=400, win_length=400, hop_length=320),
    ],
    ids=["nemo", "espnet"],
)
def test_frames_of_long_hops_are_given_when_they_count(features: Any) -> None:
    """NeMo counts whole hops, which may be longer than the half of a window after a frame."""
    form = SignalForm.of(features, 4)
    for size in range(1, 2700, 37):
        _, frames = features(torch.ones(1, size), torch.tensor([size]))
        signal, given = Signal(form), []
        for start in range(0, size, 60):
            signal.push(torch.ones(min(60, size - start)))
            given += [valid for _, valid in signal.windows()]
            assert 1 <= signal.missing <= form.size
        signal.end()
        given += [valid for _, valid in signal.windows()]
        assert sum(given) == int(frames) and 0 <= given[-1] < 4 and {*given[:-1]} <= {4}


@pytest.mark.parametrize(
    ("begin", "kind"),
    [
        (b"fLaC\0\0\0\x22", "FLAC"),
        (b"OggS\0\2", "Ogg"),
        (b"ID3\4\0", "MP3"),
        (b"RF64\xff\xff\xff\xffWAVE", "RF64"),
        (b"FORM\0\0\1\0AIFF", "AIFF"),
        (b".snd\0\0\0\x20", "AU"),
        (b"NIST_1A\n   1024", "NIST SPHERE"),
    ],
)
def test_other_files_in_pipes_are_not_taken_for_samples(begin: bytes, kind: str) -> None:
    for pieces in ([begin], [begin[i : i + 1] for i in range(len(begin))]):
        one = reader()
        with pytest.raises(DataError, match=f"is {kind}; a pipe must hold WAV, or samples"):
            for piece in pieces:
                assert not len(one.feed(piece))
    samples = begin[:2] + bytes(6)
    one = reader()
    assert len(one.feed(samples[:2])) + len(one.feed(samples[2:])) == 4


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE])
def test_headers_of_programs_that_do_not_know_the_size(size: int) -> None:
    """0x80000000 is arecord's, which the help of transcribe recommends."""
    form = struct.pack("<HHIIHH", 1, 1, RATE, 2 * RATE, 2, 16)
    header = b"RIFF\0\0\0\0WAVEfmt " + struct.pack("<I", 16) + form + b"data"
    one = reader()
    assert len(one.feed(header + struct.pack("<I", size) + bytes(10))) == 5
    assert not one.complete and not len(one.end())


def test_a_writer_that_never_waits_is_too_fast() -> None:
    read, write = os.pipe()

    def pour() -> None:
        try:
            while True:
                os.write(write, bytes(1 << 15))
        except BrokenPipeError:
            os.close(write)

    thread = threading.Thread(target=pour)
    thread.start()
    source = PipeSource(lambda: read, "-", RATE, ENCODINGS["s16le"], 5.0, True, threading.Event())
    with pytest.raises(DataError, match=r"gave 1\d.\d s in 0.0 s"):
        while True:
            assert len(source.take(0.0)) <= 8 << 14
    os.close(read)
    thread.join()


def test_sources_that_cannot_be_named_or_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fifo = str(tmp_path / "fifo")
    os.mkfifo(fifo)
    for words, expected in (
        ([fifo, "--streams", "2"], f"--streams: must be at most 1 with {fifo}, which is a pipe"),
        ([fifo, fifo], f"{fifo}: is given more than once"),
        (["-", "-"], "-: is given more than once"),
    ):
        assert main(["transcribe", "m", "--stream", *words]) == 2
        assert expected in capsys.readouterr().err
    for words in ([], ["--stream"]):
        assert main(["transcribe", "m", os.fsdecode(b"\xff.wav"), *words]) == 2
        assert r"'\udcff.wav': must be a name in UTF-8" in capsys.readouterr().err
    args: Any = Namespace(real_time=False, timeout=None, encoding=None)
    runtime: Any = Namespace(number=lambda name: RATE)
    monkeypatch.setattr(sys, "stdin", None)  # as with <&-
    with pytest.raises(DataError, match="-: cannot be read: standard input is closed"):
        _opened(args, runtime, threading.Event(), "-", 0.0)


@pytest.mark.parametrize("factor", ["NaN", "Infinity", "null", '"x"'])
def test_pre_emphasis_in_metadata_is_a_number(factor: str) -> None:
    form = '{"frames": 4, "hop": 160, "points": 512, "around": 256, "reflected": true, "more": 1'
    with pytest.raises(CheckpointError, match="signal: does not say how audio is prepared"):
        _form("model.onnx", {"signal": f'{form}, "preemphasis": {factor}}}'})


@pytest.mark.parametrize(
    ("toolkit", "config", "words"),
    [
        ("nemo", {"preprocessor": {"exact_pad": True}}, "normalize is 'per_feature'"),
        ("espnet", {"frontend": "s3prl", "normalize": "utterance_mvn"}, "utterance_mvn is over"),
    ],
)
def test_normalization_of_features_that_are_not_known_here(
    toolkit: str, config: dict[str, Any], words: str
) -> None:
    given = model("streaming", "nemo none")
    given.toolkit, given.config, given.features = toolkit, config, None
    with pytest.raises(CheckpointError, match=f"does not stream: features: {words}"):
        export_stream(given, ExportOptions("features"))


@pytest.mark.parametrize(
    ("place", "wrong", "words"),
    [
        (0, np.zeros((1, 2, 3)), r"gives outputs of shapes \(1, 2, 3\), \(2,\)"),
        (1, np.zeros((2, 1), np.int64), "gives outputs of shapes"),
        (1, np.zeros(2), "gives lengths of type torch.float64"),
        (2, np.zeros((2, 1, 1, 5)), "gives outputs of shapes"),
    ],
)
def test_a_foreign_graph_that_gives_something_else(place: int, wrong: Any, words: str) -> None:
    outputs = [np.zeros((2, 2, 3)), np.zeros(2, np.int64), np.zeros((2, 1, 1, 4))]
    outputs += [np.zeros((2, 1, 1, 1)), np.zeros(2, np.int64)]
    states = [torch.zeros(1, 1, 1, 4), torch.zeros(1, 1, 1, 1), torch.zeros(1, dtype=torch.int64)]
    session = Namespace(run=lambda names, feed: outputs)
    vocabulary = Vocabulary(("a", "b", BLANK))
    runtime = StreamRuntime("m", session, {"input": "features"}, vocabulary, None)
    rows = [torch.zeros(8, 4)] * 2
    assert runtime.step(rows, [8, 8], [states] * 2)[1] == [0, 0]
    outputs[place] = wrong
    with pytest.raises(CheckpointError, match=words):
        runtime.step(rows, [8, 8], [states] * 2)
