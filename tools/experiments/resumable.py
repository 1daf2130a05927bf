"""Runs a command that goes on from where it finds its folder half done.

    python -m tools.experiments.resumable train/epochs/searched --folder models/epochs/searched \
        --outputs models/epochs/searched/best.pth --inputs conf/epochs/searched.yaml -- COMMAND

Snakemake decides whether a job is done; this is what it cannot do. It removes the outputs of
a job that was stopped, so a training's folder is no output of its rule. It does not tell the job
why it is done again, so what another command, or other inputs, left in the folder is removed here.
Its ``benchmark:`` measures the last session, so here the sessions are added up, and each epoch is
timed. The result is ``costs/JOB.json``, the rule's output; the log is ``log/JOB.log``. Paths are
relative to the experiments' folder, in which it runs.
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
from collections.abc import Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import psutil

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import ConfigError, NasEncoderError
from tools.experiments.costs import costs_path
from tools.experiments.progress import Progress

BASH = Path(__file__).with_name("bash")
SAY_SECONDS = 30.0  # between two lines about one job
SAVE_SECONDS = 10.0  # what a kill can take from the costs
TAIL_LINES = 12


class JobError(NasEncoderError):
    """The command failed; the message names its log and shows the end of it."""


class Job:
    """One command and its folder.

    Args:
        name: Words joined by ``/``.
        command: Program and arguments.
        folder: It is removed where it comes from another command or from other inputs.
        inputs: Files that the command reads.
        outputs: Files that it leaves behind.
    """

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        folder: Path,
        inputs: Sequence[Path] = (),
        outputs: Sequence[Path] = (),
    ) -> None:
        self.name, self.command, self.folder = name, list(command), folder
        self.inputs, self.outputs = list(inputs), list(outputs)
        self.log = Path("log", f"{name}.log")
        self.state_path = Path(".jobs", f"{name}.json")
        self.state: dict[str, Any] = {}

    def run(self) -> None:
        """Run it to its end, from where it is.

        Raises:
            JobError: The command failed, or left no outputs.
            ConfigError: The folder is not inside the experiments' folder.
        """
        goes_on = self._begin()
        began = self._session(goes_on)
        broken = self._missing() if self.state["status"] == 0 else not began
        if goes_on and broken:
            # Who was killed while it wrote its checkpoint cannot read it now, and who has lost
            # what it made takes itself for finished.
            self._say("cannot go on from what it left behind, so it begins anew")
            self._forget()
            self._session(goes_on=False)
        missing = self._missing()
        if self.state["status"] or missing:
            status = self.state["status"]
            why = f"ended with status {status}" if status else f"did not write {', '.join(missing)}"
            raise JobError(f"'{self.name}' {why}; read {self.log}. It ends:\n{tail(self.log)}")
        self._write_costs()

    def _key(self) -> str:
        digest = hashlib.sha256(json.dumps(self.command).encode())
        for path in self.inputs:
            digest.update(b"\0" + str(path).encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
        return digest.hexdigest()

    def _begin(self) -> bool:
        """Return whether the folder holds a state that this command can go on from."""
        if Path.cwd() not in self.folder.resolve().parents:
            raise ConfigError(f"job '{self.name}'", [f"{self.folder}: not inside {Path.cwd()}"])
        try:
            self.state = json.loads(self.state_path.read_text(encoding="utf-8"))
        except (FileNotFoundError, json.JSONDecodeError):
            self.state = {}
        key = self._key()
        goes_on = self.state.get("key") == key and self.folder.exists()
        if not goes_on:
            self._forget(key)
        return goes_on

    def _forget(self, key: str | None = None) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        self.state = {"key": key or self.state["key"], "sessions": [], "epochs": {}}

    def _missing(self) -> list[str]:
        return [str(path) for path in self.outputs if not path.exists()]

    def _session(self, goes_on: bool) -> bool:
        """Run the command once; return whether it did more than start."""
        progress = Progress(self.state["epochs"])
        costs = {"cpu_seconds": 0.0, "wall_seconds": 0.0, "peak_memory_mib": 0.0}
        self.state["sessions"].append(costs)
        self.log.parent.mkdir(parents=True, exist_ok=True)
        self._save()
        self._say("goes on" if goes_on else "begins")
        began = saved = said = time.monotonic()
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        with self.log.open("ab" if goes_on else "wb") as log:
            process = subprocess.Popen(
                [BASH, "-c", 'exec "$0" "$@"', *self.command],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            watched = psutil.Process(process.pid)
            assert process.stdout is not None
            rest = b""
            try:
                while chunk := os.read(process.stdout.fileno(), 1 << 16):
                    log.write(chunk)
                    log.flush()
                    wall, cpu = time.monotonic() - began, sum(watched.cpu_times()[:4])
                    costs.update(cpu_seconds=cpu, wall_seconds=wall)
                    *lines, rest = re.split(rb"[\n\r]", rest + chunk)
                    epochs = len(progress.epochs)
                    for line in lines:
                        text = progress.line(line.decode("utf-8", "replace"), cpu, wall)
                        if text and began + wall - said > SAY_SECONDS:
                            said = began + wall
                            self._say(text)
                    if len(progress.epochs) > epochs or began + wall - saved > SAVE_SECONDS:
                        saved = began + wall
                        self._save()
                self.state["status"] = process.wait()
            finally:
                end(process)
                process.stdout.close()
                used = resource.getrusage(resource.RUSAGE_CHILDREN)
                costs["cpu_seconds"] = (
                    used.ru_utime + used.ru_stime - before.ru_utime - before.ru_stime
                )
                costs["wall_seconds"] = time.monotonic() - began
                costs["peak_memory_mib"] = used.ru_maxrss / 1024
                self._save()
        return progress.begun

    def _save(self) -> None:
        _write(self.state_path, self.state)

    def _write_costs(self) -> None:
        sessions = self.state["sessions"]
        record = {
            "job": self.name,
            "outputs": [str(path) for path in self.outputs],
            "sessions": len(sessions),
            "cpu_seconds": sum(session["cpu_seconds"] for session in sessions),
            "wall_seconds": sum(session["wall_seconds"] for session in sessions),
            "peak_memory_mib": max(session["peak_memory_mib"] for session in sessions),
            "epochs": self.state["epochs"],
        }
        _write(costs_path(Path(), self.name), record)

    def _say(self, text: str) -> None:
        print(f"{time.strftime('%H:%M:%S')} {self.name}: {text}", file=sys.stderr, flush=True)


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(record, indent=1).encode() + b"\n", ConfigError)


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process, if it has not ended yet; it gets ten seconds for what it has to write."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def tail(path: Path) -> str:
    """Return the last lines of a log, indented."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("name", help="of the job; its log and its costs are called after it")
    parser.add_argument("--folder", type=Path, required=True, help="what the command goes on from")
    parser.add_argument("--inputs", type=Path, nargs="+", default=[], help="what it depends on")
    parser.add_argument("--outputs", type=Path, nargs="+", required=True, help="what it leaves")
    place = arguments.index("--") if "--" in arguments else len(arguments)
    args = parser.parse_args(arguments[:place])
    command = arguments[place + 1 :]
    if not command:
        parser.error("no command after '--'")

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    try:
        Job(args.name, command, args.folder, args.inputs, args.outputs).run()
    except NasEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
