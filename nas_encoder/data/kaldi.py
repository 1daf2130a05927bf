"""Reads Kaldi and ESPnet data folders into lhotse cuts.

lhotse's own ``load_kaldi_data_dir`` truncates durations to milliseconds, trusts one sampling rate
for all files and reports bad folders by bare assertions; this reader builds the same lhotse
objects from the audio headers and names file and line.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from lhotse import MonoCut

from nas_encoder.data.audio import read_recordings, utterance
from nas_encoder.data.findings import Findings


def read_kaldi_dir(
    path: Path, findings: Findings, *, jobs: int | None = None, require_text: bool = True
) -> list[tuple[str, MonoCut]]:
    """Read ``wav.scp``, ``text``, ``utt2spk`` and, if present, ``segments``.

    Args:
        path: The folder.
        findings: Receives the problems; the caller raises.
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
    recordings = read_recordings(locations, path, findings, jobs=jobs)
    cuts = []
    for key, recording_id, start, end, where in _segments(path, locations, findings):
        if require_text and key not in texts:
            if texts:
                findings.add(f"the utterance has no line in {path / 'text'}", f"{where} '{key}'")
            continue
        recording = recordings.get(recording_id)
        if recording is None:  # already reported
            continue
        end = recording.duration if end is None else end
        if not 0 <= start < end <= recording.duration + 0.01:
            findings.add(
                "segment must lie inside its recording, end after start",
                f"{where} '{key}' [{start}, {end}] of {recording.duration:.3f} s",
            )
            continue
        text, speaker = texts.get(key, ("", ""))[0], speakers.get(key, (None, ""))[0]
        duration = min(end, recording.duration) - start
        cuts.append((where, utterance(key, recording, start, duration, text, speaker)))
    return cuts


def _segments(
    path: Path, locations: dict[str, tuple[str, str]], findings: Findings
) -> Iterator[tuple[str, str, float, float | None, str]]:
    """Yield (utterance, recording, start, end or None for the whole recording, where)."""
    segments = path / "segments"
    if not segments.is_file():
        for key, (_, where) in locations.items():
            yield key, key, 0.0, None, where
        return
    for key, (value, where) in _read_map(segments, findings).items():
        parts = value.split()
        try:
            recording_id, start, end = parts[0], float(parts[1]), float(parts[2])
        except (IndexError, ValueError):
            findings.add("expected 'utterance recording start end'", f"{where} '{key}'")
            continue
        if recording_id not in locations:
            findings.add("its recording has no line in wav.scp", f"{where} '{key}'")
            continue
        yield key, recording_id, start, None if end == -1 else end, where


def _read_map(
    path: Path, findings: Findings, *, empty_ok: bool = False, missing_ok: bool = False
) -> dict[str, tuple[str, str]]:
    """Read ``key value`` lines; return key -> (value, file:line)."""
    if not path.is_file():
        if not missing_ok:
            findings.add("the file does not exist", str(path))
        return {}
    found: dict[str, tuple[str, str]] = {}
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        findings.add(f"cannot be read: {error}", str(path))
        return {}
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
