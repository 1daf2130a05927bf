"""Reads Kaldi and ESPnet data folders into lhotse cuts.

lhotse's own ``load_kaldi_data_dir`` truncates durations to milliseconds, trusts one sampling rate
for all files and reports bad folders by bare assertions. This reader gives the ids, texts and
samples that kaldiio and ESPnet's readers give, and names file and line of what they would refuse.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from pathlib import Path
from unicodedata import normalize

from lhotse import MonoCut

from nas_encoder.data.audio import read_recordings, utterance
from nas_encoder.data.findings import Findings
from nas_encoder.data.sound import ARCHIVE

Lines = dict[str, tuple[str, str]]  # key -> (value, file:line)
_OVERSHOOT = 0.5  # seconds that a segment may end after its recording, as in Kaldi's own tools
# Files that state how long utterances are -> the difference that their rounding explains
_LENGTHS = {"utt2num_samples": 0.0, "utt2dur": 0.1}


def read_kaldi_dir(
    path: Path,
    findings: Findings,
    dropped: Findings,
    *,
    jobs: int | None = None,
    require_text: bool = True,
) -> list[tuple[str, MonoCut]]:
    """Read ``wav.scp``, ``text``, ``utt2spk`` and, if present, ``segments``.

    Args:
        path: The folder.
        findings: Receives the problems; the caller raises.
        dropped: Receives what is left out, clipped, or found where ESPnet would not look.
        jobs: Threads for audio headers.
        require_text: Whether an utterance without a transcript is a problem.

    Returns:
        (``file:line``, cut) of each utterance, in the order of ``wav.scp`` or ``segments``.
    """
    locations = _read_map(path / "wav.scp", findings)
    texts = _read_map(path / "text", findings, empty_ok=True, missing_ok=not require_text)
    speakers = _read_map(path / "utt2spk", findings, missing_ok=True)
    if not locations and not findings:
        findings.add("the file is empty", str(path / "wav.scp"))
    paths = {key: (_found(file, path), where) for key, (file, where) in locations.items()}
    for key, (file, where) in paths.items():
        if file != locations[key][0]:
            rule = "is only in the data folder; ESPnet itself looks in the working directory"
            dropped.add(rule, f"{where} '{key}'")
    recordings = read_recordings(paths, findings, jobs=jobs)
    cuts = []
    heard, used = set(), set()
    composed = {normalize("NFC", key) for key in texts if not key.isascii()}
    for key, recording_id, start, end, where in _segments(path, locations, findings):
        heard.add(key)
        used.add(recording_id)
        if require_text and key not in texts:
            rule = f"the utterance has no line in {path / 'text'}"
            if normalize("NFC", key) in composed:
                rule += " in this Unicode form: normalize the ids of both files alike"
            if texts:
                findings.add(rule, f"{where} '{key}'")
            continue
        recording = recordings.get(recording_id)
        if recording is None:  # already reported
            continue
        rate, total = recording.sampling_rate, recording.num_samples
        latest = recording.duration + _OVERSHOOT
        first = int(min(start, latest) * rate)
        last = total if end == -1 else int(min(end, latest) * rate)
        if last > total:
            last = total
            dropped.add("clipped at the end of its recording", f"{where} '{key}'")
        if end > latest or not 0 <= first < last:
            findings.add(
                "segment must lie inside its recording, end after start",
                f"{where} '{key}' [{start}, {end}] of {recording.duration:.3f} s",
            )
            continue
        text, speaker = texts.get(key, ("", ""))[0], speakers.get(key, (None, ""))[0]
        cuts.append((where, utterance(key, recording, (first, last), text, speaker)))
    for names, kept, name in ((texts, heard, "text"), (locations, used, "wav.scp")):
        for key, (_, where) in names.items():
            if key not in kept:
                dropped.add(f"a line of {name} that no utterance uses", f"{where} '{key}'")
    for name, rounding in _LENGTHS.items():
        _check_lengths(_read_map(path / name, findings, missing_ok=True), cuts, rounding, findings)
    return cuts


def _found(location: str, folder: Path) -> str:
    """Return a location as ESPnet takes it, or in the data folder if it is only there."""
    archive = ARCHIVE.fullmatch(location)
    file = archive[1] if archive and not os.path.isfile(location) else location
    inside = os.path.join(folder, file)
    if location.endswith("|") or os.path.isfile(file) or not os.path.isfile(inside):
        return location
    return os.path.join(folder, location)


def _check_lengths(
    stated: Lines, cuts: list[tuple[str, MonoCut]], rounding: float, findings: Findings
) -> None:
    """Compare cuts with their stated lengths: in samples where nothing is rounded, else seconds."""
    for _, cut in cuts:
        if cut.id not in stated:
            continue
        value, where = stated[cut.id]
        length, unit = (cut.duration, "s") if rounding else (cut.num_samples, "samples")
        try:
            agrees = abs(float(value) - length) <= rounding
        except ValueError:
            agrees = False
        if not agrees:
            file = where.rpartition(":")[0].rpartition("/")[2]
            place = f"{where} '{cut.id}' ({value}; {length:g} {unit} in the audio)"
            findings.add(f"{file} and the audio disagree: is the audio cut short?", place)


def _segments(
    path: Path, locations: Lines, findings: Findings
) -> Iterator[tuple[str, str, float, float, str]]:
    """Yield (utterance, recording, start, end or -1 for the recording's, where)."""
    segments = path / "segments"
    if not segments.is_file():
        for key, (_, where) in locations.items():
            yield key, key, 0.0, -1.0, where
        return
    for key, (value, where) in _read_map(segments, findings).items():
        try:
            recording_id, *times = value.split()
            start, end = map(float, times)
        except ValueError:
            start = end = math.nan
        if not (math.isfinite(start) and math.isfinite(end)):
            findings.add("expected 'utterance recording start end'", f"{where} '{key}'")
        elif recording_id not in locations:
            findings.add("its recording has no line in wav.scp", f"{where} '{key}'")
        else:
            yield key, recording_id, start, end, where


def _read_map(
    path: Path, findings: Findings, *, empty_ok: bool = False, missing_ok: bool = False
) -> Lines:
    """Read ``key value`` lines; return key -> (value, file:line)."""
    if not path.is_file():
        if not missing_ok:
            findings.add("the file does not exist", str(path))
        return {}
    found: Lines = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        findings.add(f"cannot be read: {error}", str(path))
        return {}
    if lines[0].startswith("\ufeff"):
        findings.add("begins with a byte order mark, which would be part of an id", str(path))
    if lines[-1] == "":  # after the last newline
        lines.pop()
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        parts = line.strip().split(maxsplit=1)
        if not parts:
            findings.add("the line is empty", where)
        elif parts[0] in found:
            findings.add(
                "duplicate id",
                f"{where} '{parts[0]}' (first on line {found[parts[0]][1].rsplit(':', 1)[1]})",
            )
        elif len(parts) == 1 and not empty_ok:
            findings.add("a key and a value are expected", f"{where} '{parts[0]}'")
        else:
            found[parts[0]] = (parts[1] if len(parts) == 2 else "", where)
    return found
