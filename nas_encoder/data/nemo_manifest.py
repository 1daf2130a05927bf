"""Reads NeMo manifests (one JSON object per line) into lhotse cuts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lhotse import MonoCut
from lhotse.utils import fastcopy

from nas_encoder.common.problems import is_number
from nas_encoder.data.audio import find_audio, read_recordings, utterance
from nas_encoder.data.findings import Findings

# A header may differ from the manifest's rounded duration by this much, in seconds.
_TOLERANCE = 0.05


def read_nemo_manifest(
    rows: Iterable[tuple[str, Any]],
    folder: Path,
    findings: Findings,
    *,
    jobs: int | None = None,
    require_text: bool = True,
) -> list[tuple[str, MonoCut]]:
    """Read ``audio_filepath``, ``duration``, ``text`` and, if present, offset and speaker.

    Args:
        rows: (``file:line``, decoded line) of the manifest.
        folder: Its folder.
        findings: Receives the problems; the caller raises.
        jobs: Threads for audio headers.
        require_text: Whether a line without ``text`` is a problem.

    Returns:
        (``file:line``, cut) of each line. A cut's id is ``utt_id``, which our export writes, or
        else the file name without suffix: prefixed with the folder's name if files in several
        folders share it, followed by the line number if several lines name one file.
    """
    good = [row for row in rows if _check_row(*row, findings, require_text)]
    stems, pairs = (
        Counter(name(Path(item["audio_filepath"])) for _, item in good) for name in (_stem, _pair)
    )
    locations: dict[str, tuple[str, str]] = {}
    for where, item in good:
        locations.setdefault(item["audio_filepath"], (item["audio_filepath"], where))
    recordings = read_recordings(locations, folder, findings, jobs=jobs)
    cuts: list[tuple[str, MonoCut]] = []
    places: dict[tuple[Path | None, float], str] = {}
    for where, item in good:
        name, start = item["audio_filepath"], float(item.get("offset") or 0.0)
        file = find_audio(name, folder)
        if (file, start) in places:
            findings.add(
                "same audio and offset as an earlier line",
                f"{where} '{name}' (line {places[file, start]})",
            )
            continue
        line = where.rsplit(":", 1)[1]
        places[file, start] = line
        if name not in recordings:  # already reported
            continue
        stem, pair = _stem(Path(name)), _pair(Path(name))
        key = stem if stems[stem] == 1 else pair if pairs[pair] == 1 else f"{stem}-{int(line):06d}"
        if isinstance(item.get("utt_id"), str) and item["utt_id"].strip():
            key = item["utt_id"]
        cut = _cut(key, item, recordings[name], start)
        if cut is None:
            findings.add(
                "offset + duration lies beyond the end of the audio",
                f"{where} '{name}' ({start} + {item['duration']} s of "
                f"{recordings[name].duration:.3f} s)",
            )
        else:
            cuts.append((where, cut))
    return cuts


def looks_like_nemo(item: Any) -> bool:
    """Whether a decoded line comes from a NeMo manifest."""
    return isinstance(item, dict) and ("audio_filepath" in item or "audio_file" in item)


def _stem(path: Path) -> str:
    return path.stem


def _pair(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def _cut(key: str, item: dict[str, Any], recording: Any, start: float) -> MonoCut | None:
    duration = float(item["duration"])
    if start + duration > recording.duration + _TOLERANCE or start >= recording.duration:
        return None
    if start == 0 and abs(duration - recording.duration) <= _TOLERANCE:
        duration = recording.duration
    duration = min(duration, recording.duration - start)
    text, speaker, language = (item.get(name) for name in ("text", "speaker", "lang"))
    return utterance(
        key,
        fastcopy(recording, id=key),
        start,
        duration,
        text or "",
        speaker=None if speaker is None else str(speaker),
        language=language if isinstance(language, str) else None,
    )


def _check_row(where: str, item: Any, findings: Findings, require_text: bool) -> bool:
    if not isinstance(item, dict):
        findings.add("not a JSON object", where)
        return False
    name, duration, offset = (item.get(k) for k in ("audio_filepath", "duration", "offset"))
    checks = [
        ("'audio_filepath' must be a path", isinstance(name, str) and bool(name), name),
        ("'duration' must be a number above 0 (seconds)", is_number(duration, 1e-9), duration),
        ("'offset' must be a number of at least 0", offset is None or is_number(offset, 0), offset),
    ]
    for rule, holds, value in checks:
        if not holds:
            findings.add(rule, f"{where} (got {value!r})")
    text = item.get("text")
    if require_text and (not isinstance(text, str) or not text.strip()):
        findings.add("no text", where)
        return False
    return all(holds for _, holds, _ in checks)
