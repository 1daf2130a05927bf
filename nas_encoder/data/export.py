"""Writes cuts as ESPnet (Kaldi) data folders and as NeMo manifests.

lhotse's ``export_to_kaldi`` pipes everything but ``.wav`` through ffmpeg and always writes
``segments``; ESPnet reads flac, wav and NIST files itself, and its ``format_wav_scp`` is much
faster without pipes. So cuts that are whole mono files become plain paths, and ``segments`` is
written only where needed.
"""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_lines
from nas_encoder.data.findings import Findings
from nas_encoder.data.manifests import speaker_of, text_of
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)


def write_espnet_dir(cuts: Iterable[Any], folder: str | Path) -> None:
    """Write ``wav.scp``, ``text``, ``utt2spk``, ``spk2utt``, ``utt2dur`` (and ``segments``).

    All files are sorted by bytes, as Kaldi's and ESPnet's checks require. Where sorting by
    utterance would not sort the speakers too, utterance ids are prefixed with the speaker.

    Raises:
        DataError: No cuts, ids with white space, audio that Kaldi files cannot name.
    """
    folder = Path(folder)
    listed = list(cuts)
    subject = f"ESPnet data folder {folder}"
    if not listed:
        raise DataError(subject, ["no utterance to write"])
    findings = Findings(subject)
    speakers = {cut.id: speaker_of(cut) or cut.id for cut in listed}
    for cut in listed:
        for name in (cut.id, speakers[cut.id]):
            if name.split() != [name]:
                findings.add("ids must not hold white space", repr(name))
        source = cut.recording.sources[0]
        if cut.recording.transforms or source.type not in ("file", "command"):
            findings.add("audio must be a file or a command, without transforms", f"'{cut.id}'")
    findings.raise_any()
    ids = _sortable_ids(speakers)
    if len(set(ids.values())) != len(listed):
        raise DataError(subject, ["utterance ids are not unique (with their speakers in front)"])
    files: dict[str, dict[str, str]] = {
        "text": {ids[cut.id]: " ".join(text_of(cut).split()) for cut in listed},
        "utt2spk": {ids[cut.id]: speakers[cut.id] for cut in listed},
        "utt2dur": {ids[cut.id]: f"{cut.duration:.6f}" for cut in listed},
        "spk2utt": _spk2utt(ids, speakers),
    }
    whole = all(_is_whole(cut) for cut in listed)
    if whole:
        files["wav.scp"] = {ids[cut.id]: _location(cut) for cut in listed}
    else:
        files["wav.scp"] = {cut.recording.id: _location(cut) for cut in listed}
        files["segments"] = {
            ids[cut.id]: f"{cut.recording.id} {cut.start:.6f} {cut.end:.6f}" for cut in listed
        }
    if whole:
        (folder / "segments").unlink(missing_ok=True)  # left by an earlier, different export
    for name, content in files.items():
        write_lines(folder / name, (f"{key} {content[key]}".rstrip() for key in sorted(content)))


def write_nemo_manifest(cuts: Iterable[Any], path: str | Path) -> None:
    """Write a NeMo manifest: ``audio_filepath``, ``duration``, ``text``, and what else is known.

    ``utt_id`` and ``speaker`` are ours: NeMo preserves unknown keys, and
    :func:`nas_encoder.data.open_cuts` restores the utterances' names from them.

    Raises:
        DataError: No cuts, or audio that is not a file.
    """
    path = Path(path)
    findings = Findings(f"NeMo manifest {path}")
    rows = []
    for cut in cuts:
        source = cut.recording.sources[0]
        if source.type != "file" or cut.recording.transforms:
            findings.add("NeMo manifests can name audio files only", f"'{cut.id}'")
            continue
        row: dict[str, Any] = {
            "audio_filepath": str(source.source),
            "duration": round(cut.duration, 6),
            "text": text_of(cut),
            "utt_id": cut.id,
        }
        if cut.start > 0:
            row["offset"] = round(cut.start, 6)
        if speaker_of(cut):
            row["speaker"] = speaker_of(cut)
        rows.append(json.dumps(row, ensure_ascii=False))
    if not rows and not findings:
        findings.add("no utterance to write", "cuts")
    findings.raise_any()
    write_lines(path, rows)


def _sortable_ids(speakers: Mapping[str, str]) -> dict[str, str]:
    """Map utterance ids to ids whose order sorts the speakers too."""
    in_order = [speakers[key] for key in sorted(speakers)]
    if in_order == sorted(in_order):
        return {key: key for key in speakers}
    logger.info("utterance ids get their speaker in front: Kaldi wants both sorted alike")
    return {key: f"{speaker}-{key}" for key, speaker in speakers.items()}


def _spk2utt(ids: Mapping[str, str], speakers: Mapping[str, str]) -> dict[str, str]:
    utterances = defaultdict(list)
    for key, speaker in speakers.items():
        utterances[speaker].append(ids[key])
    return {speaker: " ".join(sorted(keys)) for speaker, keys in utterances.items()}


def _is_whole(cut: Any) -> bool:
    return bool(cut.start == 0 and abs(cut.duration - cut.recording.duration) < 1e-3)


def _location(cut: Any) -> str:
    source = cut.recording.sources[0]
    return f"{source.source} |" if source.type == "command" else str(source.source)
