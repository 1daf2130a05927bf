"""Writes cuts as ESPnet (Kaldi) data folders and as NeMo manifests.

lhotse's ``export_to_kaldi`` pipes everything but ``.wav`` through ffmpeg and always writes
``segments``; ESPnet reads flac, wav and NIST files itself, and its ``format_wav_scp`` is much
faster without pipes. So cuts that are whole mono files become plain paths, and ``segments`` is
written only where needed. Times select the very samples of a cut: both toolkits multiply them by
the rate and cut the product off.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from lhotse import MonoCut
from lhotse.utils import compute_num_samples

from nas_encoder.common.documents import write_lines
from nas_encoder.data.findings import Findings
from nas_encoder.data.manifests import language_of, speaker_of, text_of
from nas_encoder.data.splitting import is_unicode
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)

# Between speaker and utterance; the last sorts before all characters that ids have.
_SEPARATORS = ("-", "+", "!")
# How kaldiio would read a path: as a place in an archive, a slice, a command.
_NOT_A_PATH = re.compile(r".*:\s*[-+]?\d+|.*\[.*\].*|\|.*|.*\|", re.DOTALL)


def write_espnet_dir(cuts: Iterable[Any], folder: str | Path) -> None:
    """Write ``wav.scp``, ``text``, ``utt2spk``, ``spk2utt``, ``utt2dur`` (and ``segments``).

    Where several languages are spoken, ``utt2lang`` too.

    All files are sorted by bytes, as Kaldi's and ESPnet's checks require. Where sorting by
    utterance would not sort the speakers too, utterance ids are prefixed with the speaker. An
    utterance without a speaker is its own. Texts lose line breaks, and white space at both ends,
    which such files cannot hold; how many is logged.

    Raises:
        DataError: No cuts, ids that occur twice or hold white space, audio that Kaldi files
            cannot name: one of several channels, changed by lhotse, not a file or a command.
    """
    folder = Path(folder)
    findings = Findings(f"ESPnet data folder {folder}")
    listed = _listed(cuts, findings)
    speakers = {cut.id: speaker_of(cut) or cut.id for cut in listed}
    for name in dict.fromkeys((*speakers, *speakers.values())):
        if name.split() != [name]:
            findings.add("ids must not hold white space", repr(name))
    locations = {cut.id: _kaldi_location(cut, findings) for cut in listed}
    findings.raise_any()
    ids = _sortable_ids(speakers)
    files: dict[str, dict[str, str]] = {
        "text": {ids[cut.id]: _without_breaks(text_of(cut)) for cut in listed},
        "utt2spk": {ids[cut.id]: speakers[cut.id] for cut in listed},
        "utt2dur": {ids[cut.id]: f"{cut.duration:.6f}" for cut in listed},
        "spk2utt": _spk2utt(ids, speakers),
    }
    languages = {cut.id: language_of(cut) for cut in listed}
    (folder / "utt2lang").unlink(missing_ok=True)  # like segments below
    if len(set(languages.values())) > 1 and all(languages.values()):
        files["utt2lang"] = {ids[key]: str(language) for key, language in languages.items()}
    if changed := sum(text_of(cut) != files["text"][ids[cut.id]] for cut in listed):
        logger.warning(
            "%s: %d texts lose line breaks or white space at their ends", folder, changed
        )
    if all(_samples(cut) == (0, cut.recording.num_samples) for cut in listed):
        files["wav.scp"] = {ids[cut.id]: locations[cut.id] for cut in listed}
        (folder / "segments").unlink(missing_ok=True)  # left by an earlier, different export
    else:
        names = _recording_names(listed, locations)
        files["wav.scp"] = {name: location for location, name in names.items()}
        files["segments"] = {
            ids[cut.id]: " ".join((names[locations[cut.id]], *map(repr_of, _times(cut))))
            for cut in listed
        }
    for name, content in files.items():
        write_lines(folder / name, (f"{key} {content[key]}".rstrip() for key in sorted(content)))


def write_nemo_manifest(cuts: Iterable[Any], path: str | Path) -> None:
    """Write a NeMo manifest: ``audio_filepath``, ``duration``, ``text``, and what else is known.

    ``utt_id`` and ``speaker`` are ours: NeMo preserves unknown keys, and
    :func:`nas_encoder.data.open_cuts` restores the utterances' names from them.

    Raises:
        DataError: No cuts, ids that occur twice, or audio that is not a mono file.
    """
    path = Path(path)
    findings = Findings(f"NeMo manifest {path}")
    rows = []
    for cut in _listed(cuts, findings):
        source = _source(cut, findings)
        if source is None:
            continue
        location = os.path.abspath(str(source.source))
        if source.type != "file" or not os.path.isfile(location):
            findings.add("NeMo manifests can name audio files only", f"'{cut.id}'")
            continue
        rate, (start, end) = cut.sampling_rate, _samples(cut)
        row: dict[str, Any] = {
            "audio_filepath": location,
            "duration": seconds_of(end - start, rate),
            "text": text_of(cut),
            "utt_id": cut.id,
        }
        if start > 0:
            row["offset"] = seconds_of(start, rate)
        if speaker_of(cut):
            row["speaker"] = speaker_of(cut)
        if language := language_of(cut):
            row["lang"] = language
        rows.append(json.dumps(row, ensure_ascii=False))
    findings.raise_any()
    write_lines(path, rows)


def seconds_of(samples: int, rate: int) -> float:
    """Return a time that selects just these samples where ``int(time * rate)`` is taken."""
    seconds = round(samples / rate, 6)
    if int(seconds * rate) != samples:
        seconds = samples / rate
    while int(seconds * rate) < samples:
        seconds = math.nextafter(seconds, math.inf)
    return seconds


def _listed(cuts: Iterable[Any], findings: Findings) -> list[Any]:
    """Return the cuts that can be written; find what no file can hold."""
    listed: dict[str, Any] = {}
    for cut in cuts:
        place = ascii(cut.id)
        if not isinstance(cut, MonoCut) or cut.recording is None:
            findings.add("only mono cuts with a recording can be written", place)
        elif len(cut.supervisions) > 1:
            findings.add("one supervision a cut is expected; open_cuts() splits others", place)
        elif not all(map(is_unicode, (cut.id, text_of(cut), speaker_of(cut) or ""))):
            findings.add("id, text and speaker must be valid Unicode", place)
        elif listed.setdefault(cut.id, cut) is not cut:
            findings.add("an id may occur once", place)
    if not listed and not findings:
        findings.add("no utterance to write", "cuts")
    return list(listed.values())


def _source(cut: Any, findings: Findings) -> Any:
    """Return the source of a cut's channel, or None if it is one of several or is changed."""
    recording = cut.recording
    source = next((s for s in recording.sources if cut.channel in s.channels), None)
    if recording.transforms:
        findings.add("audio must not have lhotse's transforms", f"'{cut.id}'")
    elif source is None or len(source.channels) != 1:
        findings.add(
            "one of several channels cannot be named; write mono files first, for example with "
            "lhotse's cuts.save_audios(FOLDER)",
            f"'{cut.id}' (channel {cut.channel})",
        )
    else:
        return source
    return None


