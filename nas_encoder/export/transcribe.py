"""Recognizes recordings of any length with an exported model, in memory that does not grow.

Letters in shapes: N samples, T' output frames, V classes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.export.recognizer import AUDIO
from nas_encoder.export.recordings import check_finite, opened
from nas_encoder.export.runtime import Runtime
from nas_encoder.export.transducer.greedy import Greedy, Steps
from nas_encoder.export.vocabulary import Vocabulary

WINDOW, MARGIN = 60.0, 5.0  # seconds
_LONGEST = 86400.0  # seconds of a window


class BestPath:
    """The best class of each frame of a CTC layer."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        self.vocabulary = vocabulary
        self.path: list[int] = []

    def feed(self, frames: Tensor) -> None:
        """Go on with frames (T', V)."""
        self.path += frames.argmax(1).tolist()

    @property
    def text(self) -> str:
        """The text so far."""
        return self.vocabulary.text(self.path)


class Transcriber:
    """Greedy decoding of audio files.

    A recording of at most ``window`` seconds is recognized whole, as in the toolkits. A longer one
    is read in windows, each of which reaches ``margin`` seconds into what its neighbours decide;
    their frames are joined before repeats are. Features that are normalized over an utterance are
    normalized over a window then, and attention ends at its borders.

    Args:
        runtime: An open model that takes audio.
        window: Seconds.
        margin: Seconds.
        steps: The rest of a transducer, whose encoder ``runtime`` is; its text goes on from window
            to window.

    Raises:
        CheckpointError: The model takes features, or has no CTC layer and is no transducer.
        ConfigError: Window or margin is no duration, or they do not fit each other.
    """

    def __init__(
        self,
        runtime: Runtime,
        window: float = WINDOW,
        margin: float = MARGIN,
        steps: Steps | None = None,
    ) -> None:
        problems = []
        if runtime.takes != AUDIO:
            problems.append(
                "takes features and not audio: export it with --input audio, or let sherpa-onnx "
                "run it"
            )
        if runtime.vocabulary is None:
            problems.append("has no CTC layer, so there is no text")
        if problems:
            raise CheckpointError(runtime.source, problems)
        self.runtime, self.rate = runtime, runtime.number("sample_rate")
        self.steps = steps
        # Windows begin where output frames do.
        step = runtime.number("hop_length") * runtime.number("subsampling_factor")
        problems = [
            f"{name}: must be from 0 to {_LONGEST:g} seconds, got {value:g}; {remedy}"
            for name, value, remedy in (
                ("window", window, "if no recording is to be cut, give the longest one's seconds"),
                ("margin", margin, f"{MARGIN:g} is the default"),
            )
            if not (math.isfinite(value) and 0 <= value <= _LONGEST)
        ]
        if problems:
            raise ConfigError("transcribe", problems)
        self.step, self.window = step, int(window * self.rate) // step * step
        self.margin = -(-int(margin * self.rate) // step) * step
        if self.window - 2 * self.margin < step:
            rule = (
                f"window: must be longer than both margins of {margin:g} s, by a frame of "
                f"{step / self.rate:g} s at least, got {window:g} s; give a longer window or a "
                "shorter margin"
            )
            raise ConfigError("transcribe", [rule])

    def durations(self, paths: Sequence[str | Path]) -> list[float]:
        """Return the seconds of files that can all be recognized, as far as their headers tell.

        Args:
            paths: As of :meth:`text`.

        Raises:
            DataError: Lists every problem of every file.
        """
        seconds, wrong = [], {}
        for path in paths:
            try:
                with opened(Path(path), self.rate) as file:
                    seconds.append(file.frames / self.rate)
            except DataError as error:
                wrong[str(path)] = error.problems
        if len(wrong) == 1:
            raise DataError(*next(iter(wrong.items())))
        if wrong:
            lines = [f"{path}: {line}" for path, found in wrong.items() for line in found]
            raise DataError(f"{len(wrong)} of {len(paths)} files", lines)
        return seconds

    def text(self, path: str | Path, advance: Callable[[float], object] = lambda _: None) -> str:
        """Recognize a file.

        Args:
            path: Mono audio of the model's sampling rate, in any format of libsndfile.
            advance: Called with the seconds done since it was called last.

        Raises:
            DataError: The file cannot be read, is not mono, is cut short, has another rate or
                a sample that is not finite.
            CheckpointError: The model fails.
        """
        assert self.runtime.vocabulary is not None
        search: Greedy | BestPath = BestPath(self.runtime.vocabulary)
        if self.steps is not None:
            search = Greedy(self.steps)
        for samples, first, last in self._windows(Path(path)):
            (values,) = self.runtime.run([samples])
            search.feed(values[first : last if last else None])
            advance((len(samples) - self._overlap(first, last)) / self.rate)
        return search.text

    def _overlap(self, first: int, last: int) -> int:
        return (first + (self.window // self.step - last if last else 0)) * self.step

    def _windows(self, path: Path) -> Iterator[tuple[Tensor, int, int]]:
        """Yield samples (N,) and which of their output frames count; 0 for all to the end."""
        with opened(path, self.rate) as file:
            total, start = file.frames, 0
            while True:
                whole = start + self.window >= total
                file.seek(start)
                size = min(self.window, total - start)
                samples = torch.from_numpy(file.read(size, dtype="float32"))
                if len(samples) < size:
                    had = start + len(samples)
                    raise DataError(
                        str(path), [f"is cut short: has {had} samples, its header says {total}"]
                    )
                check_finite(str(path), samples, start, self.rate)
                first = self.margin // self.step if start else 0
                last = 0 if whole else (self.window - self.margin) // self.step
                yield samples, first, last
                if whole:
                    return
                start += self.window - 2 * self.margin
