"""How live recognition ends before its audio does: by Ctrl-C, or as its source fails."""

from __future__ import annotations

import os
import signal
import threading
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nas_encoder.cli.main import main
from nas_encoder.export.material import generated
from nas_encoder.export.streaming.encodings import ENCODINGS
from nas_encoder.export.streaming.figures import Figures
from nas_encoder.export.streaming.live import Event, play
from nas_encoder.export.streaming.runtime import StreamRuntime
from nas_encoder.export.streaming.signal import SignalForm
from nas_encoder.export.streaming.sources import PipeSource
from nas_encoder.export.vocabulary import BLANK, Vocabulary

RATE = 16000
CHUNK = 640  # samples
SYMBOLS = ("A", "B", "C", "D", BLANK)
# Three chunks and a half: A and B are known before more comes, C and D are owed.
SAID = np.repeat(np.arange(1, 5, dtype="<i2") * 4096, CHUNK)[: -CHUNK // 2].tobytes()


class Graph:
    """Says of each chunk the letter of its loudness, one chunk later.

    Args:
        after: Called after steps, which are counted from 1.
    """

    def __init__(self, after: Callable[[int], None] = lambda step: None) -> None:
        self.after, self.steps = after, 0

    def get_inputs(self) -> list[Any]:
        names = ("cache_last_channel", "cache_last_time", "cache_last_channel_len")
        shapes = ([0, 1, 1, 1], [0, 1, 1, 1], [0])
        return [Namespace(name=name, shape=s) for name, s in zip(names, shapes, strict=True)]

    def run(self, names: None, feed: dict[str, Any]) -> list[Any]:
        self.steps += 1
        self.after(self.steps)
        before = feed["cache_last_channel"]
        letters = np.round(before.reshape(-1) * 8).astype(int) - 1
        values = np.eye(len(SYMBOLS), dtype="float32")[letters][:, None]
        loudness = feed["audio"][:, 0].reshape(before.shape)
        clock = feed["cache_last_channel_len"]
        return [values, np.ones_like(clock), loudness, feed["cache_last_time"], clock]


def runtime(graph: Graph) -> StreamRuntime:
    numbers = {"stream_frames": 4, "subsampling_factor": 4, "stream_delay": 1, "shortest": 1}
    numbers |= {"sample_rate": RATE, "hop_length": 160}
    metadata = {name: str(number) for name, number in numbers.items()} | {"input": "audio"}
    form = SignalForm(4, 160, 160, 0, False, 1, 0.0)
    return StreamRuntime("m", graph, metadata, Vocabulary(SYMBOLS), form)


def piped(real_time: bool, timeout: float) -> tuple[PipeSource, threading.Event, int]:
    read, write = os.pipe()
    wake = threading.Event()
    encoding = ENCODINGS["s16le"]
    return PipeSource(lambda: read, "-", RATE, encoding, timeout, real_time, wake), wake, write


def text(events: list[Event]) -> str:
    return "".join(event.text for event in events if event.kind == "text")


@pytest.mark.parametrize("real_time", [False, True])
def test_a_stopped_stream_gives_all_that_it_heard(real_time: bool) -> None:
    source, wake, write = piped(real_time, 60.0)
    os.write(write, SAID)
    figures, events = Figures(), list[Event]()
    openings: list[Any] = [lambda begins: source, lambda begins: pytest.fail("begins")]
    for event in play(
        runtime(Graph()),
        openings,
        1,
        real_time,
        figures,
        wake,
        stopped=lambda: text(events) == "AB",
    ):
        events.append(event)
    os.close(write)
    assert text(events) == "ABCD" and events[-1].kind == "ends"
    assert (figures.streams, figures.failed) == (1, 0)
    assert figures.audio == pytest.approx(3.5 * CHUNK / RATE)


@pytest.mark.parametrize("real_time", [False, True])
def test_a_stalled_pipe_fails_after_the_text_of_what_came(real_time: bool) -> None:
    source, wake, write = piped(real_time, 0.2)
    os.write(write, SAID)
    figures = Figures()
    events = [*play(runtime(Graph()), [lambda begins: source], 1, real_time, figures, wake)]
    os.close(write)
    assert text(events) == "ABCD" and events[-1].kind == "fails"
    assert "is stalled: gave nothing for 0.2 s after 0.1 s" in events[-1].text
    assert (figures.streams, figures.failed) == (0, 1)


def test_what_comes_together_with_a_failure_is_heard() -> None:
    source, wake, write = piped(True, 60.0)
    os.write(write, SAID)
    while not wake.wait(0.01) or source.due(0.0, 1) is None:
        pass
    os.write(write, b"x")  # half a sample
    os.close(write)
    while source._blocks.qsize() < 2:
        wake.wait(0.01)
    events = [*play(runtime(Graph()), [lambda begins: source], 1, True, Figures(), wake)]
    assert text(events) == "ABCD" and "ends within a sample" in events[-1].text


def test_a_writer_without_end_is_not_heard_to_its_end() -> None:
    source, wake, write = piped(False, 60.0)

    def pour() -> None:
        for _ in range(40):
            os.write(write, bytes(1 << 15))
        os.close(write)

    thread = threading.Thread(target=pour)
    thread.start()
    assert wake.wait(20)
    source.stop()
    taken = 0
    while not source.ended:
        taken += len(source.take(0.0))
        source.stop()
    assert 0 < taken <= 8 << 14
    while source._blocks.get(timeout=20):
        pass
    thread.join()


@pytest.mark.parametrize("twice", [False, True])
def test_ctrl_c_ends_the_command_with_its_report(
    twice: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    def after(step: int) -> None:
        if step == 3 or (twice and step == 4):
            signal.raise_signal(signal.SIGINT)

    found = runtime(Graph(after))
    place = "nas_encoder.export.streaming.runtime.open_streaming"
    monkeypatch.setattr(place, lambda *arguments: found)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    writer = os.open(fifo, os.O_RDWR)  # never at its end
    os.write(writer, SAID)
    assert main(["transcribe", "m", "--stream", str(fifo)]) == 130
    os.close(writer)
    out, errors = capsys.readouterr()
    assert out == (f"{fifo}\tAB" if twice else f"{fifo}\tABCD\n")
    assert ("streams     1, 0 failed" in errors) is not twice
    assert errors.endswith("nas-encoder transcribe: stopped by SIGINT\n")


def test_a_generated_sound_is_as_long_as_is_asked() -> None:
    def sizes(**given: float) -> list[int]:
        return [len(one.samples) for one in generated(100, 2, **given)]

    assert sizes() == sizes(longest=2.0) == [100, 200]
    assert sizes(longest=7.013) == [100, 200, 702]


def test_events_have_defaults() -> None:
    assert Event(0, "x", "begins") == Event(0, "x", "begins", 0.0, "")
