"""Runs of the workflow of ``tests/workflow``: in seconds, with jobs that say what they do."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKFLOW = ROOT / "tests" / "workflow"


def environment(*first: Path) -> dict[str, str]:
    """Return the variables of a run: what is first on its PATH, and this checkout."""
    path = [*map(str, first), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PYTHONPATH": str(ROOT), "PATH": os.pathsep.join(path)}


class Workflow:
    """The small workflow of ``tests/workflow`` in a folder of its own.

    Args:
        folder: An empty one.
        jobs: That of `python` for its jobs (:mod:`python_server`), if they are to be forks.
    """

    def __init__(self, folder: Path, jobs: Path | None = None) -> None:
        self.python = str(Path(jobs, "python")) if jobs else sys.executable
        self.exp = folder / "exp of it"  # with a blank
        self.exp.mkdir()
        self.source = folder / "the source"
        self.source.write_text("1\n")

    def start(self, *options: str) -> subprocess.Popen[str]:
        paths = ["--expdir", str(self.exp), "--source", str(self.source)]
        return subprocess.Popen(
            [self.python, "-m", "tools.experiments.recipe", *paths, *options],
            cwd=WORKFLOW,
            env=environment(Path(self.python).parent),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_IGN),  # as by `run.sh &`
        )

    def run(self, *options: str, status: int = 0) -> str:
        process = self.start("--stop_stage", "2", *options)
        _, errors = process.communicate(timeout=60)
        assert process.returncode == status, errors
        return errors

    def begun(self, session: int) -> bool:
        """Return whether the training of a session holds in its third epoch."""
        log = self.exp / "log" / "train" / "it.log"
        return log.exists() and log.read_text().count("INFO: 3/") == session

    def idle(self) -> bool:
        """Return whether no process works in the folder of the experiments."""
        return not any(works_in(link, self.exp) for link in Path("/proc").glob("[0-9]*/cwd"))

    def epochs(self) -> str:
        return (self.exp / "model" / "epochs").read_text()

    def order(self) -> list[str]:
        path = self.exp / "order"
        found = path.read_text().split()
        path.unlink()
        return found


def wait(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def works_in(link: Path, folder: Path) -> bool:
    try:
        return link.readlink() == folder
    except OSError:  # it has ended
        return False
