"""Recordings and utterances: the headers of many sounds, and cuts of them."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import soundfile
from lhotse import MonoCut, Recording, SupervisionSegment
from tqdm import tqdm

from nas_encoder.common.headers import shortage
from nas_encoder.common.problems import one_line
from nas_encoder.data.findings import Findings
from nas_encoder.data.sound import ARCHIVE, Sound, UnusableSoundError
from nas_encoder.errors import DataError

_DURATION_TOLERANCE = 0.025  # seconds that a file may differ from its manifest
_FLAC = {"--stdout": "c", "--decode": "d", "--silent": "s"}


def read_recordings(
    locations: Mapping[str, tuple[str, str]],
    findings: Findings,
    *,
    jobs: int | None = None,
    plain: bool = False,
) -> dict[str, Recording]:
    """Read the headers of audio files.

    Args:
        locations: Recording id -> (where its audio is; ``file:line`` for messages).
        findings: Receives every location that is missing, unreadable, empty or not mono.
        jobs: Threads; by default one per processor, at most 8.
        plain: Whether all are paths of files, as in NeMo; if not, they may also be
            ``ARCHIVE:OFFSET``, or a shell command that ends in ``|``, as in Kaldi and ESPnet.

    Returns:
        id -> recording, in the order given; those with problems are absent.
    """
    recordings: dict[str, Recording] = {}
    with ThreadPoolExecutor(jobs or min(8, os.cpu_count() or 1)) as pool:
        results = pool.map(lambda key: _read_one(key, locations[key][0], plain), locations)
        few, total = len(locations) < 2000, len(locations)
        progress = tqdm(results, total=total, desc="audio headers", unit="file", disable=few)
        for (key, (_, where)), found in zip(locations.items(), progress, strict=True):
            if isinstance(found, str):
                findings.add(found, f"{where} '{key}'")
            else:
                recordings[key] = found
    return recordings


def utterance(
    key: str,
    recording: Recording,
    samples: tuple[int, int],
    text: str,
    speaker: str | None,
    language: str | None = None,
) -> MonoCut:
    """Return a cut of samples ``first`` to before ``last``, with one supervision over all of it."""
    rate, (first, last) = recording.sampling_rate, samples
    start, duration = first / rate, (last - first) / rate
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


def _read_one(key: str, location: str, plain: bool) -> Recording | str:
    """Return a recording, or why there is none."""
    kind, source = "file", location
    place = ARCHIVE.fullmatch(location)
    if plain:
        if not os.path.isfile(location):
            return "the audio file does not exist"
    elif location.endswith("|"):
        kind, source = _without_process(location[:-1].strip())
    elif re.search(r"\[[\d:,]*\]$", location):
        return "ranges of samples ('[first:last]') are not read"
    elif place and os.path.isfile(location) and os.path.isfile(place[1]):
        return f"is a file, and by Kaldi's rules also a place in the file {place[1]}: rename one"
    elif len(location.split()) > 1 and all(map(os.path.isfile, location.split())):
        return "several files for one utterance (its channels) are not read: mix them first"
    try:
        sound = Sound.opened(
            kind, os.path.abspath(source) if kind == "file" else source, seeks=plain
        )
    except UnusableSoundError as error:
        missing = isinstance(error.__cause__, FileNotFoundError) and not os.path.isabs(source)
        return f"{error} (paths start at {os.getcwd()})" if missing else str(error)
    return Recording(key, [sound], sound.rate, sound.samples, sound.samples / sound.rate)


def _without_process(command: str) -> tuple[str, str]:
    """Return (kind, source): the file, of a command that only copies it or decodes it as flac.

    Anything else about the command, an option or a character that the shell might interpret, and
    the shell runs it.
    """
    plain = not set(command) & set("|;&<>$`*?[]{}()~#!\\\n")
    try:
        name, *options, path = shlex.split(command) if plain else []
    except ValueError:  # fewer words, or a quote without its end
        return "command", command
    if not os.path.isfile(path) or path.startswith("-"):
        return "command", command
    letters = [_FLAC.get(word, word[1:] if re.match("-.", word) else "?") for word in options]
    decodes = name == "flac" and {*"cd"} <= {*"".join(letters)} <= {*"cds"}
    if decodes:
        with open(path, "rb") as file:
            decodes = file.read(4) == b"fLaC"
    return ("file", path) if decodes or (name == "cat" and not options) else ("command", command)


def check_header(cut: Any, subject: str) -> None:
    """Compare a file with its header and its lhotse manifest.

    lhotse ignores the file's rate and pads a truncated file with up to half a second of
    reflected audio. (A :class:`Sound` checks itself.)

    Raises:
        DataError: Rate or length differ, or the header promises more than the file holds.
    """
    recording = cut.recording
    source = recording.sources[0]
    if source.type != "file" or recording.transforms or isinstance(source, Sound):
        return
    try:
        with soundfile.SoundFile(source.source) as header:
            short = shortage(header, source.source)
    # Missing, or not a format that libsndfile knows: reading it will report that.
    except (soundfile.LibsndfileError, OSError, TypeError):
        return
    if short:
        raise DataError(subject, [f"{source.source}: {short}"])
    rate, length = recording.sampling_rate, recording.num_samples
    if header.samplerate != rate:
        says, has = f"{rate} Hz", f"{header.samplerate} Hz"
    elif abs(header.frames - length) > _DURATION_TOLERANCE * rate:
        says, has = f"{length} samples", f"{header.frames}"
    else:
        return
    raise DataError(subject, [f"the manifest says {says}, {source.source} has {has}"])


def why_unread(source: Any, error: BaseException) -> str:
    """Return why lhotse failed to read a source: by libsndfile's words if that cannot either."""
    if source.type == "file" and not isinstance(source, Sound):
        try:
            Sound.opened("file", source.source)
        except UnusableSoundError as reason:
            return str(reason)
    # lhotse lists a reason for each decoder, and then the whole cut.
    return one_line(str(error).partition("[extra info]")[0], 500) or type(error).__name__
