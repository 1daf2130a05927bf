"""Compares a streaming model with torch's result for whole utterances, from the first chunk on.

Letters in shapes: N samples, T frames, F features, T' output frames, V classes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError
from nas_encoder.export.check import TOLERANCE, Checked, compare, pieces_of
from nas_encoder.export.recognizer import AUDIO, Parts, reference
from nas_encoder.export.streaming.runtime import StreamRun, StreamRuntime, chunks_of, run_streams
from nas_encoder.export.streaming.signal import Signal

_TOGETHER = 8  # streams
_CUTS = (1, 80, 333, 1000, 2741)  # samples that arrive at once


def check_stream(
    runtime: StreamRuntime, parts: Parts, utterances: Sequence[Tensor], lengths: int
) -> Checked:
    """Compare a streaming model with torch.

    Several streams run at once, and as they end, others begin: so they are in a batch with streams
    of all ages, and the last ones with fewer and fewer.

    Args:
        runtime: The exported model.
        parts: The model in torch.
        utterances: Each (N,) or (T, F), as the model takes them.
        lengths: Every number of frames from 1 to this one is tried, with beginnings of the
            utterances, which end anywhere in a chunk.

    Raises:
        CheckpointError: Something differs; all is listed.
    """
    takes = runtime.takes
    hop = runtime.number("hop_length") if takes == AUDIO else 1
    inputs = [*utterances, *pieces_of(utterances, lengths, hop)]
    problems, worst = [], 0.0
    for x, found in zip(inputs, streamed(runtime, inputs), strict=True):
        expected = reference(parts, x, takes)
        if _frames(parts, x, takes) < runtime.number("shortest"):
            expected = expected[:0]
        difference, problem = compare(found, expected, TOLERANCE[takes])
        worst = max(worst, difference)
        if problem:
            unit = "samples" if takes == AUDIO else "frames"
            problems.append(f"a stream of {len(x)} {unit}: {problem}")
    if problems:
        more = "the stream differs from torch's whole utterances, so nothing is written"
        raise CheckpointError(runtime.source, [more, *problems])
    return Checked(lengths, len(utterances), worst, TOLERANCE[takes], 0)


def streamed(runtime: StreamRuntime, inputs: Sequence[Tensor]) -> list[Tensor]:
    """Return the log-probabilities (T', V) of inputs that are streamed, some at a time."""
    found: list[list[Tensor]] = [[] for _ in inputs]
    coming, running = list(enumerate(inputs)), dict[int, tuple[StreamRun, Iterator[None]]]()
    while coming or running:
        if coming and len(running) < _TOGETHER:
            number, x = coming.pop(0)
            stream = StreamRun(runtime)
            running[number] = stream, _filling(runtime, stream, x)
        for stream, filling in running.values():
            while not stream.waiting and not stream.over:
                next(filling)
        streams = [stream for stream, _ in running.values()]
        for number, values in zip(list(running), run_streams(runtime, streams), strict=True):
            if values is not None:
                found[number].append(values)
            if running[number][0].over:
                del running[number]
    classes = len(runtime.vocabulary.symbols)
    return [torch.cat([torch.zeros(0, classes), *pieces]) for pieces in found]


def _filling(runtime: StreamRuntime, stream: StreamRun, x: Tensor) -> Iterator[None]:
    """Give a stream its input, a little with each step of the iterator."""
    if runtime.form is None:
        for row, valid in chunks_of(runtime, x):
            stream.put(row, valid)
            yield
        return
    signal, start, number = Signal(runtime.form), 0, len(x)
    while start < len(x):
        size = _CUTS[number % len(_CUTS)]
        signal.push(x[start : start + size])
        start, number = start + size, number + 1
        for row, valid in signal.windows():
            stream.put(row, valid)
            yield
    signal.end()
    for row, valid in signal.windows():
        stream.put(row, valid)
        yield


def _frames(parts: Parts, x: Tensor, takes: str) -> int:
    if takes != AUDIO:
        return len(x)
    assert parts.features is not None
    _, frames = parts.features(x[None], torch.tensor([len(x)]))
    return int(frames)
