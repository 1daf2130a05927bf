"""What the readers of corpora share: utterances as they lie on disk, and how they become manifests.

lhotse has recipes for the same corpora. They stop at the first damaged file, pass over missing
ones, and know one release of TIMIT; what we make of a whole corpus is what they make of it (a
test compares them), with their tables of speakers and phones.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from lhotse import RecordingSet, SupervisionSegment, SupervisionSet
from lhotse.supervision import AlignmentItem

from nas_encoder.data.audio import read_recordings
from nas_encoder.data.corpora.options import PrepareOptions
from nas_encoder.data.findings import SHOWN, Findings
from nas_encoder.errors import DataError

Split = tuple[RecordingSet, SupervisionSet]


@dataclass(frozen=True)
class Utterance:
    """An utterance before its audio is opened.

    Attributes:
        audio: Path of its file.
        speaker: Who says it.
        text: What is said.
        gender: ``female``, ``male`` or unknown.
        aligned: Kind of unit (``word``, ``phone``) -> (first sample, sample after the last, unit).
        custom: What else a manifest should hold.
        used: Whether it becomes part of a split, or is only counted.
    """

    audio: Path
    speaker: str
    text: str
    gender: str | None = None
    aligned: Mapping[str, Sequence[tuple[int, int, str]]] = field(default_factory=dict)
    custom: Mapping[str, str] | None = None
    used: bool = True


@dataclass
class Part:
    """A part that was published as a whole, such as ``train-clean-100``.

    Attributes:
        utterances: By id.
        faults: What is there and must not be, or lacks: (rule, place).
    """

    utterances: dict[str, Utterance] = field(default_factory=dict)
    faults: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Count:
    """Size of a part; what is not known is None."""

    utterances: int
    hours: float | None
    speakers: int | None


@dataclass
class Reading:
    """A corpus that was read.

    Attributes:
        splits: Split -> manifests.
        counts: Part -> what was found.
        speakers: Part -> their names.
        examples: Part -> what to name where utterances lack, if the counts say so.
        problems: What a whole corpus would not have, in words.
    """

    splits: dict[str, Split]
    counts: dict[str, Count] = field(default_factory=dict)
    speakers: dict[str, set[str]] = field(default_factory=dict)
    examples: dict[str, list[str]] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


Reader = Callable[[Path, PrepareOptions], Reading]


def read_parts(
    corpus: str,
    language: str,
    parts: Mapping[str, Part],
    splits: Mapping[str, Sequence[str]],
    jobs: int,
) -> Reading:
    """Open the audio of all parts and put them together to splits.

    Args:
        corpus: Its name, for messages.
        language: What is spoken, as lhotse's recipe writes it.
        parts: By name.
        splits: Split -> names of its parts.
        jobs: Threads for audio headers.

    Raises:
        DataError: An utterance is in two parts; nothing is left of a split.
    """
    _refuse_twice(corpus, parts)
    reading = Reading({})
    manifests: dict[str, Split] = {}
    for name, part in parts.items():
        findings = Findings(name)
        for rule, place in part.faults:
            findings.add(rule, place)
        locations = {key: (str(one.audio), str(one.audio)) for key, one in part.utterances.items()}
        recordings = read_recordings(locations, findings, jobs=jobs, plain=True)
        reading.problems += [f"{name}: {line}" for line in findings.problems()]
        found = {key: part.utterances[key] for key in recordings}
        reading.counts[name] = Count(
            utterances=len(found),
            hours=sum(recording.duration for recording in recordings.values()) / 3600,
            speakers=len({one.speaker for one in found.values()}),
        )
        reading.speakers[name] = {one.speaker for one in found.values()}
        used = [key for key in found if found[key].used]
        manifests[name] = (
            RecordingSet.from_recordings(recordings[key] for key in used),
            SupervisionSet.from_segments(
                _segment(key, found[key], language, recordings[key]) for key in used
            ),
        )
    for split, names in splits.items():
        both = [manifests[name] for name in names]
        reading.splits[split] = (
            RecordingSet.from_recordings(one for recordings, _ in both for one in recordings),
            SupervisionSet.from_segments(one for _, segments in both for one in segments),
        )
        if not len(reading.splits[split][0]):
            problems = [f"split '{split}': no utterance is left", *reading.problems]
            raise DataError(f"corpus {corpus}", problems)
    return reading


def _refuse_twice(corpus: str, parts: Mapping[str, Part]) -> None:
    """Raise if parts share an utterance: whichever audio were taken, a text could be another's."""
    findings, owner = Findings(f"corpus {corpus}"), dict[str, str]()
    for name, part in parts.items():
        for key in part.utterances:
            if owner.setdefault(key, name) != name:
                rule = "an utterance may be in one part only; name the parts that you mean"
                findings.add(rule, f"'{key}' in {owner[key]} and {name}")
    findings.raise_any()


def shared_speakers(parts: Mapping[str, Part]) -> list[str]:
    """Return a line for each pair of parts that have speakers in common."""
    speakers = {
        name: {one.speaker for one in part.utterances.values()} for name, part in parts.items()
    }
    lines, names = [], list(speakers)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            if both := sorted(speakers[one] & speakers[other]):
                lines.append(f"{len(both)} speakers are in {one} and in {other}: {some(both)}")
    return lines


def some(names: Iterable[str]) -> str:
    """Return the first names, and how many more there are."""
    listed = list(names)
    more = f" and {len(listed) - SHOWN} more" if len(listed) > SHOWN else ""
    return ", ".join(listed[:SHOWN]) + more


def _segment(key: str, one: Utterance, language: str, recording: object) -> SupervisionSegment:
    rate, duration = recording.sampling_rate, recording.duration  # type: ignore[attr-defined]
    segment = SupervisionSegment(
        id=key,
        recording_id=key,
        start=0.0,
        duration=duration,
        channel=0,
        text=one.text,
        language=language,
        speaker=one.speaker,
        gender=one.gender,
        custom=dict(one.custom) if one.custom else None,
    )
    for kind, units in one.aligned.items():
        items = [AlignmentItem(unit, a / rate, b / rate - a / rate) for a, b, unit in units]
        segment = segment.with_alignment(kind, items)
    return segment


def require(corpus: str, layout: str, problems: Iterable[str]) -> None:
    """Raise problems with a layout, if there are any, and say what it should be."""
    listed = list(problems)
    if listed:
        raise DataError(f"corpus {corpus}", [*listed, f"expected layout: {layout}"])


def read_text(path: Path, findings: Findings) -> list[str]:
    """Return the lines of a text file, without those that are empty; '' if it is unreadable."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        findings.add("cannot be read", f"{path} ({error})")
        return []
    return [line for line in lines if line.strip()]


def archives(folder: Path, names: Iterable[str]) -> list[str]:
    """Return the names of archives that lie in a folder, for a hint that they are packed."""
    wanted = {f"{name}{end}" for name in names for end in (".tar.gz", ".tgz", ".tar", ".zip")}
    return sorted(name for name in os.listdir(folder) if name in wanted)
