"""Sizes and speed of the encoders, measured side by side as ``nas-encoder bench`` does."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.bench.measure import EncoderSettings, benchmark
from nas_encoder.bench.sources import read_source
from nas_encoder.bench.subjects import build
from nas_encoder.errors import CheckpointError, DataError
from nas_encoder.interchange.files import Archive, load_tensors
from nas_encoder.interchange.nemo_files import WEIGHTS
from tools.benchmark.trained import Trained
from tools.espnet_recipes.results import parameters_of as parameters_of_espnet
from tools.scripts import write_json

FILES = {"cpu": "bench.json", "cuda": "bench_gpu.json"}
_BUFFERS = ("preprocessor.", "running_mean", "running_var", "num_batches_tracked")
Measured = dict[str, dict[str, Any]]


def measure(
    found: Sequence[Trained],
    threads: Sequence[int],
    speech: float,
    repeats: int,
    seed: int,
    output: Path,
) -> Measured:
    """Measure the encoders of trainings on the CPU, and on the GPU if there is one.

    Args:
        found: The trainings.
        threads: Numbers of CPU threads.
        speech: Seconds of the utterance.
        repeats: Least number of rounds.
        seed: Of weights and inputs.
        output: Where the documents are written, for later runs.

    Returns:
        Device -> training -> its row of the benchmark.

    Raises:
        ProblemsError: An encoder cannot be built or measured.
        MissingDependencyError: Its toolkit is not installed.
    """
    import torch

    result = {}
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        settings = EncoderSettings(
            speech=(speech,),
            device=device,
            threads=tuple(threads) if device == "cpu" else (1,),
            repeats=repeats,
            seed=seed,
        )
        subjects = []
        for one in found:
            subject = build(read_source(f"{one.name}={one.model}"), device=device)
            subjects.append(subject)
        document = benchmark(subjects, settings, progress=_say)
        write_json(output / FILES[device], document)
        result[device] = _by_training(document)
    return result


def read_measured(paths: Sequence[Path], found: Sequence[Trained]) -> Measured:
    """Read documents of :func:`measure` or of ``nas-encoder bench --json``.

    Raises:
        DataError: A file is none, or lacks a training; all problems are listed.
    """
    result: Measured = {}
    problems = []
    for path in paths:
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            device, rows = document["settings"]["device"], _by_training(document)
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"{path}: is no benchmark of encoders: {error!r}")
            continue
        if missing := [one.name for one in found if one.name not in rows]:
            problems.append(f"{path}: lacks {', '.join(missing)}; it has {', '.join(rows)}")
        if device in result:
            problems.append(f"{path}: another file is of device '{device}' too")
        result[device] = rows
    if problems:
        raise DataError("--bench", problems)
    return result


def _by_training(document: Mapping[str, Any]) -> dict[str, Any]:
    return {row["label"]: row for row in document["networks"]}


def _say(text: str) -> None:
    print(f"measuring {text}", file=sys.stderr, flush=True)


def parameters_of(one: Trained) -> int | None:
    """Return the number of trained values of the whole model; None without a checkpoint."""
    if one.weights is None:
        return None
    if one.toolkit == "espnet":
        return parameters_of_espnet(one.weights)
    try:
        state = load_tensors(Archive(one.weights).read(WEIGHTS), str(one.weights))
    except CheckpointError as error:
        raise DataError(str(one.weights), error.problems) from None
    return sum(v.numel() for name, v in state.items() if not any(b in name for b in _BUFFERS))
