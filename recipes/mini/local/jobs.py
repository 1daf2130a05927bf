"""Jobs with dependencies: what each needs, and whether it is done already.

A job is declared on one line, which a shell can write with ``printf '%q '``::

    --name train/a --stage 6 --after stats,search --inputs a.yaml --outputs exp/a/x.pth \
        --fresh exp/a -- python -m espnet2.bin.asr_train --config a.yaml ...
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.errors import ConfigError

_NAME = re.compile(r"[a-z0-9][a-z0-9_-]*(/[a-z0-9][a-z0-9_-]*)*")


@dataclass(frozen=True)
class Job:
    """One command.

    Attributes:
        name: Words joined by ``/``; logs and markers are called after it.
        stage: The recipe's stage that it belongs to.
        command: Program and arguments.
        after: Names of the jobs that must be done before.
        inputs: Files that it reads. The job is done again when one of them changes.
        outputs: Files that it leaves behind. The job is done again where one is missing.
        fresh: A folder that the command goes on from where it finds it half done. It is removed
            first where it comes from another command or from other inputs.
        unless: The job is left out where this file exists.
        cores: How many of the pool's places it takes.
    """

    name: str
    stage: int
    command: tuple[str, ...]
    after: tuple[str, ...] = ()
    inputs: tuple[Path, ...] = ()
    outputs: tuple[Path, ...] = ()
    fresh: Path | None = None
    unless: Path | None = None
    cores: int = 1

    def key(self) -> str:
        """Return a hash of the command and of its inputs' contents.

        Raises:
            ConfigError: Inputs are missing; all of them are named.
        """
        missing = [f"{path}: no such file" for path in self.inputs if not path.is_file()]
        if missing:
            raise ConfigError(f"inputs of the job '{self.name}'", missing)
        digest = hashlib.sha256(json.dumps(self.command).encode())
        for path in self.inputs:
            digest.update(b"\0" + str(path).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()


def parse_jobs(lines: Iterable[str]) -> list[Job]:
    """Read declarations, one a line.

    Raises:
        ConfigError: All problems of all lines: bad options, bad or double names, a job that
            waits for itself or for one that is declared after it.
    """
    jobs: list[Job] = []
    problems: list[str] = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            job = _parse(shlex.split(line))
        except (ValueError, argparse.ArgumentError) as error:
            problems.append(f"line {number}: {error}")
            continue
        if not _NAME.fullmatch(job.name):
            problems.append(f"line {number}: --name: must match {_NAME.pattern}, got '{job.name}'")
        if job.name in {other.name for other in jobs}:
            problems.append(f"line {number}: --name: '{job.name}' is declared twice")
        jobs.append(job)
    names = [job.name for job in jobs]
    for place, job in enumerate(jobs):
        problems += [
            f"'{job.name}': --after: '{other}' is declared after it"
            for other in job.after
            if other in names[place:]
        ]
    if problems:
        raise ConfigError("jobs", problems)
    return jobs


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise ValueError(message)


def _parse(words: Sequence[str]) -> Job:
    if "--" not in words:
        raise ValueError("no '--' in front of the command")
    place = list(words).index("--")
    options, command = list(words[:place]), tuple(words[place + 1 :])
    if not command:
        raise ValueError("no command after '--'")
    parser = _Parser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--name", required=True)
    parser.add_argument("--stage", type=int, required=True)
    parser.add_argument("--cores", type=int, default=1)
    for name in ("after", "inputs", "outputs"):
        parser.add_argument(f"--{name}", default="")
    parser.add_argument("--fresh", type=Path)
    parser.add_argument("--unless", type=Path)
    found = parser.parse_args(options)

    def listed(text: str) -> tuple[str, ...]:
        return tuple(word for word in text.split(",") if word)

    return Job(
        name=found.name,
        stage=found.stage,
        command=command,
        after=listed(found.after),
        inputs=tuple(map(Path, listed(found.inputs))),
        outputs=tuple(map(Path, listed(found.outputs))),
        fresh=found.fresh,
        unless=found.unless,
        cores=found.cores,
    )


class Markers:
    """What is known about jobs of this and of earlier runs: one JSON file for each.

    Args:
        root: The experiments' folder; markers lie in ``root/.jobs``, logs in ``root/log``.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, name: str) -> Path:
        """Return the marker's file."""
        return self.root / ".jobs" / f"{name}.json"

    def log(self, name: str) -> Path:
        """Return the job's log."""
        return self.root / "log" / f"{name}.log"

    def read(self, name: str) -> dict[str, Any]:
        """Return what is recorded, empty where nothing is."""
        try:
            found = json.loads(self.path(name).read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            return {}
        return found if isinstance(found, dict) else {}

    def write(self, name: str, record: dict[str, Any]) -> None:
        """Record, atomically."""
        path = self.path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(path.name + ".part")
        temporary.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, path)

    def finished(self, name: str) -> bool:
        """Return whether a job of that name was done at some time."""
        return self.read(name).get("status") == "done"

    def done(self, job: Job) -> bool:
        """Return whether the job needs not be done: same command, same inputs, outputs there."""
        if job.unless is not None and job.unless.exists():
            return True
        record = self.read(job.name)
        return (
            record.get("status") == "done"
            and all(path.exists() for path in job.outputs)
            and all(path.is_file() for path in job.inputs)
            and record.get("key") == job.key()
        )

    def begin(self, job: Job) -> bool:
        """Record the start; remove what another command left in the job's folder.

        Returns:
            Whether the job goes on from a state that an earlier start left behind.

        Raises:
            ConfigError: The folder to remove is not inside the experiments' folder.
        """
        key = job.key()
        record = self.read(job.name)
        same = record.get("key") == key
        if job.fresh is not None and job.fresh.exists() and not same:
            if self.root.resolve() not in job.fresh.resolve().parents:
                raise ConfigError(f"job '{job.name}'", [f"{job.fresh}: not inside {self.root}"])
            shutil.rmtree(job.fresh)
        self.log(job.name).parent.mkdir(parents=True, exist_ok=True)
        goes_on = same and job.fresh is not None and job.fresh.exists()
        if not goes_on:
            self.log(job.name).unlink(missing_ok=True)
            record = {}
        sessions = int(record.get("sessions", 0)) + 1
        record = {**record, "status": "started", "key": key, "sessions": sessions}
        self.write(job.name, record)
        return goes_on
