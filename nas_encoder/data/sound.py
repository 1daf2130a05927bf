"""One sound, as ESPnet and NeMo read it: by libsndfile, the whole of it or a reason why not."""

from __future__ import annotations

import io
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import IO

import numpy as np
import numpy.typing as npt
import soundfile
from lhotse.audio import AudioSource
from lhotse.audio.utils import AudioLoadingError, VideoInfo

from nas_encoder.common.headers import Data, shortage, why_unreadable

ARCHIVE = re.compile(r"(.+):(\d+)", re.DOTALL)  # Kaldi's FILE:OFFSET


class UnusableSoundError(AudioLoadingError):  # type: ignore[misc]  # lhotse has no types
    """Why a sound cannot be used, in words that fit after its place."""


class Sound(AudioSource):  # type: ignore[misc]
    """An audio source that is read as ESPnet and NeMo read it.

    lhotse's own class decodes some formats by other programs, ignores the exit status of commands
    and pads what is cut short. Saved in a manifest, this one becomes a plain source.

    Args:
        type: ``file`` (a path, or ``ARCHIVE:OFFSET`` of Kaldi) or ``command`` (of the shell).
        channels: The channels, from 0.
        source: Path or command.
        video: None.
        rate: Sampling rate in Hz that is expected; 0 for any.
        samples: Number of samples expected; 0 for any.
        seeks: Whether lossy audio is decoded as NeMo does it, from where a part starts, and not as
            ESPnet does it, from the beginning after a seek; the last bits of mp3 depend on it.
    """

    def __init__(
        self,
        type: str,
        channels: list[int],
        source: str,
        video: VideoInfo | None = None,
        rate: int = 0,
        samples: int = 0,
        seeks: bool = False,
    ) -> None:
        super().__init__(type, channels, source, video)
        self.rate, self.samples, self.seeks = rate, samples, seeks

    @classmethod
    def opened(cls, kind: str, source: str, seeks: bool = False) -> Sound:
        """Read the header, or the output of a command, of mono audio.

        Raises:
            UnusableSoundError: There is no audio, less than the header promises, or not mono.
        """
        with _opened(kind, source) as file:
            if file.channels != 1:
                raise UnusableSoundError(f"audio must be mono, it has {file.channels} channels")
            if kind == "command":  # its output is at hand, so that all of it can be decoded
                _read(file, 0, file.frames)
            elif file.format == "FLAC":  # its header is no help, but its end is found quickly
                _read(file, file.frames - 1, 1)
            return cls(kind, [0], source, None, file.samplerate, file.frames, seeks)

    def load_audio(
        self,
        offset: float = 0.0,
        duration: float | None = None,
        force_opus_sampling_rate: int | None = None,
    ) -> npt.NDArray[np.float32]:
        """Return samples (N,), or (channels, N), in [-1, 1].

        Args:
            offset: Start in seconds, rounded to a sample.
            duration: Length in seconds, rounded to a sample; None is the rest.
            force_opus_sampling_rate: Ignored: libsndfile decodes at the file's own rate.

        Raises:
            UnusableSoundError: The audio is not what it was when it was opened, or is cut short.
        """
        with _opened(self.type, self.source) as file:
            if self.rate not in (0, file.samplerate):
                raise UnusableSoundError(_changed(self.source, self.rate, file.samplerate, "Hz"))
            if self.samples not in (0, file.frames):
                raise UnusableSoundError(
                    _changed(self.source, self.samples, file.frames, "samples")
                )
            start = min(round(offset * file.samplerate), file.frames)
            rest = file.frames - start
            count = rest if duration is None else min(rest, round(duration * file.samplerate))
            if file.format in ("MP3", "OGG") and not self.seeks:
                return _read(file, 0, start + count)[start:].T
            return _read(file, start, count, seek=start > 0 or not self.seeks).T


def _changed(source: str, before: int, now: int, unit: str) -> str:
    return f"the manifest says {before} {unit}, {source} has {now} {unit}"


@contextmanager
def _opened(kind: str, source: str) -> Iterator[soundfile.SoundFile]:
    """Open a sound that holds as much as its header promises."""
    try:
        with _data_of(kind, source) as data:
            try:
                file = soundfile.SoundFile(data)
            # TypeError: soundfile asks for the format of .raw files.
            except (soundfile.LibsndfileError, TypeError) as error:
                raise UnusableSoundError(why_unreadable(data, error)) from None
            with file:
                short = shortage(file, data)
                if short:
                    raise UnusableSoundError(short)
                yield file
    except FileNotFoundError as error:
        raise UnusableSoundError("the audio file does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL character in the path
        reason = getattr(error, "strerror", None) or error
        raise UnusableSoundError(f"the audio file cannot be opened: {reason}") from error


def _read(
    file: soundfile.SoundFile, start: int, count: int, seek: bool = True
) -> npt.NDArray[np.float32]:
    try:
        if seek:
            file.seek(start)
        samples: npt.NDArray[np.float32] = file.read(count, dtype="float32")
    except soundfile.LibsndfileError as error:
        raise UnusableSoundError(f"is damaged or cut short: {error}") from None
    if len(samples) < count:
        raise UnusableSoundError(
            f"is cut short: {start + len(samples)} of {file.frames} samples can be decoded"
        )
    return samples


# -- bytes --------------------------------------------------------------------------------------


def _data_of(kind: str, source: str) -> AbstractContextManager[Data]:
    if kind == "command":
        return io.BytesIO(_output(source))
    place = ARCHIVE.fullmatch(source)
    if place and not os.path.isfile(source):
        return _archived(place[1], int(place[2]))
    if not os.path.exists(source):
        raise FileNotFoundError
    return nullcontext(source)


def _output(command: str) -> bytes:
    """Return the output of a shell command that succeeds: if not, it may be cut short."""
    done = subprocess.run(
        command, shell=True, stdin=subprocess.DEVNULL, capture_output=True, check=False
    )
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no message"]
        raise UnusableSoundError(f"its command failed with status {done.returncode} ({said[0]})")
    return done.stdout


class _Part(io.RawIOBase):
    """Bytes ``start`` to ``end`` of a file, as a file."""

    def __init__(self, file: IO[bytes], start: int, end: int) -> None:
        self._file, self._start, self._end = file, start, end
        file.seek(start)

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: self._start, os.SEEK_CUR: self._file.tell(), os.SEEK_END: self._end}
        return self._file.seek(max(base[whence] + offset, self._start)) - self._start

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        room = max(min(len(buffer), self._end - self._file.tell()), 0)
        return self._file.readinto(buffer[:room])  # type: ignore[attr-defined, no-any-return]

    def close(self) -> None:
        self._file.close()
        super().close()


def _archived(path: str, offset: int) -> IO[bytes]:
    """Return an entry of a Kaldi archive; its audio is wav, or anything behind a length."""
    file = open(path, "rb")
    end = file.seek(0, os.SEEK_END)
    file.seek(offset)
    head = file.read(16)
    if head[:4] == b"RIFF":
        start, size = offset, int.from_bytes(head[4:8], "little") + 8
    elif head[:4] == b"fLaC":
        start, size = offset, end - offset
    elif head[:5] == b"AUDIO":
        start = offset + 6 + head[5]
        size = int.from_bytes(head[6 : 6 + head[5]], "little")
    else:
        file.close()
        raise UnusableSoundError("the archive holds no audio there (features, or another offset)")
    if start + size > end:
        file.close()
        raise UnusableSoundError(
            f"the archive is cut short: {start + size} bytes are needed, it has {end}"
        )
    return io.BufferedReader(_Part(file, start, start + size))
