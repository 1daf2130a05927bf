"""Opens streaming models and runs batches of streams, each wherever it is.

Letters in shapes: B batch, M samples, t frames of a chunk, F features, t' output frames, V classes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.common.problems import one_line, show
from nas_encoder.deploy.engines import ONNXRUNTIME, open_session
from nas_encoder.errors import CheckpointError
from nas_encoder.export.recognizer import AUDIO
from nas_encoder.export.runtime import open_exported
from nas_encoder.export.streaming.signal import SignalForm
from nas_encoder.export.streaming.stepper import CACHES, INPUTS, OUTPUTS
from nas_encoder.export.vocabulary import Vocabulary

# Metadata of streaming models: numbers, with the largest that makes sense.
NUMBERS = {"stream_frames": 10**5, "stream_delay": 10**6, "shortest": 10**4}
_MOST = 1 << 26  # values of the caches of a stream


@dataclass(frozen=True)
class StreamRuntime:
    """An open streaming model.

    Attributes:
        source: The file, for messages.
        session: onnxruntime's.
        metadata: The model's.
        vocabulary: Its classes.
        form: How its windows of audio are made; None if it takes features.
    """

    source: str
    session: Any
    metadata: dict[str, str]
    vocabulary: Vocabulary
    form: SignalForm | None

    @classmethod
    def of(
        cls, source: str, session: Any, metadata: dict[str, str], vocabulary: Vocabulary
    ) -> StreamRuntime:
        """Return the runtime of a session.

        Raises:
            CheckpointError: The metadata do not say how windows are made.
        """
        form = None
        if metadata["input"] == AUDIO:
            form = _form(source, metadata)
        return cls(source, session, metadata, vocabulary, form)

    @property
    def takes(self) -> str:
        """``audio`` or ``features``."""
        return self.metadata["input"]

    def number(self, name: str) -> int:
        """Return a number of the metadata."""
        return int(self.metadata[name])

    @property
    def seconds(self) -> float:
        """Of a chunk."""
        hop = self.number("hop_length") / self.number("sample_rate")
        return self.number("stream_frames") * hop

    def new_state(self) -> list[Tensor]:
        """Return the state of a stream before its first chunk."""
        shapes = {one.name: one.shape[1:] for one in self.session.get_inputs()}
        return [
            *(torch.zeros(1, *shapes[name]) for name in CACHES[:2]),
            torch.zeros(1, dtype=torch.int64),
        ]

    def step(
        self, rows: Sequence[Tensor], lengths: Sequence[int], states: Sequence[list[Tensor]]
    ) -> tuple[Tensor, list[int], list[list[Tensor]]]:
        """Run a chunk of each of B streams.

        Args:
            rows: Windows (M,), or features (t, F).
            lengths: Valid frames of each.
            states: Of each; they are not changed.

        Returns:
            (B, t', V) log-probabilities, the frames of each that count, and the next states.

        Raises:
            CheckpointError: The graph fails, or gives what it must not.
        """
        batch = torch.stack(list(rows))
        if self.takes != AUDIO:
            batch = batch.transpose(1, 2).contiguous()
        caches = [torch.cat(parts) for parts in zip(*states, strict=True)]
        values = (each.numpy() for each in (batch, torch.tensor(lengths), *caches))
        feed = dict(zip(INPUTS[self.takes], values, strict=True))
        try:
            outputs = [torch.from_numpy(each) for each in self.session.run(None, feed)]
        except Exception as error:  # onnxruntime raises classes of its own for each status
            rule = f"fails on an input of shape {tuple(batch.shape)}: {one_line(error)}"
            raise CheckpointError(self.source, [rule]) from error
        probabilities, counts, *after = outputs
        shapes = [each.shape for each in (counts, *after)]
        right = shapes == [(len(rows),), *(each.shape for each in caches)]
        if probabilities.dim() != 3 or len(probabilities) != len(rows) or not right:
            rule = f"gives outputs of shapes {', '.join(str(tuple(out.shape)) for out in outputs)}"
            raise CheckpointError(self.source, [rule])
        if counts.dtype != torch.int64:
            raise CheckpointError(self.source, [f"gives lengths of type {counts.dtype}"])
        new = [[cache[place : place + 1] for cache in after] for place in range(len(rows))]
        return probabilities, counts.tolist(), new


class StreamRun:
    """One stream: its state, and which of what comes out are its frames.

    Args:
        runtime: The model.

    Attributes:
        waiting: Chunks that have arrived and were not run, with their valid frames.
        over: Whether all frames have come out.
    """

    def __init__(self, runtime: StreamRuntime) -> None:
        self.runtime, self.over = runtime, False
        self.waiting: list[tuple[Tensor, int]] = []
        self.state = runtime.new_state()
        self._frames = runtime.number("stream_frames")
        self._out = self._frames // runtime.number("subsampling_factor")
        self._early = runtime.number("stream_delay")  # that are before the first
        self._late = -self._early  # frames out, of which those come first
        self._total, self._ended = 0, False

    def put(self, row: Tensor, valid: int) -> None:
        """Take a chunk; one with fewer valid frames than t is the last."""
        if self._ended or self.over:
            return
        self._total += valid
        self.waiting.append((row, valid))
        if valid == self._frames:
            return
        self._ended = True
        if self._total < self.runtime.number("shortest"):
            self.waiting, self.over = [], True
            return
        factor = self.runtime.number("subsampling_factor")
        # What is still to come out after these.
        due = -(-self._total // factor) - (self._late + self._out * len(self.waiting))
        silence = torch.zeros_like(row)
        self.waiting += [(silence, 0)] * max(0, -(-due // self._out))

    def took(self, values: Tensor, count: int, state: list[Tensor]) -> Tensor:
        """Take what a step gave; return the frames (n, V) of the stream."""
        first = min(self._early, self._out)
        self._early -= first
        self._late += self._out
        self.state = state
        self.over = self._ended and not self.waiting
        return values[first : first + count] if first < self._out else values[:0]


def run_streams(runtime: StreamRuntime, streams: Sequence[StreamRun]) -> list[Tensor | None]:
    """Run the next chunk of each stream that has one; return the frames (n, V) of each, or None."""
    busy = [stream for stream in streams if stream.waiting]
    found: dict[int, Tensor] = {}
    if busy:
        chunks = [stream.waiting.pop(0) for stream in busy]
        rows, lengths = [row for row, _ in chunks], [valid for _, valid in chunks]
        values, counts, states = runtime.step(rows, lengths, [stream.state for stream in busy])
        for place, stream in enumerate(busy):
            found[id(stream)] = stream.took(values[place], counts[place], states[place])
    return [found.get(id(stream)) for stream in streams]


def chunks_of(runtime: StreamRuntime, x: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Yield the chunks of features (T, F), each (t, F), and their valid frames."""
    size, start = runtime.number("stream_frames"), 0
    while True:
        piece = x[start : start + size]
        missing = size - len(piece)
        yield F.pad(piece, (0, 0, 0, missing)), len(piece)
        if missing:
            return
        start += size


def open_streaming(
    path: Path, tokens: Path | None = None, threads: int = 1, engine: str = ONNXRUNTIME
) -> StreamRuntime:
    """Open a model that ``nas-encoder export --stream`` wrote.

    Raises:
        CheckpointError: As of :func:`~nas_encoder.export.runtime.open_model`; or it does not
            stream.
        MissingDependencyError: onnx or onnxruntime is missing.
    """
    metadata, vocabulary, content = open_exported(path, tokens)
    if "stream_frames" not in metadata:
        rule = "does not stream: it takes whole utterances; export the model with --stream"
        raise CheckpointError(str(path), [rule])
    problems = [
        f"metadata: {name}: must be an integer from 0 to {most}, got {show(metadata.get(name))}"
        for name, most in NUMBERS.items()
        if not _is_number(metadata.get(name, ""), most)
    ]
    if vocabulary is None:
        problems.append("metadata: vocab_size: is missing")
    elif not problems and int(metadata["stream_frames"]) < int(metadata["subsampling_factor"]):
        problems.append("metadata: stream_frames: must be at least subsampling_factor")
    if problems or vocabulary is None:
        raise CheckpointError(str(path), problems)
    session = open_session(content, str(path), threads, engine)
    _check_graph(str(path), session, metadata, vocabulary)
    return StreamRuntime.of(str(path), session, metadata, vocabulary)


def _check_graph(
    source: str, session: Any, metadata: dict[str, str], vocabulary: Vocabulary
) -> None:
    shapes = {one.name: one.shape for one in session.get_inputs()}
    names = [one.name for one in session.get_outputs()]
    if tuple(shapes) != INPUTS[metadata["input"]] or tuple(names) != OUTPUTS:
        wanted = f"{INPUTS[metadata['input']]} and give {OUTPUTS}"
        rule = f"must take {wanted}, but takes {show(list(shapes))} and gives {show(names)}"
        raise CheckpointError(source, [rule])
    for name in CACHES[:2]:
        sizes = shapes[name][1:]
        whole = all(isinstance(size, int) and size > 0 for size in sizes)
        if len(sizes) != 3 or not whole or math.prod(sizes) > _MOST:
            rule = f"{name}: must have 3 sizes beside the batch, at most {_MOST} values"
            raise CheckpointError(source, [f"{rule}, got {show(list(sizes))}"])
    factor = int(metadata["subsampling_factor"])
    out = session.get_outputs()[0].shape
    frames, classes = int(metadata["stream_frames"]), len(vocabulary.symbols)
    if not factor or frames % factor or out[1:] != [frames // factor, classes]:
        rule = f"must give {frames} / {factor} frames of {classes} classes, gives {show(out)}"
        raise CheckpointError(source, [rule])
    first = session.get_inputs()[0].shape[1:]
    sizes = [*first[:1], frames]
    if metadata["input"] == AUDIO:
        form = _form(source, metadata)
        sizes = [form.size] if form.frames == frames else []
    if first != sizes:
        rule = f"must take inputs of sizes {sizes} beside the batch, takes {show(first)}"
        raise CheckpointError(source, [rule])


def _form(source: str, metadata: dict[str, str]) -> SignalForm:
    kinds = SignalForm.__annotations__
    try:
        given = json.loads(metadata["signal"])
        form = SignalForm(**given)
        numbers = [form.frames, form.hop, form.points, form.around, form.more]
        whole = all(type(value) is int and 0 <= value <= 10**6 for value in numbers)
        factor = form.preemphasis
        right = whole and type(form.reflected) is bool and isinstance(factor, float)
        right = right and math.isfinite(factor)
        if not (right and form.hop and form.points):
            raise ValueError(f"must give {', '.join(kinds)}")
    except (KeyError, TypeError, ValueError) as error:
        rule = f"metadata: signal: does not say how audio is prepared: {one_line(error)}"
        raise CheckpointError(source, [rule]) from None
    return form


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) < 10 and int(text) <= most
