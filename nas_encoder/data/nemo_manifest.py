"""Reads NeMo manifests (one JSON object per line) into lhotse cuts.

Fields, paths and samples are those of NeMo's own reader (``ASRAudioText``, ``AudioSegment``).
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from lhotse import MonoCut
from lhotse.utils import fastcopy

from nas_encoder.common.problems import is_number
from nas_encoder.data.audio import read_recordings, utterance
from nas_encoder.data.findings import Findings

# Audio may be this much shorter than the manifest's rounded duration, in seconds.
_TOLERANCE = 0.05
_AUDIO_KEYS = ("audio_filename", "audio_filepath", "audio_file")  # the first one counts
_LONGEST_RELATIVE = 255  # characters; NeMo does not look for longer paths in the manifest's folder
_UNTAR = "tarred data is not read: unpack it, and write a manifest of its audio files"
_TARRED = re.compile(
    r".*/sharded_manifests/(.*/)?manifest_\d+\.json|(.*/)?tarred_audio_manifest.json"
)


def read_nemo_manifest(
    rows: Iterable[tuple[str, Any]],
    path: Path,
    findings: Findings,
    *,
    jobs: int | None = None,
    require_text: bool = True,
) -> list[tuple[str, MonoCut]]:
    """Read audio, ``duration``, text and, if present, ``offset``, ``speaker`` and ``lang``.

    Args:
        rows: (``file:line``, decoded line) of the manifest.
        path: The manifest.
        findings: Receives the problems; the caller raises.
        jobs: Threads for audio headers.
        require_text: Whether a line without ``text`` is a problem.

    Returns:
        (``file:line``, cut) of each line. A cut's id is ``utt_id``, which our export writes, or
        else the file name without suffix: prefixed with the folder's name if files in several
        folders share it, followed by the line number if several lines name one file.
    """
    good = []
    tarred = _TARRED.fullmatch(os.path.abspath(path)) is not None
    for where, item in rows:
        if _check_row(where, item, tarred, findings):
            text = _text(item, where, findings)
            if text.strip() or not require_text:
                good.append((where, item, _audio_file(_audio_name(item), path), text))
            else:
                findings.add("no text", where)
    stems, pairs = (Counter(name(Path(file)) for _, _, file, _ in good) for name in (_stem, _pair))
    locations: dict[str, tuple[str, str]] = {}
    for where, _, file, _ in good:
        locations.setdefault(file, (file, where))
    recordings = read_recordings(locations, findings, jobs=jobs, plain=True)
    if not recordings and any(path.parent.glob("*.tar")):
        findings.add(f"{_UNTAR}; there are tar files beside it", str(path))
    cuts: list[tuple[str, MonoCut]] = []
    places: dict[tuple[str, float], str] = {}
    for where, item, file, text in good:
        offset, duration = float(item.get("offset") or 0.0), float(item["duration"])
        line = where.rsplit(":", 1)[1]
        if (file, offset) in places:
            findings.add(
                "same audio and offset as an earlier line",
                f"{where} '{file}' (line {places[file, offset]})",
            )
            continue
        places[file, offset] = line
        if file not in recordings:  # already reported
            continue
        recording = recordings[file]
        rate, total = recording.sampling_rate, recording.num_samples
        if max(offset, offset + duration - _TOLERANCE) >= recording.duration:
            findings.add(
                "offset + duration lies beyond the end of the audio",
                f"{where} '{file}' ({offset} + {duration} s of {recording.duration:.3f} s)",
            )
            continue
        first = int(offset * rate)
        last = first + int(duration * rate)
        if first == last:
            findings.add("'duration' must cover a sample", f"{where} (got {duration!r})")
            continue
        stem, pair = _stem(Path(file)), _pair(Path(file))
        key = stem if stems[stem] == 1 else pair if pairs[pair] == 1 else f"{stem}-{int(line):06d}"
        if isinstance(item.get("utt_id"), str) and item["utt_id"].strip():
            key = item["utt_id"]
        speaker, language = item.get("speaker"), item.get("lang")
        cut = utterance(
            key,
            fastcopy(recording, id=key),
            (first, min(last, total)),
            text,
            speaker=None if speaker is None else str(speaker),
            language=language if isinstance(language, str) else None,
        )
        cuts.append((where, cut))
    return cuts


def looks_like_nemo(item: Any) -> bool:
    """Whether a decoded line comes from a NeMo manifest."""
    return isinstance(item, dict) and any(key in item for key in _AUDIO_KEYS)


def _audio_name(item: dict[str, Any]) -> Any:
    return next((item[key] for key in _AUDIO_KEYS if key in item), None)


def _audio_file(name: str, manifest: Path) -> str:
    """Return a path as NeMo resolves it: in the manifest's folder, else as it stands."""
    inside = os.path.join(manifest.parent, name)
    if len(name) < _LONGEST_RELATIVE and not os.path.isabs(name) and os.path.isfile(inside):
        return os.path.abspath(inside)
    return os.path.abspath(os.path.expanduser(name))


def _stem(path: Path) -> str:
    return path.stem


def _pair(path: Path) -> str:
    return f"{path.parent.name}-{path.stem}"


def _text(item: dict[str, Any], where: str, findings: Findings) -> str:
    """Return the text as NeMo finds it: ``text``, else a file, else ``normalized_text``."""
    text = item.get("text", item.get("normalized_text", ""))
    if "text" not in item and "text_filepath" in item:
        try:
            text = Path(item["text_filepath"]).read_text(encoding="utf-8").replace("\n", "")
        except (OSError, TypeError, ValueError) as error:
            findings.add("'text_filepath' cannot be read", f"{where} ({error})")
    return text if isinstance(text, str) else ""


def _check_row(where: str, item: Any, tarred: bool, findings: Findings) -> bool:
    if not isinstance(item, dict):
        findings.add("not a JSON object", where)
        return False
    name, duration, offset = _audio_name(item), item.get("duration"), item.get("offset")
    key = next((key for key in _AUDIO_KEYS if key in item), "audio_filepath")
    checks = [
        (f"'{key}' must be a path", isinstance(name, str) and bool(name), name),
        (_UNTAR, not tarred or "/" in str(name), name),
        ("'duration' must be a number above 0 (seconds)", is_number(duration, 1e-9), duration),
        ("'offset' must be a number of at least 0", offset is None or is_number(offset, 0), offset),
    ]
    for rule, holds, value in checks:
        if not holds:
            findings.add(rule, f"{where} (got {value!r})")
    return all(holds for _, holds, _ in checks)
