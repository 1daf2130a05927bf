"""Runs programs in forks of one process that has imported a toolkit: each import takes 15 s.

Imported, it offers :class:`Forks`. As a script, it is that process, which imports nothing of ours
by itself. A fork runs its program as ``python -m MODULE`` or ``python FILE`` would, with its own
folder, output and ``sys.path``. Threads that imports start are in no fork: NeMo's are onnxruntime's
pool and jemalloc's (pyarrow), idle and not needed by what runs here.
(``preloaded.py`` forks functions of ours, from this interpreter.)
"""

from __future__ import annotations

import importlib
import json
import multiprocessing.process
import multiprocessing.util
import os
import runpy
import select
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn


class Program:
    """A program that runs."""

    def __init__(self, forks: Forks, words: list[str], number: int, files: tuple[Path, Path]):
        self._forks, self._words, self._number, self._files = forks, words, number, files

    def wait(self, timeout: float = 550) -> subprocess.CompletedProcess[str]:
        """Wait for its end, at most for ``timeout`` seconds."""
        status = self._forks.ask({"wait": self._number}, timeout)
        said = [file.read_text(encoding="utf-8", errors="replace") for file in self._files]
        return subprocess.CompletedProcess(self._words, status, *said)


class Forks:
    """The process; it must be closed."""

    def __init__(
        self,
        folder: Path,
        modules: Sequence[str],
        environment: Mapping[str, str],
        python: Path | str = sys.executable,
    ) -> None:
        """Start it.

        Args:
            folder: An empty one, for files of its own.
            modules: What it imports.
            environment: Its variables, which are those of its programs.
            python: The interpreter.
        """
        self.folder, self._count = folder, 0
        with (folder / "server.log").open("wb") as log:
            self._process = subprocess.Popen(
                [python, __file__, *modules],
                cwd=folder,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )

    def close(self) -> None:
        """End it, and what still runs in its forks."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def start(self, program: Sequence[str | Path], folder: Path) -> Program:
        """Start a program in a folder: ``-m MODULE ARGUMENTS`` or ``FILE ARGUMENTS``."""
        self._count += 1
        files = self.folder / f"stdout.{self._count}", self.folder / f"stderr.{self._count}"
        words = [*map(str, program)]
        request = {"program": words, "folder": str(folder), "files": [*map(str, files)]}
        return Program(self, words, self.ask(request, timeout=300), files)

    def run(
        self, program: Sequence[str | Path], folder: Path, timeout: float = 550
    ) -> subprocess.CompletedProcess[str]:
        """Run a program to its end, at most for ``timeout`` seconds."""
        return self.start(program, folder).wait(timeout)

    def checked(self, program: Sequence[str | Path], folder: Path) -> str:
        """Run a program that must succeed; return what it wrote."""
        done = self.run(program, folder)
        assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
        return done.stdout + done.stderr

    def ask(self, request: Mapping[str, Any], timeout: float) -> int:
        """Send a request; return the answer."""
        pipe_in, pipe_out = self._process.stdin, self._process.stdout
        assert pipe_in is not None and pipe_out is not None
        pipe_in.write(json.dumps(request).encode() + b"\n")
        pipe_in.flush()
        ready = select.select([pipe_out], [], [], timeout)[0]
        answer = pipe_out.readline() if ready else b""
        assert answer, f"no answer to {request} in {timeout} s; it said: {self.log()[-3000:]}"
        return int(answer)

    def log(self) -> str:
        """Return what the process itself said, on importing the modules."""
        return (self.folder / "server.log").read_text(encoding="utf-8", errors="replace")


def serve(modules: Sequence[str]) -> list[str]:
    """Answer requests until their end; in a fork, return its program."""
    answers = os.dup(1)
    os.dup2(2, 1)  # what an import prints is no answer
    del sys.path[0]  # this file's folder
    for module in modules:
        importlib.import_module(module)
    requests = os.fdopen(os.dup(0), "rb", buffering=0)
    while line := requests.readline():
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitstatus_to_exitcode(os.waitpid(request["wait"], 0)[1])
        elif (answer := os.fork()) == 0:
            requests.close()
            os.close(answers)
            return enter(**request)
        os.write(answers, f"{answer}\n".encode())
    return []


def enter(program: list[str], folder: str, files: list[str]) -> list[str]:
    """Give this fork its folder, its output and the first entry of its path."""
    sys.stdout.flush()
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, file in enumerate(files, 1):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), number)
    os.chdir(folder)
    multiprocessing.process.ORIGINAL_DIR = folder  # where spawned processes look for FILE
    module = program[0] == "-m"
    sys.path.insert(0, folder if module else str(Path(program[0]).resolve().parent))
    sys.argv = program[1:] if module else program
    return program


def finish(program: Sequence[str]) -> NoReturn:
    """Run the program, and end as multiprocessing ends its forks."""
    status: Any = None
    try:
        if program[0] == "-m":
            runpy.run_module(program[1], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(program[0], run_name="__main__")
    except SystemExit as end:
        status = end.code
    except BaseException:
        status = traceback.format_exc()
    if status is not None and not isinstance(status, int):
        print(str(status).rstrip("\n"), file=sys.stderr)
        status = 1
    multiprocessing.util._exit_function()  # type: ignore[attr-defined]
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status or 0)


if __name__ == "__main__":
    if chosen := serve(sys.argv[1:]):
        finish(chosen)
