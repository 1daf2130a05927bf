"""What is to be aligned: recordings with their texts, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from lhotse import Recording

from nas_encoder.alignment.model import CtcModel
from nas_encoder.alignment.texts import Line, read_lines
from nas_encoder.common.problems import one_line
from nas_encoder.data import open_cuts
from nas_encoder.data.audio import read_recordings
from nas_encoder.data.findings import Findings
from nas_encoder.data.manifests import speaker_of, text_of
from nas_encoder.errors import DataError


@dataclass(frozen=True)
class Task:
    """A recording, or a part of it, and what is said in it.

    Attributes:
        id: Its name.
        recording: Where the audio is.
        first: First sample.
        samples: Number of samples.
        lines: The utterances, in order.
    """

    id: str
    recording: Recording
    first: int
    samples: int
    lines: tuple[Line, ...]

    @property
    def seconds(self) -> float:
        """Its duration."""
        return self.samples / float(self.recording.sampling_rate)

    def read(self, first: int, count: int) -> npt.NDArray[np.float32]:
        """Return ``count`` samples (N,) from ``first`` on.

        Raises:
            DataError: The audio cannot be read, or ends before its header says.
        """
        rate = self.recording.sampling_rate
        try:
            audio: Any = self.recording.load_audio(
                offset=(self.first + first) / rate, duration=count / rate
            )
        except Exception as error:  # whatever a decoder raises
            rule = f"cannot be read: {one_line(error)}"
            raise DataError(f"recording '{self.id}'", [rule]) from error
        return np.ascontiguousarray(audio[0, :count], np.float32)


Texts = Iterable[tuple[str, str, str, str | None]]


def tasks_of_files(
    model: CtcModel, pairs: Iterable[tuple[Path, Path]], *, with_ids: bool, case: str
) -> tuple[list[Task], int]:
    """Return the tasks of audio files with a text file each, one utterance a line.

    Args:
        model: The model.
        pairs: Audio and text of each recording.
        with_ids: Whether a line begins with the utterance's id (Kaldi's ``text``); otherwise ids
            are the audio's name, with "_" for white space, and a number.
        case: See :func:`~nas_encoder.alignment.texts.read_lines`.

    Raises:
        DataError: A file cannot be read, is not mono or has another sampling rate than the model;
            or as ``read_lines``. All problems are listed.
    """
    findings, listed = Findings("recordings"), list(pairs)
    stems = [audio.stem for audio, _ in listed]
    names = [
        stem if stems.count(stem) == 1 else f"{audio.parent.name}-{stem}"
        for stem, (audio, _) in zip(stems, listed, strict=True)
    ]
    keys = ["_".join(name.split()) for name in names]  # ids hold no white space
    for key, (audio, _) in zip(keys, listed, strict=True):
        if keys.count(key) > 1:
            findings.add("two recordings of one name: rename one", str(audio))
    findings.raise_any()
    locations = {
        key: (str(audio), str(audio)) for key, (audio, _) in zip(keys, listed, strict=True)
    }
    recordings = read_recordings(locations, findings)
    rows: list[tuple[str, str, str, str | None]] = []
    owners: list[str] = []
    for key, (_, text) in zip(keys, listed, strict=True):
        new = list(_rows(text, key, with_ids, findings))
        rows += new
        owners += [key] * len(new)
    for key, recording in recordings.items():
        _check_audio(recording, locations[key][1], model, findings)
    findings.raise_any()
    lines, changed = read_lines(model, rows, "texts", case)
    tasks = []
    for key in keys:
        own = tuple(line for line, owner in zip(lines, owners, strict=True) if owner == key)
        recording = recordings[key]
        tasks.append(Task(key, recording, 0, recording.num_samples, own))
    return tasks, changed


def tasks_of_cuts(
    model: CtcModel, source: str, *, split: str | None, case: str
) -> tuple[list[Task], int]:
    """Return the tasks of utterances with their own audio, each to be aligned by itself.

    Args:
        model: The model.
        source: Whatever :func:`~nas_encoder.data.manifests.open_cuts` opens.
        split: Which part of a prepared folder.
        case: See :func:`~nas_encoder.alignment.texts.read_lines`.

    Raises:
        DataError: As :func:`tasks_of_files`.
    """
    cuts = list(open_cuts(source, split=split))
    findings = Findings(f"data {source}")
    for cut in cuts:
        _check_audio(cut.recording, f"'{cut.id}'", model, findings)
    findings.raise_any()
    rows = ((f"'{cut.id}'", cut.id, text_of(cut), speaker_of(cut)) for cut in cuts)
    lines, changed = read_lines(model, rows, f"data {source}", case)
    tasks = []
    for cut, line in zip(cuts, lines, strict=True):
        first = round(cut.start * cut.sampling_rate)
        tasks.append(Task(cut.id, cut.recording, first, cut.num_samples, (line,)))
    return tasks, changed


def read_pairs(path: Path) -> list[tuple[Path, Path]]:
    """Read a list of recordings: audio and text file in each line, a tab between them.

    Raises:
        DataError: It cannot be read or has other lines; all are listed.
    """
    findings, pairs = Findings(str(path)), []
    lines = _lines_of(path, findings)
    for number, line in enumerate(lines or (), 1):
        names = line.split("\t")
        if len(names) != 2 or not all(map(str.strip, names)):
            findings.add("expected 'AUDIO<tab>TEXT'", f"{path}:{number}")
        else:
            audio, text = (path.parent / name.strip() for name in names)  # absolute ones stay
            pairs.append((audio, text))
    if lines == []:
        findings.add("names no recording", str(path))
    findings.raise_any()
    return pairs


def _lines_of(path: Path, findings: Findings) -> list[str] | None:
    """Return the lines of a file without empty ones at its end; None if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        findings.add(f"cannot be read: {error.strerror}", str(path))
        return None
    except UnicodeDecodeError as error:
        findings.add(f"is no UTF-8 text: {error.reason} at byte {error.start}", str(path))
        return None
    while lines and not lines[-1].strip():
        lines.pop()
    return lines


def _rows(path: Path, key: str, with_ids: bool, findings: Findings) -> Texts:
    lines = _lines_of(path, findings)
    if lines is None:
        return
    if not lines:
        findings.add("holds no text", str(path))
    width = max(4, len(str(len(lines))))
    for number, line in enumerate(lines, 1):
        where = f"{path}:{number}"
        if with_ids:
            name, text = [*line.split(maxsplit=1), "", ""][:2]
            yield where, name, text, None
        else:
            yield where, f"{key}-{number:0{width}d}", line, None


def _check_audio(recording: Recording, where: str, model: CtcModel, findings: Findings) -> None:
    if recording.sampling_rate != model.sampling_rate:
        findings.add(
            f"the model takes {model.sampling_rate} Hz: convert it, for example with "
            f"`sox IN -r {model.sampling_rate} OUT`",
            f"{where} ({recording.sampling_rate} Hz)",
        )
    if recording.num_channels != 1:
        findings.add("must be mono", f"{where} ({recording.num_channels} channels)")


Show = Callable[[float], object]
"""Told the seconds of audio that are done since the last call."""
