"""Transcripts of NeMo manifests."""

from __future__ import annotations

import json
from pathlib import Path

from nas_encoder.errors import DataError


def texts_of(path: Path) -> dict[str, str]:
    """Return the texts of a manifest by ``utt_id``.

    Raises:
        DataError: It cannot be read, lacks ids or texts, or has an id twice.
    """
    found: dict[str, str] = {}
    problems = []
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(str(path), [f"cannot be read: {error}"]) from None
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            key, text = str(row["utt_id"]), str(row["text"])
        except (ValueError, KeyError, TypeError) as error:
            problems.append(f"line {number}: must hold utt_id and text: {error!r}")
            continue
        if key in found:
            problems.append(f"line {number}: utterance '{key}' is there twice")
        found[key] = " ".join(text.split())
    if not found and not problems:
        problems.append("holds no utterance")
    if problems:
        raise DataError(str(path), problems)
    return found
