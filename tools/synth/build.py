"""Makes a corpus: speaks every utterance of a plan, in parallel, and describes the result."""

from __future__ import annotations

import hashlib
import importlib.metadata
import multiprocessing
import multiprocessing.connection
import os
import platform
import sys
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from nas_encoder.errors import DataError
from tools.synth.audio import SAMPLE_RATE, Conditions, frame_count, record
from tools.synth.corpus import Plan, Request, Utterance
from tools.synth.espeak import Espeak, SpeechError, Voice
from tools.synth.layouts import LAYOUTS
from tools.synth.layouts.base import NOTICE
from tools.synth.plan import make_plan
from tools.synth.workspace import finished, note, publish, read_notes, workspace

SUBSAMPLING = 4
"""Frames per output frame of a CTC encoder, for counting infeasible utterances."""

PACKAGES = ("espeakng-loader", "lhotse", "numpy", "pypinyin", "scipy", "soundfile")
RATE_JITTER = 4
"""Words per minute by which a speaker's rate varies between utterances."""


def build(
    request: Request, output: Path, jobs: int, progress: bool = True
) -> tuple[dict[str, Any], bool]:
    """Make the requested corpus, unless it exists.

    Args:
        request: The corpus to make.
        output: Its folder; must not exist, be empty, or hold this very corpus.
        jobs: Number of processes; does not influence the result.
        progress: Whether to show a progress bar.

    Returns:
        The corpus's manifest, and whether anything had to be made.

    Raises:
        DataError: The request cannot be met, or the folder holds something else.
        SpeechError: espeak-ng fails.
    """
    if jobs < 1:
        raise DataError("corpus arguments", [f"--jobs: must be at least 1, got {jobs}"])
    output = Path(os.path.abspath(output))
    layout = LAYOUTS[request.layout]
    plan = make_plan(request, layout)
    existing = finished(output, request.to_dict())
    if existing is not None:
        return existing, False
    with workspace(output, request.to_dict()) as root:
        noted = read_notes(root)
        notes = {
            utterance.id: noted[utterance.id]
            for utterance in plan.utterances
            if utterance.id in noted
            and (path := root / utterance.audio).is_file()
            and path.stat().st_size == noted[utterance.id]["bytes"]
        }
        conditions = {split.name: split.conditions for split in plan.splits}
        tasks = [
            (root, request, conditions[utterance.split], utterance)
            for utterance in plan.utterances
            if utterance.id not in notes
        ]
        bar = tqdm(
            total=len(plan.utterances), initial=len(notes), unit="utt", desc="speaking",
            disable=not progress, mininterval=0.5 if sys.stderr.isatty() else 5.0,
        )  # fmt: skip
        with bar:
            for made in _spread(tasks, jobs):
                note(root, made)
                notes[made["id"]] = made
                bar.update()
        layout.finish(root, plan, {name: entry["samples"] for name, entry in notes.items()})
        manifest = describe(request, plan, notes)
        publish(root, output, manifest)
    return manifest, True


Task = tuple[Path, Request, Conditions, Utterance]


def _spread(tasks: list[Task], jobs: int) -> Iterator[dict[str, Any]]:
    """Run the tasks in this process (one job) or in several; yield results in order."""
    if jobs == 1 or len(tasks) < 2:
        with Espeak() as espeak:
            for task in tasks:
                yield speak(task, espeak)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(min(jobs, len(tasks)), mp_context=context, initializer=_start)
    try:
        yield from pool.map(_speak_in_worker, tasks, chunksize=4)
    except BrokenProcessPool as error:
        raise SpeechError(
            "a worker process died (out of memory?); the same command goes on from here"
        ) from error
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_espeak: Espeak | None = None  # this worker process's own


def _start() -> None:
    global _espeak
    _espeak = Espeak()
    threading.Thread(target=_leave_with_parent, daemon=True).start()


