"""Aligns recordings into a folder; a run that was stopped goes on where it was."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from nas_encoder import __version__
from nas_encoder.alignment.align import AlignedUtterance, AlignOptions, align
from nas_encoder.alignment.model import CtcModel
from nas_encoder.alignment.recordings import Task
from nas_encoder.alignment.scores import Chunks, columns_of, scores_of
from nas_encoder.alignment.timing import Timing, measure_timing
from nas_encoder.alignment.writing import check_outputs, write_outputs
from nas_encoder.common.documents import differences, write_atomically
from nas_encoder.errors import CheckpointError, DataError
from nas_encoder.training.lock import held

WORK, SETTINGS, DONE, SUMMARY = "work", "settings.json", "done.jsonl", "alignment.json"
_SCORES, _CHUNK = "scores.npy", "scores.json"


def run(
    model: CtcModel,
    tasks: Sequence[Task],
    output: Path,
    options: AlignOptions,
    *,
    chunks: Chunks = Chunks(),  # noqa: B008  it is frozen
    threshold: float | None = None,
    resume: bool = False,
    progress: bool = True,
) -> dict[str, Any]:
    """Align recordings and write what :mod:`~nas_encoder.alignment.writing` lists.

    The scores of a recording lie on disk, in ``work/``, which is removed at the end.

    Args:
        model: The model.
        tasks: The recordings.
        output: The folder; must not exist or be empty, or hold this run if ``resume``.
        options: How to align.
        chunks: How recordings are cut for the model.
        threshold: Utterances of less confidence are left out of the data and listed.
        resume: Whether to go on with what is in the folder.
        progress: Whether to show a progress bar.

    Returns:
        What is in ``alignment.json``: counts, timing, settings, confidences.

    Raises:
        DataError: A text does not fit its audio, audio cannot be read, or its name or an id cannot
            be written (:func:`~nas_encoder.alignment.writing.check_outputs`).
        CheckpointError: The folder holds something else, or a run with other settings.
    """
    check_outputs(tasks)
    timing = measure_timing(model)
    settings = _settings(model, tasks, options, chunks, timing)
    work = output / WORK
    _begin(output, settings, resume)
    with held(output / ".lock", f"alignment {output}"):
        found = dict(_finished(work / DONE))
        with tqdm(
            total=round(sum(task.seconds for task in tasks), 1),
            unit="s",
            desc="aligning",
            disable=None if progress else True,
        ) as bar:
            for task in tasks:
                if task.id in found:
                    bar.update(round(task.seconds, 1))
                    continue
                found[task.id] = _align(model, timing, task, options, chunks, work, bar.update)
                _note(work / DONE, task.id, found[task.id])
        ordered = [(task, found[task.id]) for task in tasks]
        counts = write_outputs(output, ordered, threshold)
        summary = {
            **counts,
            "hours": sum(task.seconds for task in tasks) / 3600,
            "threshold": threshold,
            "frame_ms": 1000 * timing.seconds,
            "timing": asdict(timing),
            "settings": settings,
            "version": __version__,
        }
        write_atomically(
            output / SUMMARY, (json.dumps(summary, indent=2) + "\n").encode(), CheckpointError
        )
        shutil.rmtree(work)
    with suppress(OSError):
        (output / ".lock").unlink()
        (output / ".lock.json").unlink()
    return summary


def _align(
    model: CtcModel,
    timing: Timing,
    task: Task,
    options: AlignOptions,
    chunks: Chunks,
    work: Path,
    show: Callable[[float], object],
) -> list[AlignedUtterance]:
    wanted, columns = columns_of(model, [one for line in task.lines for one in line.classes])
    scores = _scores(model, timing, task, chunks, wanted, work, show)
    subject = f"recording '{task.id}'"
    found = align(scores, task.lines, columns, model, timing, task.seconds, subject, options)
    del scores
    for name in (_CHUNK, _SCORES):  # the note first: it must never speak of other scores
        (work / name).unlink(missing_ok=True)
    return found


def _scores(
    model: CtcModel,
    timing: Timing,
    task: Task,
    chunks: Chunks,
    wanted: Sequence[int],
    work: Path,
    show: Callable[[float], object],
) -> npt.NDArray[np.float32]:
    """Return the scores (T, C), on disk, computing those that a stopped run has left."""
    rows = chunks.of(task.samples, timing)
    shape = (rows[-1][3], len(wanted) + 2)
    done, frames = 0, 0
    with suppress(OSError, ValueError):
        noted = json.loads((work / _CHUNK).read_text())
        if noted["task"] == task.id and (work / _SCORES).is_file():
            done, frames = int(noted["chunks"]), int(noted["frames"])
    mode: Any = "r+" if done else "w+"
    kept = np.lib.format.open_memmap(work / _SCORES, mode=mode, dtype=np.float32, shape=shape)
    if kept.shape != shape:
        raise CheckpointError(str(work / _SCORES), ["is damaged; run without --resume elsewhere"])
    shown = task.seconds * done / len(rows)
    show(shown)
    parts = scores_of(
        model, timing, task.read, task.samples, wanted, f"recording '{task.id}'", chunks, done
    )
    for number, (begin, part) in enumerate(parts, done + 1):
        frames = begin + len(part)
        kept[begin:frames] = part
        kept.flush()
        note = {"task": task.id, "chunks": number, "frames": frames}
        write_atomically(work / _CHUNK, json.dumps(note).encode(), CheckpointError)
        show(task.seconds / len(rows))
    result: npt.NDArray[np.float32] = kept[:frames]
    return result


def _begin(output: Path, settings: dict[str, Any], resume: bool) -> None:
    file = output / WORK / SETTINGS
    subject = f"output folder {output}"
    if resume and file.is_file():
        try:
            before = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise CheckpointError(subject, [f"{file} is damaged: {error}"]) from error
        changed = [
            f"{path}: was {old!r} when the run began, is {new!r}"
            for path, old, new in differences(before, json.loads(json.dumps(settings)))
        ]
        if changed:
            raise CheckpointError(subject, changed)
        return
    if (output / SUMMARY).exists() or (output.is_dir() and any(output.iterdir())):
        what = "a finished alignment" if (output / SUMMARY).exists() else "files"
        remedy = "--resume goes on with it" if file.is_file() else "give another folder"
        raise CheckpointError(subject, [f"holds {what}: {remedy}"])
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(subject, [f"cannot be made: {error.strerror}"]) from error
    write_atomically(file, json.dumps(settings).encode(), CheckpointError)


def _settings(
    model: CtcModel,
    tasks: Sequence[Task],
    options: AlignOptions,
    chunks: Chunks,
    timing: Timing,
) -> dict[str, Any]:
    texts = hashlib.sha256()
    for task in tasks:
        audio = "".join(str(source.source) for source in task.recording.sources)
        size = os.path.getsize(audio) if os.path.isfile(audio) else 0
        rows = [task.id, audio, size, task.first, task.samples]
        texts.update(json.dumps([rows, [asdict(line) for line in task.lines]]).encode())
    return {
        "model": model.source,
        "model_sha256": _sha256(Path(model.source)),
        "data_sha256": texts.hexdigest(),
        "options": asdict(options),
        "chunks": asdict(chunks),
        "timing": asdict(timing),
    }


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _note(path: Path, key: str, found: Sequence[AlignedUtterance]) -> None:
    row = json.dumps({"task": key, "utterances": [one.to_dict() for one in found]})
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(row + "\n")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        raise CheckpointError(str(path), [f"cannot be written: {error.strerror}"]) from error


def _finished(path: Path) -> Iterator[tuple[str, list[AlignedUtterance]]]:
    """Yield the recordings that are done; a kill may have cut the last line short."""
    if not path.is_file():
        return
    whole = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n"):
            break
        whole.append(line)
        try:
            row = json.loads(line)
            yield row["task"], [AlignedUtterance.from_dict(one) for one in row["utterances"]]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(str(path), [f"line {len(whole)} is damaged: {error}"]) from error
    write_atomically(path, "".join(whole).encode(), CheckpointError)
