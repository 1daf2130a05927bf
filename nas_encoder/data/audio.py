"""Finding audio files and reading their headers, many at a time."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import soundfile
from lhotse import Recording
from lhotse.audio import AudioSource
from tqdm import tqdm

from nas_encoder.data.findings import Findings
from nas_encoder.errors import DataError

_DURATION_TOLERANCE = 0.025  # seconds that a file may differ from its manifest
_DECODERS = ("flac", "cat")  # commands that only turn one file into a stream


@dataclass(frozen=True)
class AudioEntry:
    """One line of a manifest that points at audio.

    Attributes:
        key: Recording id.
        location: A path, or a shell command that ends in ``|`` (Kaldi's pipe).
        where: ``file:line`` for messages.
    """

    key: str
    location: str
    where: str


def find_audio(location: str, folder: Path) -> Path | None:
    """Return the path of an audio file named in a manifest in ``folder``, or None.

    ESPnet's relative paths start at the working directory, NeMo's at the manifest's folder.
    """
    path = os.path.expanduser(location)
    for candidate in (path, os.path.join(folder, path)):
        if os.path.isfile(candidate):  # Path.is_file raises on names that are too long
            return Path(os.path.abspath(candidate))
    return None


def read_recordings(
    entries: Iterable[AudioEntry], folder: Path, findings: Findings, *, jobs: int | None = None
) -> dict[str, Recording]:
    """Read the headers of audio files.

    Args:
        entries: What to read. The shell runs pipes, as in Kaldi and ESPnet.
        folder: The manifest's folder.
        findings: Receives every entry that is missing, unreadable, empty or not mono.
        jobs: Threads; by default one per processor, at most 8.

    Returns:
        key -> recording, in the order of the entries; entries with problems are absent.
    """
    listed = list(entries)
    workers = jobs or min(8, os.cpu_count() or 1)
    recordings: dict[str, Recording] = {}
    with ThreadPoolExecutor(workers) as pool:
        results = pool.map(lambda entry: _read_one(entry, folder), listed)
        progress = tqdm(
            results,
            total=len(listed),
            desc="audio headers",
            unit="file",
            disable=len(listed) < 2000,
        )
        for entry, (recording, problem) in zip(listed, progress, strict=True):
            if recording is None:
                findings.add(problem, f"{entry.where} '{entry.key}'")
            else:
                recordings[entry.key] = recording
    return recordings


def _read_one(entry: AudioEntry, folder: Path) -> tuple[Recording | None, str]:
    location = entry.location.strip()
    if location.endswith("|"):
        inner = _plain_file(location)
        if inner is None:
            return _read_command(entry.key, location[:-1].strip())
        location = inner
    path = find_audio(location, folder)
    if path is None:
        if ":" in location and location.rsplit(":", 1)[1].isdigit():
            return None, "audio in Kaldi archives (.ark) is not read; point to audio files"
        return None, "the audio file does not exist"
    try:
        recording = Recording.from_file(path, recording_id=entry.key)
    except Exception as error:  # lhotse tries several decoders; each has its own error types
        lines = str(error).splitlines() or [type(error).__name__]
        return None, f"the audio header cannot be read ({type(error).__name__}: {lines[0][:120]})"
    if recording.num_samples < 1:
        return None, "the audio file holds no samples"
    if recording.num_channels != 1:
        return None, f"audio must be mono, it has {recording.num_channels} channels"
    return recording, ""


def _plain_file(command: str) -> str | None:
    """Return FILE of ``flac -c -d -s FILE |`` and the like, which need no process."""
    try:
        words = shlex.split(command[:-1])
    except ValueError:
        return None
    files = [word for word in words[1:] if not word.startswith("-")]
    plain = words and os.path.basename(words[0]) in _DECODERS and len(files) == 1
    return files[0] if plain and not set(command[:-1]) & set("|;&<>$`") else None


def _read_command(key: str, command: str) -> tuple[Recording | None, str]:
    done = subprocess.run(command, shell=True, capture_output=True, check=False)
    try:
        samples, rate = soundfile.read(io.BytesIO(done.stdout), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError:
        message = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["no audio"]
        return None, f"its command failed with status {done.returncode} ({message[0][:120]})"
    if len(samples) < 1 or samples.shape[1] != 1:
        return None, f"its command must give mono audio, gave {samples.shape[::-1]}"
    source = AudioSource(type="command", channels=[0], source=command)
    recording = Recording(
        id=key,
        sources=[source],
        sampling_rate=rate,
        num_samples=len(samples),
        duration=len(samples) / rate,
    )
    return recording, ""


def missing_sources(recordings: Mapping[str, Recording]) -> list[str]:
    """Return the keys of recordings with a missing file."""
    return [
        key
        for key, recording in recordings.items()
        if any(s.type == "file" and not os.path.isfile(s.source) for s in recording.sources)
    ]


def audio_source(cut: Any) -> str:
    """Return where a cut's audio is, for messages."""
    recording = getattr(cut, "recording", None)
    if recording is None or not recording.sources:
        return "(no recording)"
    return str(recording.sources[0].source)


def check_header(cut: Any, subject: str) -> None:
    """Compare a file with its manifest.

    lhotse ignores the file's rate and pads a truncated file with up to half a second of
    reflected audio.

    Raises:
        DataError: Rate or length differ.
    """
    recording = cut.recording
    source = recording.sources[0]
    if source.type != "file" or recording.transforms:
        return
    try:
        header = soundfile.info(str(source.source))
    except (soundfile.LibsndfileError, OSError):
        return  # missing or not a libsndfile format: reading it will report that
    if header.samplerate != recording.sampling_rate:
        raise DataError(
            subject,
            [
                f"the manifest says {recording.sampling_rate} Hz, {source.source} has "
                f"{header.samplerate} Hz"
            ],
        )
    if abs(header.frames - recording.num_samples) > _DURATION_TOLERANCE * header.samplerate:
        raise DataError(
            subject,
            [
                f"the manifest says {recording.num_samples} samples, {source.source} has "
                f"{header.frames}"
            ],
        )