def _kaldi_location(cut: Any, findings: Findings) -> str:
    """Return a cut's entry in wav.scp."""
    source = _source(cut, findings)
    if source is None:
        return ""
    if source.type not in ("file", "command"):
        findings.add("audio must be a file or a command", f"'{cut.id}' ({source.type})")
        return ""
    location = str(source.source).strip() + " |"
    wrong = "\n" in location or "\r" in location
    if source.type == "file":
        location = os.path.abspath(str(source.source))
        is_file = os.path.isfile(location)  # and no place in an archive
        wrong = location.split() == [] or location != " ".join(location.splitlines()).strip()
        wrong = wrong or (is_file and _NOT_A_PATH.fullmatch(location) is not None)
    if wrong or not is_unicode(location):
        findings.add("a wav.scp cannot name this audio; give it another path", f"{location!r}")
    return location


def _samples(cut: Any) -> tuple[int, int]:
    """Return the first sample of a cut in its recording, and the first one after it."""
    start = compute_num_samples(cut.start, cut.sampling_rate)
    return start, min(start + cut.num_samples, cut.recording.num_samples)


def _times(cut: Any) -> tuple[float, ...]:
    return tuple(seconds_of(samples, cut.sampling_rate) for samples in _samples(cut))


def repr_of(seconds: float) -> str:
    """Return a time with 6 digits if they suffice, else with all."""
    text = f"{seconds:.6f}"
    return text if float(text) == seconds else repr(seconds)


def _recording_names(cuts: Sequence[Any], locations: Mapping[str, str]) -> dict[str, str]:
    """Return a name for each location: the recording's, as far as it can be one and is free."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    for cut in cuts:
        if locations[cut.id] in names:
            continue
        own = "_".join(str(cut.recording.id).split()) or "recording"
        number, name = 1, own
        while name in taken:
            number += 1
            name = f"{own}-{number}"
        taken.add(name)
        names[locations[cut.id]] = name
    return names


def _without_breaks(text: str) -> str:
    return re.sub(r"\s*[\r\n]\s*", " ", text).strip()


def _sortable_ids(speakers: Mapping[str, str]) -> dict[str, str]:
    """Map utterance ids to ids whose order sorts the speakers too.

    Raises:
        DataError: No separator between speakers and utterances gives such ids.
    """
    ids = {key: key for key in speakers}
    for separator in ("", *_SEPARATORS):
        if separator:
            ids = {key: f"{speaker}{separator}{key}" for key, speaker in speakers.items()}
        in_order = [speakers[key] for key in sorted(speakers, key=lambda key: ids[key])]
        if in_order == sorted(in_order) and len(set(ids.values())) == len(ids):
            if separator:
                logger.info(
                    "utterance ids get their speaker in front: Kaldi wants both sorted alike"
                )
            return ids
    twice = [name for name, count in Counter(ids.values()).items() if count > 1]
    where = f" ({twice[0]!r} twice)" if twice else ""
    raise DataError("utterance ids", [f"no order sorts them and the speakers alike{where}"])


def _spk2utt(ids: Mapping[str, str], speakers: Mapping[str, str]) -> dict[str, str]:
    utterances = defaultdict(list)
    for key, speaker in speakers.items():
        utterances[speaker].append(ids[key])
    return {speaker: " ".join(sorted(keys)) for speaker, keys in utterances.items()}
