"""Runs training scripts of NeMo's kind, many in one process that has NeMo and nothing of ours.

Imported, it offers :func:`run_scripts`. As a script, it is that process: each job's file is
executed as ``python FILE ARGUMENTS`` would execute it, and nothing of NeMo, Hydra or Lightning is
replaced.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import os
import runpy
import sys
import tarfile
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forked import Forks

# Whichever of them was imported last gives the messages of all its logger's name.
LIGHTNING = ("lightning.pytorch", "lightning.fabric", "pytorch_lightning", "lightning_fabric")


@dataclass(frozen=True)
class Job:
    """One command line; ``folder`` is where NeMo's exp_manager is told to write."""

    name: str
    script: str
    arguments: list[str]
    folder: str


@dataclass(frozen=True)
class Outcome:
    """What happened: the last lines of a traceback, NeMo's warnings, Lightning's messages.

    ``saved`` is the config in the .nemo file that was written and the names of the weights.
    """

    job: Job
    error: str | None
    warnings: list[str]
    messages: list[str]
    seconds: float
    saved: tuple[dict[str, Any], list[str]] | None

    @property
    def steps(self) -> int | None:
        """Return the number of steps after which the training ended as planned."""
        for message in self.messages:
            if message.startswith("`Trainer.fit` stopped: `max_steps="):
                return int(message.split("max_steps=")[1].split("`")[0])
        return None

    def leftovers(self) -> list[str]:
        """Return the options of the encoder block of which a warning says that they are unused."""
        return [
            text.removeprefix("encoder.").split(":")[0]
            for text in self.warnings
            if text.startswith("encoder.") and "not an option of this encoder" in text
        ]


def take_saved(folder: Path) -> tuple[dict[str, Any], list[str]] | None:
    """Return the config and the names of the weights in the .nemo file of a finished job.

    Then delete the checkpoints, which for a model of 10 M parameters are 300 MB. The folder stays:
    NeMo writes its log there until the process ends.
    """
    import torch
    import yaml

    found = None
    for path in sorted(folder.rglob("*.nemo"))[-1:]:
        with tarfile.open(path) as archive:
            members = {Path(name).name: name for name in archive.getnames()}
            config = archive.extractfile(members["model_config.yaml"])
            weights = archive.extractfile(members["model_weights.ckpt"])
            assert config is not None and weights is not None
            names = list(torch.load(weights, map_location="cpu", weights_only=True))
            found = yaml.safe_load(config), names
    for path in folder.rglob("*"):
        if path.suffix in (".ckpt", ".nemo"):
            path.unlink()
    return found


def run_scripts(
    nemo: Forks, jobs: Sequence[Job], folder: Path, timeout: float = 1500
) -> dict[str, Outcome]:
    """Run the jobs one after another in one process that was started for them.

    Args:
        nemo: Starts it.
        jobs: Names must be unique.
        folder: For files of this run.
        timeout: Seconds for all of them.
    """
    wanted, found = folder / "jobs.json", folder / "outcomes.jsonl"
    wanted.write_text(json.dumps([dataclasses.asdict(job) for job in jobs]), encoding="utf-8")
    done = nemo.run([__file__, wanted, found], folder, timeout)
    (folder / "output.log").write_text(done.stdout + done.stderr, encoding="utf-8")
    assert done.returncode == 0, (done.stdout + done.stderr)[-5000:]
    outcomes = {}
    for line in found.read_text(encoding="utf-8").splitlines():
        document = json.loads(line)
        outcomes[document["job"]["name"]] = Outcome(**document | {"job": Job(**document["job"])})
    assert set(outcomes) == {job.name for job in jobs}
    return outcomes


class _Collector(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@contextlib.contextmanager
def collected(*names: str) -> Iterator[list[logging.LogRecord]]:
    """Collect what loggers and those below them receive."""
    loggers, handler = [logging.getLogger(name) for name in names], _Collector()
    for logger in loggers:
        logger.addHandler(handler)
    try:
        yield handler.records
    finally:
        for logger in loggers:
            logger.removeHandler(handler)


@contextlib.contextmanager
def nemo_warnings() -> Iterator[list[str]]:
    """Collect NeMo's warnings; filled when the block ends."""
    found: list[str] = []
    with collected("nemo_logger") as records:
        yield found
    found += [r.getMessage() for r in records if r.levelno == logging.WARNING]


def execute(job: Job) -> Outcome:
    """Run one job in this process."""
    before, started = sys.argv, time.process_time()
    sys.argv = [job.script, *job.arguments]
    error = None
    with nemo_warnings() as warnings, collected(*LIGHTNING) as infos:
        try:
            runpy.run_path(job.script, run_name="__main__")
        except (Exception, SystemExit):
            error = "".join(traceback.format_exc().splitlines(keepends=True)[-12:])
        finally:
            sys.argv = before
    messages = [record.getMessage() for record in infos]
    seconds = time.process_time() - started
    return Outcome(job, error, warnings, messages, seconds, take_saved(Path(job.folder)))


def main(wanted: Path, found: Path) -> None:
    """Run the jobs of one file, and write a line for each to another."""
    jobs = [Job(**document) for document in json.loads(wanted.read_text(encoding="utf-8"))]
    with found.open("w", encoding="utf-8") as file:
        for job in jobs:
            print(f"===== {job.name}", flush=True)
            outcome = execute(job)
            print(outcome.error or f"----- {job.name}: {outcome.seconds:.1f} s", flush=True)
            file.write(json.dumps(dataclasses.asdict(outcome)) + "\n")
            file.flush()


if __name__ == "__main__":
    os.environ["HYDRA_FULL_ERROR"] = "1"
    main(Path(sys.argv[1]), Path(sys.argv[2]))
