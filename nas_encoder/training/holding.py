"""Who runs in a run folder, whether there is a run to keep, and its files with their checksums."""

from __future__ import annotations

import os
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from nas_encoder.common.sealed import WRITE_LOCK, SealedFolder
from nas_encoder.errors import CheckpointError
from nas_encoder.training.checkpoint import previous_of
from nas_encoder.training.lock import held, is_held

CHECKPOINT = "last.ckpt"
METRICS = "metrics.jsonl"
RESULT = "genotype.yaml"
STUDY = "study.db"
_LOCK = ".run.lock"
_WORKERS = ".worker-*.lock"
# What a run writes before there is a run to keep, or without asking.
_NAMES = (
    "config.yaml run.yaml tokens.txt features.json operations.yaml report.html front.json "
    "genotypes front data tensorboard supernet.json inherited.pt result.json"
).split()
_STARTING = 60.0  # s; how long another worker may take to join its study


class HeldFolder(SealedFolder):
    """A run folder with its lock; only one of several processes ``writes``."""

    def __init__(self, path: str | Path, writes: bool = True) -> None:
        super().__init__(path)
        self.writes = writes

    @property
    def checkpoint(self) -> Path:
        """The file with the state of an unfinished run."""
        return self.path / CHECKPOINT

    @property
    def metrics(self) -> Path:
        """The file that records epochs or trials."""
        return self.path / METRICS

    @property
    def study_url(self) -> str:
        """The SQLAlchemy URL of the study's file, in which '?' would begin options."""
        path = str(self.path.resolve() / STUDY)
        plain = not set(path) & set("?{}")  # Optuna fills in what is in braces
        return f"sqlite:///{path}" if plain else f"sqlite:///file:{quote(path)}?uri=true"

    @property
    def subject(self) -> str:
        """The name of the folder in errors."""
        return f"run folder {self.path}"

    def error(self, problem: str) -> CheckpointError:
        """Return an error about the folder."""
        return CheckpointError(self.subject, [problem])

    def write(self, name: str, data: bytes) -> None:
        """Write a file and its checksum, if this process writes."""
        if self.writes:
            super().write(name, data)

    @contextmanager
    def held(self, wait: bool = False) -> Iterator[None]:
        """Keep other processes out; a start that fails takes back all that it wrote.

        Args:
            wait: Whether to wait for a worker that is joining its study.

        Raises:
            CheckpointError: Another process runs here; it is named.
        """
        if not self.writes:
            yield
            return
        made = not self.path.exists()
        try:
            with held(self.path / _LOCK, self.subject, _STARTING if wait else 0.0):
                try:
                    yield
                except BaseException:
                    if not self.begun() and not self.workers():
                        self.take_back()
                        made = True
                    raise
        finally:
            if made:
                with suppress(OSError):  # it holds something
                    self.path.rmdir()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """Be one of the workers that run trials here."""
        name = f".worker-{socket.gethostname()}-{os.getpid()}.lock"
        try:
            with held(self.path / name, self.subject):
                yield
        finally:
            if not self.workers():
                (self.path / WRITE_LOCK).unlink(missing_ok=True)

    def workers(self) -> list[Path]:
        """Return the locks of the other living workers."""
        return [path for path in sorted(self.path.glob(_WORKERS)) if is_held(path)]

    def begun(self) -> bool:
        """Return whether a run has got so far that there is something to keep."""
        files = (self.checkpoint, previous_of(self.checkpoint), self.path / RESULT)
        return (
            any(path.exists() for path in files)
            or (self.metrics.is_file() and self.metrics.stat().st_size > 0)
            or _has_trials(self.path / STUDY)
            or any(HeldFolder(path).begun() for path in self.path.glob("seed*/"))
        )

    def foreign(self) -> list[str]:
        """Return what has the name of a run's file or folder, in a folder without a run."""
        if self.sealed:
            return []
        return [name for name in _NAMES if (self.path / name).exists()]

    def take_back(self) -> None:
        """Remove what a start wrote that came to nothing; nothing that it did not write."""
        if not self.sealed:
            return
        study = [f"{STUDY}{end}" for end in ("", "-wal", "-shm")]
        for path in self.path.glob("seed*/"):
            HeldFolder(path).take_back()
        self.clear(["tensorboard", "data", *study])


def _has_trials(study: Path) -> bool:
    """Return whether an Optuna study in an SQLite file has finished trials (or is damaged)."""
    if not study.is_file() or not study.stat().st_size:
        return False
    try:
        connection = sqlite3.connect(f"{study.resolve().as_uri()}?mode=ro", uri=True, timeout=60)
        with closing(connection):
            query = "SELECT COUNT(*) FROM trials WHERE state IN ('COMPLETE', 'PRUNED')"
            return bool(connection.execute(query).fetchone()[0])
    except sqlite3.OperationalError as error:
        return "no such table" not in str(error)
    except sqlite3.DatabaseError:
        return True