def _leave_with_parent() -> None:
    """End this worker when the run is killed: the pool's own pipes would keep it waiting."""
    parent = multiprocessing.parent_process()
    assert parent is not None, "only worker processes call this"
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)


def _speak_in_worker(task: Task) -> dict[str, Any]:
    assert _espeak is not None, "the pool's initializer has run"
    return speak(task, _espeak)


def speak(task: Task, espeak: Espeak) -> dict[str, Any]:
    """Speak, record and write one utterance; return a note on it in plain types.

    All randomness comes from the corpus's seed and the utterance's id, so neither the order
    nor the number of processes matters.
    """
    folder, request, conditions, utterance = task
    layout = LAYOUTS[request.layout]
    rng = np.random.default_rng([request.seed, zlib.crc32(utterance.id.encode())])
    voice = utterance.speaker.voice
    slow, fast = request.rates
    rate = voice.rate + int(rng.integers(-RATE_JITTER, RATE_JITTER + 1))
    speech = espeak.say(
        layout.spoken(utterance.words),
        Voice(voice.name, min(max(rate, slow), fast), voice.pitch, voice.range),
        int(rng.integers(0, 2**31 - 1)),
    )
    recording = record(speech, conditions, rng)
    path = folder / utterance.audio
    path.parent.mkdir(parents=True, exist_ok=True)
    tokens, halved = layout.write(path, utterance, recording, speech)
    repeats = sum(left == right for left, right in zip(tokens, tokens[1:], strict=False))
    content = path.read_bytes()
    return {
        "id": utterance.id,
        "samples": len(recording.samples),
        "tokens": len(tokens),
        "infeasible": len(tokens) + repeats > frame_count(len(recording.samples)) // SUBSAMPLING,
        "snr": recording.snr,
        "limited": recording.limited,
        "halved": halved,
        "bytes": len(content),
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def describe(request: Request, plan: Plan, records: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the manifest of a finished corpus; equal corpora have equal ones."""
    with Espeak() as espeak:
        versions = {"python": platform.python_version(), "espeak-ng": espeak.version}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    splits = {}
    for split in plan.splits:
        members = [item for item in plan.utterances if item.split == split.name]
        notes = [records[item.id] for item in members]
        seconds = [note["samples"] / SAMPLE_RATE for note in notes]
        snrs = [note["snr"] for note in notes if note["snr"] is not None]
        splits[split.name] = {
            "kind": split.kind,
            "utterances": len(members),
            "sentences": len({item.words for item in members}),
            "hours": round(sum(seconds) / 3600.0, 4),
            "seconds": {
                "min": round(min(seconds), 3),
                "mean": round(sum(seconds) / len(seconds), 3),
                "max": round(max(seconds), 3),
            },
            "snr_db": {"min": round(min(snrs), 2), "max": round(max(snrs), 2)} if snrs else None,
            "reverb": split.conditions.reverb,
            "infeasible": [note["id"] for note in notes if note["infeasible"]],
            "peak_limited": sum(note["limited"] for note in notes),
            "phone_boundaries_halved": sum(note["halved"] for note in notes),
            "speakers": {
                speaker.name: {
                    "gender": speaker.gender,
                    "voice": speaker.voice.name,
                    "rate": speaker.voice.rate,
                    "pitch": speaker.voice.pitch,
                    "range": speaker.voice.range,
                }
                for speaker in plan.speakers
                if speaker.split == split.name
            },
        }
    digest = hashlib.sha256()
    for utterance in plan.utterances:
        note = records[utterance.id]
        digest.update(f"{utterance.audio} {note['sha256']} {' '.join(utterance.words)}\n".encode())
    return {
        "synthetic": True,
        "notice": " ".join(NOTICE.split()),
        "seed": request.seed,
        "arguments": request.to_dict(),
        "versions": versions,
        "sample_rate": SAMPLE_RATE,
        "subsampling_of_feasibility": SUBSAMPLING,
        "sha256": digest.hexdigest(),
        "splits": splits,
    }
