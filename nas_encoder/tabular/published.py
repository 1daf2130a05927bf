"""The published files of NAS-Bench-ASR as one table."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError
from nas_encoder.spaces import get_space
from nas_encoder.tabular.pickles import PublishedFile, read_published
from nas_encoder.tabular.table import Table, Training

SPACE = "nasbench_asr"
NAMES = re.compile(r"nb-asr-(e\d+-\d+|bench-[A-Za-z0-9-]+|info)\.pickle\Z")


def load_published(source: str | Path | Iterable[str | Path]) -> Table:
    """Read the published files: a folder with them under their published names, or themselves.

    Raises:
        DataError: There are no files, one cannot be read, or they do not belong together.
    """
    if isinstance(source, (str, Path)):
        folder = Path(source)
        if not folder.is_dir():
            raise DataError(str(source), ["is not a folder"])
        paths = sorted(path for path in folder.iterdir() if NAMES.match(path.name))
        if not paths:
            raise DataError(
                str(source),
                ["holds none of the published files (nb-asr-e40-1234.pickle and so on)"],
            )
    else:
        paths = [Path(path) for path in source]
    return _table([read_published(path) for path in paths])


def _table(files: list[PublishedFile]) -> Table:
    trainings: dict[tuple[int, int], dict[str, Training]] = {}
    latencies: dict[str, dict[str, float]] = {}
    static: dict[str, dict[str, Any]] = {}
    problems = []
    spaces = [file.header["search_space"] for file in files if "search_space" in file.header]
    if any(space != spaces[0] for space in spaces):
        problems.append("the files belong to different search spaces")
    operations = spaces[0].get("ops") if spaces and isinstance(spaces[0], dict) else None
    known = get_space(SPACE).operations
    if operations is not None and tuple(operations) != known:
        problems.append(f"search_space.ops: must be {list(known)}, got {operations}")
    for file in files:
        rows = {str(row[0]): row[1:] for row in file.rows}
        if len(rows) < len(file.rows):
            problems.append(f"{file.path.name}: lists an architecture twice")
        more = file.columns[3:]
        if file.kind == "training":
            lengths = {len(row[0]) for row in rows.values()}
            epochs = file.header.get("epochs", max(lengths, default=0))
            key = (int(epochs), int(file.header["seed"]))
            if key in trainings:
                problems.append(f"{file.path.name}: {key[0]} epochs, seed {key[1]} comes twice")
            trainings[key] = {
                name: Training(
                    tuple(map(float, row[0])),
                    float(row[1]),
                    dict(zip(more, row[2:], strict=True)),
                )
                for name, row in rows.items()
            }
        elif file.kind == "benchmarking":
            device = str(file.header["device"])
            if device in latencies:
                problems.append(f"{file.path.name}: device {device} comes twice")
            latencies[device] = {name: float(row[0]) for name, row in rows.items()}
        else:
            static |= {
                name: dict(zip(file.columns[1:], row, strict=True)) for name, row in rows.items()
            }
    if problems:
        raise DataError("published files", problems)
    about = {
        "source": "NAS-Bench-ASR (Mehrotra et al. 2021), the published files",
        "files": [file.path.name for file in files],
        "search_space": spaces[0] if spaces else None,
    }
    return Table(SPACE, trainings, latencies, static, about=about)
