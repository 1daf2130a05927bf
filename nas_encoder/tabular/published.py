"""The published files of NAS-Bench-ASR as one table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.errors import DataError
from nas_encoder.spaces import get_space
from nas_encoder.tabular.contents import Training
from nas_encoder.tabular.pickles import PublishedFile, read_published
from nas_encoder.tabular.table import Table

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


def from_folder(
    folder: str | Path,
    max_epochs: int | None = None,
    seeds: int | Sequence[int] | None = None,
    devices: str | Sequence[str] | bool | None = None,
    include_static_info: bool = False,
    validate_data: bool = True,
) -> Table:
    """Read some of the published files of a folder, as the published function of this name does.

    Args:
        folder: The folder; ``~`` is the home.
        max_epochs: Target epochs of the trainings; None for those of full trainings, 40.
        seeds: Seeds of the trainings; None for all. Those without a file are left out, like
            devices.
        devices: Devices of the latencies; None for all, False for none.
        include_static_info: Whether to read parameters and the like.
        validate_data: Whether all files must list the same architectures.

    Raises:
        DataError: There is no training, a file cannot be read, or they do not belong together.
    """
    path = Path(folder).expanduser()
    if not path.is_dir():
        raise DataError(str(folder), ["is not a folder"])
    wanted = [seeds] if isinstance(seeds, int) else seeds
    named = [devices] if isinstance(devices, str) else devices
    chosen, trainings = [], 0
    for file in sorted(path.iterdir()):
        name = NAMES.match(file.name)
        if name is None:
            continue
        kind, _, rest = name[1].partition("-")
        if kind == "info":
            taken = include_static_info
        elif kind == "bench":
            taken = named is None or (not isinstance(named, bool) and rest in named)
        else:
            taken = kind == f"e{max_epochs or 40}" and (wanted is None or int(rest) in wanted)
            trainings += taken
        if taken:
            chosen.append(file)
    if not trainings:
        pattern = f"nb-asr-e{max_epochs or 40}-{'SEED' if wanted is None else wanted}.pickle"
        raise DataError(str(folder), [f"holds no training {pattern}"])
    table = load_published(chosen)
    if validate_data:
        groups: dict[str, Mapping[str, Any]] = {
            **{f"seed {seed}": rows for (_, seed), rows in table.trainings.items()},
            **{f"device {name}": rows for name, rows in table.latencies.items()},
        }
        (first, known), *others = groups.items()
        problems = [
            f"{name}: {len(rows)} architectures that are not the {len(known)} of {first}"
            for name, rows in others
            if rows.keys() != known.keys()
        ]
        if problems:
            raise DataError(str(folder), problems)
    return table


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
        "version": max((file.header.get("version", 1) for file in files), default=1),
    }
    return Table(SPACE, trainings, latencies, static, about=about)
