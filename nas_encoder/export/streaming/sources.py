"""Where live audio comes from: files, as fast as wished or at real time, and pipes.

A source gives the samples that have come, and complains about those that are no audio: of another
rate, not finite, too many for the time, or none for too long.
"""

from __future__ import annotations

import math
import os
import queue
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from nas_encoder.errors import DataError
from nas_encoder.export.recordings import check_finite, opened
from nas_encoder.export.streaming.encodings import Encoding, EncodingReader

BACKLOG = 10.0  # seconds that a source may be ahead of the time
_BLOCK = 0.1  # seconds that are read at once
_READ, _QUEUED = 1 << 15, 8  # bytes of a read from a pipe, and how many reads wait


class Source(Protocol):
    """Where a stream's samples come from.

    Attributes:
        name: For messages.
        ended: Whether no more come.
    """

    name: str
    ended: bool

    def take(self, now: float) -> Tensor:
        """Return the samples (N,) that have come by ``now`` and were not taken; maybe none.

        Raises:
            DataError: The source is broken, and gives no more.
        """

    def due(self, now: float, missing: int) -> float | None:
        """Return in how many seconds ``missing`` samples will be there; None if nobody knows."""

    def stop(self) -> None:
        """Let it end with what has come; :meth:`take` gives that."""

    def close(self) -> None:
        """Give back what is open."""


class FileSource:
    """A file that is played.

    Args:
        path: Mono audio.
        rate: Hz that it must have.
        begins: When its first sample is heard, at real time; None to play as fast as it is taken.

    Raises:
        DataError: It cannot be read, or what its header says is wrong.
    """

    def __init__(self, path: Path, rate: int, begins: float | None = None) -> None:
        self.name, self.ended = str(path), False
        self.rate, self.begins, self._given = rate, begins, 0
        self._stack = ExitStack()
        self._file: Any = self._stack.enter_context(opened(path, rate))
        self._total = int(self._file.frames)

    def take(self, now: float) -> Tensor:
        """Return the samples that have come; see :class:`Source`."""
        count = math.ceil(_BLOCK * self.rate)
        if self.begins is not None:
            count = max(0, int((now - self.begins) * self.rate) - self._given)
        count = min(count, self._total - self._given)
        try:
            samples = torch.from_numpy(self._file.read(count, dtype="float32"))
        except Exception as error:  # soundfile's and the system's, of several classes
            raise DataError(self.name, [f"cannot be read: {error}"]) from None
        if len(samples) < count:
            had = self._given + len(samples)
            rule = f"is cut short: has {had} samples, its header says {self._total}"
            raise DataError(self.name, [rule])
        check_finite(self.name, samples, self._given, self.rate)
        self._given += count
        self.ended = self._given == self._total
        return samples

    def due(self, now: float, missing: int) -> float | None:
        """Return in how many seconds so many samples will be there."""
        if self.begins is None:
            return 0.0
        wanted = min(self._given + missing, self._total)
        return max(0.0, self.begins + (wanted + 1) / self.rate - now)

    def stop(self) -> None:
        """Let it end with what was taken."""
        self._total = self._given

    def close(self) -> None:
        """Close the file."""
        self._stack.close()


class PipeSource:
    """Bytes from a pipe: WAV, or samples without a header.

    Without real time, the pipe is read as fast as it is recognized, and whoever writes it waits.

    Args:
        opening: Returns the descriptor to read from; may wait for whoever writes.
        name: For messages.
        rate: Hz of the samples; those of WAV must have it.
        encoding: Of samples without a header.
        timeout: Seconds without a sample after which it counts as stalled.
        real_time: Whether it is heard live: then it must not be ahead of the time.
        wake: Set when something has come.
    """

    def __init__(
        self,
        opening: Callable[[], int],
        name: str,
        rate: int,
        encoding: Encoding,
        timeout: float,
        real_time: bool,
        wake: threading.Event,
    ) -> None:
        self.name, self.ended, self.rate = name, False, rate
        self._reader = EncodingReader(name, rate, encoding)
        self._timeout, self._real_time = timeout, real_time
        self._heard: float | None = None  # when something came last
        self._begun: float | None = None
        self._given = 0
        self._failure: DataError | None = None
        self._left: int | None = None  # reads to take before it ends, once it was stopped
        self._blocks: queue.Queue[bytes | OSError] = queue.Queue(_QUEUED)
        # Reading may block for ever, and must not keep the program from ending.
        thread = threading.Thread(target=self._read, args=(opening, wake), daemon=True)
        thread.start()

    def _read(self, opening: Callable[[], int], wake: threading.Event) -> None:
        block = b" "
        try:
            descriptor = opening()
            while block:
                block = os.read(descriptor, _READ)
                self._blocks.put(block)
                wake.set()
        except OSError as error:
            self._blocks.put(error)
            wake.set()

    def take(self, now: float) -> Tensor:
        """Return the samples that have come; see :class:`Source`."""
        pieces: list[Tensor] = []
        # No more than can have waited, as some writers never let the queue be empty.
        while not self.ended and self._failure is None and len(pieces) < _QUEUED:
            if self._left == 0:
                self.ended = True
                break
            try:
                block = self._blocks.get_nowait()
            except queue.Empty:
                break
            if self._left is not None:
                self._left -= 1
                if not block:  # its writer was stopped too, maybe within a sample
                    continue
            try:
                pieces.append(self._samples(block))
            except DataError as error:
                self._failure = error
                break
            self.ended = not block or self._reader.complete
            self._heard = now
            if not self._real_time:
                break
        if self._failure is not None and not pieces:  # what came before it was taken
            raise self._failure
        samples = torch.cat(pieces) if pieces else torch.zeros(0)
        check_finite(self.name, samples, self._given, self.rate)
        self._given += len(samples)
        self._check_time(now)
        return samples

    def _samples(self, block: bytes | OSError) -> Tensor:
        if isinstance(block, OSError):
            raise DataError(self.name, [f"cannot be read: {block.strerror}"])
        return self._reader.feed(block) if block else self._reader.end()

    def _check_time(self, now: float) -> None:
        self._heard = now if self._heard is None else self._heard
        after = self._given / self.rate
        if not self.ended and now - self._heard > self._timeout:
            rule = f"is stalled: gave nothing for {self._timeout:g} s after {after:.1f} s of audio"
            raise DataError(self.name, [f"{rule}; --timeout says how long to wait"])
        if self._begun is None and self._given:
            self._begun = now
        if self._real_time and self._begun is not None and after > now - self._begun + BACKLOG:
            rule = f"is too fast for real time: gave {after:.1f} s in {now - self._begun:.1f} s"
            remedy = f"is its rate {self.rate} Hz? Without --real-time it waits"
            raise DataError(self.name, [f"{rule}; {remedy}"])

    def due(self, now: float, missing: int) -> float | None:
        """Return None: nobody knows."""
        return 0.0 if not self._blocks.empty() else None

    def stop(self) -> None:
        """Let it end with what was read until now, however much its writer still has."""
        if self._left is None:
            self._left = self._blocks.qsize()

    def close(self) -> None:
        """Take no more; the thread ends with the program."""
        self.ended = True
