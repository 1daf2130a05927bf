"""Finding audio files and reading their headers, many at a time."""

from __future__ import annotations

import io
import os
import shlex
import subprocess
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from lhotse.audio import AudioSource
from tqdm import tqdm

from nas_encoder.data.findings import Findings
from nas_encoder.errors import DataError

_DURATION_TOLERANCE = 0.025  # seconds that a file may differ from its manifest
_DECODERS = ("flac", "cat")  # commands that only turn one file into a stream


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
    locations: Mapping[str, tuple[str, str]],
    folder: Path,
    findings: Findings,
    *,
    jobs: int | None = None,
) -> dict[str, Recording]:
    """Read the headers of audio files.

    Args:
        locations: Recording id -> (a path, or a shell command that ends in ``|`` as in Kaldi and
            ESPnet; ``file:line`` for messages).
        folder: The manifest's folder.
        findings: Receives every location that is missing, unreadable, empty or not mono.
        jobs: Threads; by default one per processor, at most 8.

    Returns:
        id -> recording, in the order given; those with problems are absent.
    """
    recordings: dict[str, Recording] = {}
    with ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda key: _read_one(key, locations[key][0].strip(), folder), locations)
        few, total = len(locations) < 2000, len(locations)
        progress = tqdm(results, total=total, desc="audio headers", unit="file", disable=few)
        for (key, (_, where)), (recording, problem) in zip(
            locations.items(), progress, strict=True
        ):
            if recording is None:
                findings.add(problem, f"{where} '{key}'")
            else:
                recordings[key] = recording
    return recordings


def utterance(
    key: str,
    recording: Recording,
    start: float,
    duration: float,
    text: str,
    speaker: str | None,
    language: str | None = None,
) -> MonoCut:
    """Return a cut with one supervision over its whole length; times in seconds."""
    supervision = SupervisionSegment(
        id=key,
        recording_id=recording.id,
        start=0.0,
        duration=duration,
        text=text,
        speaker=speaker,
        language=language,
    )
    return MonoCut(key, start, duration, 0, [supervision], recording=recording)


def _read_one(key: str, location: str, folder: Path) -> tuple[Recording | None, str]:
    if location.endswith("|"):
        inner = _plain_file(location)
        if inner is None:
            return _read_command(key, location[:-1].strip())
        location = inner
    path = find_audio(location, folder)
    if path is None:
        if ":" in location and location.rsplit(":", 1)[1].isdigit():
            return None, "audio in Kaldi archives (.ark) is not read; point to audio files"
        return None, "the audio file does not exist"
    try:
        recording = Recording.from_file(path, recording_id=key)
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
    return Recording(key, [source], rate, len(samples), len(samples) / rate), ""


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
    rate, length = recording.sampling_rate, recording.num_samples
    if header.samplerate != rate:
        says, has = f"{rate} Hz", f"{header.samplerate} Hz"
    elif abs(header.frames - length) > _DURATION_TOLERANCE * rate:
        says, has = f"{length} samples", f"{header.frames}"
    else:
        return
    raise DataError(subject, [f"the manifest says {says}, {source.source} has {has}"])
