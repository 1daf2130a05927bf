"""Plays streams through a model, several at once, and says what is heard when.

A stream that fails, because its source does, gives the text of what had come and ends with its
error; the others go on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError, DataError
from nas_encoder.export.streaming.decoder import LiveDecoder
from nas_encoder.export.streaming.figures import Figures
from nas_encoder.export.streaming.runtime import StreamRun, StreamRuntime, run_streams
from nas_encoder.export.streaming.signal import Signal
from nas_encoder.export.streaming.sources import BACKLOG, Source

_TICK = 0.05  # seconds after which sources are asked again that do not know

Opening = Callable[[float], Source]


@dataclass(frozen=True)
class Event:
    """Something that happened to a stream.

    Attributes:
        stream: Its number, from 0.
        name: Of its source.
        kind: ``begins``, ``text``, ``ends`` or ``fails``.
        seconds: Into its audio.
        text: What is new of its text; of a failure, why.
    """

    stream: int
    name: str
    kind: str
    seconds: float = 0.0
    text: str = ""


class _Player:
    """One stream while it is played."""

    def __init__(self, number: int, source: Source, runtime: StreamRuntime) -> None:
        assert runtime.form is not None
        self.number, self.source, self.runtime = number, source, runtime
        self.signal, self.run = Signal(runtime.form), StreamRun(runtime)
        self.decoder = LiveDecoder(runtime.vocabulary)
        self.begun: float | None = None
        self.silent: float | None = None  # when the last sample had come
        self.first: float | None = None  # latency of the first word
        self.failure: DataError | None = None  # of the source
        rate = runtime.number("sample_rate")
        self.rate = rate
        self.frame = runtime.number("hop_length") * runtime.number("subsampling_factor") / rate

    def listen(self, now: float, real_time: bool) -> None:
        """Take what has come; a source that fails has ended."""
        if self.over or (self.run.waiting and not real_time):
            return
        try:
            samples = self.source.take(now)
        except DataError as error:
            self.failure, samples = error, torch.zeros(0)
            self.source.close()
        if self.begun is None and len(samples):
            # Files know it; what comes from a pipe had been heard before it came.
            known = getattr(self.source, "begins", None)
            self.begun = now - len(samples) / self.rate if known is None else known
        self.signal.push(samples)
        if self.over:
            self.signal.end()
            self.silent = now
            if self.begun is not None:
                self.silent = min(now, self.begun + self.signal.samples / self.rate)
        for window, valid in self.signal.windows():
            self.run.put(window, valid)
        late = (len(self.run.waiting) - 1) * self.runtime.seconds
        if real_time and not self.over and late > BACKLOG:
            rule = f"comes faster than it is recognized: {late:.1f} s wait"
            remedy = "use fewer streams, longer chunks (export --chunk) or a smaller model"
            raise DataError(self.source.name, [f"{rule}; {remedy}"])

    def hear(self, values: Tensor, now: float) -> Iterator[Event]:
        """Return the text of new frames (n, V)."""
        pieces = self.decoder.feed(values)
        if not pieces:
            return
        place = pieces[0][0] * self.frame
        if self.first is None and self.begun is not None:
            self.first = now - self.begun - place
        text = "".join(piece for _, piece in pieces)
        yield Event(self.number, self.source.name, "text", place, text)

    @property
    def over(self) -> bool:
        """Whether no more comes."""
        return self.source.ended or self.failure is not None

    @property
    def seconds(self) -> float:
        """Of audio so far."""
        return self.signal.samples / self.rate


def play(
    runtime: StreamRuntime,
    openings: list[Opening],
    at_once: int,
    real_time: bool,
    figures: Figures,
    wake: threading.Event | None = None,
    clock: Callable[[], float] = time.monotonic,
    stopped: Callable[[], object] = bool,
) -> Iterator[Event]:
    """Play streams; yield what happens.

    Args:
        runtime: A model that takes audio.
        openings: Each opens a source that begins at the time it is given.
        at_once: How many streams are played at the same time, at most. The first of them begin one
            after the other within a chunk, as streams of strangers do.
        real_time: Whether latencies are counted, and sources must keep step with the time.
        figures: Counted into.
        wake: Set by sources when something has come.
        clock: The time.
        stopped: Whether no more is to be heard: then streams end with what has come, as at the end
            of a file, and no others begin.

    Raises:
        CheckpointError: The model takes features, or fails.
    """
    if runtime.form is None:
        rule = "takes features and not audio: export it with --input audio, or let sherpa-onnx run "
        raise CheckpointError(runtime.source, [f"{rule}it"])
    wake = wake or threading.Event()
    coming, players = deque(enumerate(openings)), list[_Player]()
    first = clock()
    try:
        while coming or players:
            if stopped():
                coming.clear()
                for player in players:
                    player.source.stop()
            while coming and len(players) < at_once:
                number, opening = coming.popleft()
                begins = clock()
                if number < at_once:
                    begins = max(begins, first + number * runtime.seconds / at_once)
                try:
                    source = opening(begins)
                except DataError as error:
                    figures.failed += 1
                    yield Event(number, error.subject, "fails", 0.0, "; ".join(error.problems))
                    continue
                players.append(_Player(number, source, runtime))
                yield Event(number, source.name, "begins")
            wake.clear()
            yield from _round(runtime, players, real_time, figures, clock)
            if players and not any(player.run.waiting for player in players):
                now = clock()
                dues = [
                    player.source.due(now, player.signal.missing)
                    for player in players
                    if not player.over
                ]
                wake.wait(min([_TICK, *(due for due in dues if due is not None)]))
    finally:
        for player in players:
            player.source.close()


def _round(
    runtime: StreamRuntime,
    players: list[_Player],
    real_time: bool,
    figures: Figures,
    clock: Callable[[], float],
) -> Iterator[Event]:
    """Listen to all, run what is ready; take away those that are over."""
    for player in list(players):
        try:
            player.listen(clock(), real_time)
        except DataError as error:  # too slow: what waits is given up, for the others' sake
            players.remove(player)
            yield _failed(player, error, figures)
    before = clock()
    found = run_streams(runtime, [player.run for player in players])
    now = clock()
    if any(values is not None for values in found):
        figures.steps.add(now - before)
    for player, values in zip(list(players), found, strict=True):
        if values is not None:
            yield from player.hear(values, now)
        if player.run.over:
            players.remove(player)
            if player.failure is not None:
                yield _failed(player, player.failure, figures)
                continue
            player.source.close()
            figures.streams += 1
            figures.audio += player.seconds
            if real_time and player.silent is not None:
                figures.final.add(now - player.silent)
            if real_time and player.first is not None:
                figures.first.add(player.first)
            yield Event(player.number, player.source.name, "ends", player.seconds)


def _failed(player: _Player, error: DataError, figures: Figures) -> Event:
    player.source.close()
    figures.failed += 1
    text = "; ".join(error.problems)
    return Event(player.number, player.source.name, "fails", player.seconds, text)
