"""Runs a command that resumes from what its earlier sessions left in its folder.

    python -m tools.experiments.resumable train/epochs/searched --folder models/epochs/searched \
        --inputs conf/epochs/searched.yaml --outputs models/epochs/searched/best.pth -- COMMAND

Snakemake removes the outputs of a stopped job, does not tell a job why it is repeated, and measures
only the last session. So a training's folder is no output of its rule; what another command or
other inputs left in it is removed here, and all sessions are added up. The rule's output is
``costs/NAME.json``, the log ``log/NAME.log``. The working directory is the experiments' folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import ConfigError, NasEncoderError
from tools.experiments.job_costs import Progress, costs_path

BASH = Path(__file__).with_name("bash")
SAY_SECONDS = 30.0  # between two lines about one job
SAVE_SECONDS = 10.0  # most that a kill can remove from the costs
TAIL_LINES = 12


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="words joined by '/'")
    parser.add_argument("--folder", type=Path, required=True, help="what the command goes on from")
    parser.add_argument("--inputs", type=Path, nargs="*", default=[], help="what it reads")
    parser.add_argument("--outputs", type=Path, nargs="*", default=[], help="what it leaves behind")
    parser.add_argument("command", nargs="+", help="after '--'")
    args = parser.parse_args(arguments)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        Job(args.name, args.command, args.folder, args.inputs, args.outputs).run()
    except NasEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


class JobError(NasEncoderError):
    """The command failed; the message names its log and shows its end."""


class Job:
    """One command; the arguments are those of the command line."""

    def __init__(
        self, name: str, command: list[str], folder: Path, inputs: list[Path], outputs: list[Path]
    ) -> None:
        self.name, self.command, self.folder, self.outputs = name, command, folder, outputs
        if Path.cwd() not in folder.resolve().parents:
            raise ConfigError(f"job '{name}'", [f"{folder}: not inside {Path.cwd()}"])
        self.log = Path("log", f"{name}.log")
        self.state_path = Path(".jobs", f"{name}.json")
        contents = [[str(path), _digest(path)] for path in inputs]
        self.key = hashlib.sha256(json.dumps([command, contents]).encode()).hexdigest()
        self.state: dict[str, Any] = {}

    def run(self) -> None:
        """Run the command, or resume it, to its end.

        Raises:
            ConfigError: The folder holds files that this job did not make.
            JobError: The command failed, or left no outputs.
        """
        if self.state_path.is_file():
            self.state = json.loads(self.state_path.read_text(encoding="utf-8"))
        elif self.folder.is_dir() and any(self.folder.iterdir()):
            rule = "was not made by this workflow and would be removed; move it away, or delete it"
            raise ConfigError(f"job '{self.name}'", [f"{self.folder}: {rule}"])
        goes_on = self.state.get("key") == self.key and self.folder.exists()
        if not goes_on:
            self.log.unlink(missing_ok=True)
        status, progress = self._session(goes_on)
        # A command killed while writing its checkpoint cannot read it and fails at its start; one
        # whose outputs are lost believes itself finished.
        if goes_on and (self._missing() if status == 0 else not progress.begun):
            self._say("cannot go on from what it left behind, so it begins anew")
            status, _ = self._session(goes_on=False)
        if status or self._missing():
            why = f"ended with status {status}" if status else f"did not write {self._missing()}"
            raise JobError(f"'{self.name}' {why}; read {self.log}. It ends:\n{tail(self.log)}")
        sessions = self.state["sessions"]
        record = {
            "job": self.name,
            "outputs": [str(path) for path in self.outputs],
            "epochs": self.state["epochs"],
            "sessions": len(sessions),
            "cpu_seconds": sum(session["cpu"] for session in sessions),
            "wall_seconds": sum(session["wall"] for session in sessions),
            "peak_memory_mib": max(session["memory"] for session in sessions),
        }
        _write(costs_path(Path(), self.name), record)

    def _missing(self) -> str:
        return ", ".join(str(path) for path in self.outputs if not path.exists())

    def _session(self, goes_on: bool) -> tuple[int, Progress]:
        """Run the command once; return its status and its progress."""
        if not goes_on:
            shutil.rmtree(self.folder, ignore_errors=True)
            self.state = {"key": self.key, "sessions": [], "epochs": {}}
        progress = Progress(self.state["epochs"])
        cost = {"cpu": 0.0, "wall": 0.0, "memory": 0.0}
        self.state["sessions"].append(cost)
        _write(self.state_path, self.state)
        self._say("goes on" if goes_on else "begins")
        before, began = _children(), time.monotonic()
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with (
            self.log.open("ab", buffering=0) as log,
            subprocess.Popen(
                [BASH, "-c", 'exec "$0" "$@"', *self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            ) as process,
        ):
            try:
                self._follow(process, log.write, progress, cost)
                status = process.wait()
            finally:
                _end(process)
                cost["wall"], used = time.monotonic() - began, _children()
                cost["cpu"] = used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
                cost["memory"] = used.ru_maxrss / 1024
                _write(self.state_path, self.state)
        return status, progress

    def _follow(
        self, process: subprocess.Popen[bytes], log: Any, progress: Progress, cost: dict[str, float]
    ) -> None:
        """Copy the process's output into the log and keep its costs up to date."""
        assert process.stdout is not None
        watched, rest = psutil.Process(process.pid), b""
        began = saved = said = time.monotonic()
        while chunk := os.read(process.stdout.fileno(), 1 << 16):
            log(chunk)
            now, epochs = time.monotonic(), len(progress.epochs)
            cost["cpu"], cost["wall"] = sum(watched.cpu_times()[:4]), now - began
            *lines, rest = re.split(rb"[\n\r]", rest + chunk)
            for line in lines:
                text = progress.line(line.decode("utf-8", "replace"), cost["cpu"], cost["wall"])
                if text and now - said > SAY_SECONDS:
                    said = now
                    self._say(text)
            if len(progress.epochs) > epochs or now - saved > SAVE_SECONDS:
                saved = now
                _write(self.state_path, self.state)

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {text}", file=sys.stderr, flush=True)


def _digest(path: Path) -> str:
    with path.open("rb") as file:  # texts of language models have gigabytes
        return hashlib.file_digest(file, "sha256").hexdigest()


def _children() -> resource.struct_rusage:
    return resource.getrusage(resource.RUSAGE_CHILDREN)


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=1).encode() + b"\n", ConfigError)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that is still running; it gets ten seconds to write what it must."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()


def tail(path: Path) -> str:
    """Return the last lines of a log, indented."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


if __name__ == "__main__":
    sys.exit(main())
