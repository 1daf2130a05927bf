"""Runs jobs side by side as far as their dependencies and the cores allow."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from nas_encoder.errors import NasEncoderError
from recipes.mini.local.jobs import Job, Markers
from recipes.mini.local.training_log import LogWatch

POLL_SECONDS = 0.3
# Between two lines about what is running, where the output is no terminal.
QUIET_SECONDS = 60.0
TAIL_LINES = 12
_PR_SET_PDEATHSIG = 1  # prctl(2)


class JobError(NasEncoderError):
    """A job failed; the message names its log and shows the end of it."""


@dataclass
class _Running:
    job: Job
    process: subprocess.Popen[bytes]
    log: IO[bytes]
    watch: LogWatch
    began: float
    goes_on: bool
    known_rows: int


class Pool:
    """Runs jobs.

    Args:
        jobs: In order of preference; a job comes after those that it waits for.
        markers: Where is recorded what is done.
        cores: How many one-core jobs run at a time.
        out: Where the progress is written.
    """

    def __init__(
        self, jobs: Sequence[Job], markers: Markers, cores: int, out: IO[str] | None = None
    ) -> None:
        self.jobs = list(jobs)
        self.markers = markers
        self.cores = max(1, cores)
        self.out = out or sys.stdout
        self._terminal = self.out.isatty()
        self._done: set[str] = set()
        self._running: list[_Running] = []
        self._last_line = 0.0
        self._began = time.monotonic()

    def run(self) -> None:
        """Run everything that is not done.

        Raises:
            JobError: A job failed, or waits for a job of an earlier stage that was not done.
            ConfigError: An input of a job is missing.
        """
        declared = {job.name for job in self.jobs}
        for job in self.jobs:
            for name in job.after:
                if name not in declared and not self.markers.finished(name):
                    raise JobError(
                        f"'{job.name}' needs '{name}', which was not done; begin at an earlier "
                        "--stage"
                    )
        pending = list(self.jobs)
        try:
            while pending or self._running:
                self._start(pending, declared)
                time.sleep(POLL_SECONDS)
                self._poll()
                self._show(len(pending))
        except BaseException:
            self._stop()
            raise
        finally:
            self._clear()
        self._say(f"all {len(self.jobs)} jobs are done")

    def _start(self, pending: list[Job], declared: set[str]) -> None:
        progress = True
        while progress:
            progress = False
            for job in list(pending):
                if any(name in declared and name not in self._done for name in job.after):
                    continue
                if self.markers.done(job):
                    self._say(f"{job.name}: {self._why(job)}")
                    self._done.add(job.name)
                    pending.remove(job)
                    progress = True
                    continue
                busy = sum(min(other.job.cores, self.cores) for other in self._running)
                if busy + min(job.cores, self.cores) > self.cores:
                    continue
                self._launch(job)
                pending.remove(job)

    def _why(self, job: Job) -> str:
        """Say why a job is left out, and let later calls know that nobody has to wait for it."""
        if job.unless is None or not job.unless.exists():
            return "done before"
        if not self.markers.finished(job.name):
            self.markers.write(job.name, {"status": "done", "skipped": str(job.unless)})
        return f"not needed ({job.unless})"

    def _launch(self, job: Job) -> None:
        goes_on = self.markers.begin(job)
        record = self.markers.read(job.name)
        path = self.markers.log(job.name)
        watch = LogWatch(path, record.get("rows", []), record["sessions"])
        log = path.open("ab")
        try:
            process = subprocess.Popen(
                job.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_die_with_parent if sys.platform == "linux" else None,
            )
        except OSError as error:
            log.close()
            raise JobError(
                f"'{job.name}': cannot start {job.command[0]}: {error.strerror}"
            ) from None
        known = len(watch.rows)
        running = _Running(job, process, log, watch, time.monotonic(), goes_on, known)
        self._running.append(running)
        self._say(f"{job.name}: {'goes on' if goes_on else 'started'} (log: {path})")

    def _poll(self) -> None:
        for running in list(self._running):
            pid, status, usage = os.wait4(running.process.pid, os.WNOHANG)
            wall = time.monotonic() - running.began
            if pid == 0:
                if running.watch.poll(cpu_seconds(running.process.pid, wall), wall):
                    self._record(running, {})
                continue
            running.process.returncode = os.waitstatus_to_exitcode(status)
            running.log.close()
            self._running.remove(running)
            cpu = usage.ru_utime + usage.ru_stime
            running.watch.poll(cpu, wall)
            self._finish(running, cpu, wall, usage.ru_maxrss / 1024)

    def _finish(self, running: _Running, cpu: float, wall: float, memory: float) -> None:
        job, code = running.job, running.process.returncode
        missing = [str(path) for path in job.outputs if not path.exists()]
        no_progress = len(running.watch.rows) == running.known_rows
        if (code != 0 or missing) and running.goes_on and no_progress:
            # Whoever was killed while it wrote its checkpoint cannot read it now.
            self._say(f"{job.name}: cannot go on from what it left behind, so it begins anew")
            self.markers.write(job.name, {})
            self._launch(job)
            return
        if code != 0 or missing:
            self._record(running, {"status": "failed"})
            log = self.markers.log(job.name)
            why = f"ended with status {code}" if code else f"did not write {', '.join(missing)}"
            raise JobError(f"'{job.name}' {why}; read {log}. It ends:\n{_tail(log)}")
        record = self.markers.read(job.name)
        self._record(
            running,
            {
                "status": "done",
                "cpu_seconds": record.get("cpu_seconds", 0.0) + cpu,
                "wall_seconds": record.get("wall_seconds", 0.0) + wall,
                "peak_memory_mib": max(record.get("peak_memory_mib", 0.0), memory),
            },
        )
        self._done.add(job.name)
        self._say(f"{job.name}: done in {_clock(wall)}")

    def _record(self, running: _Running, changes: dict[str, Any]) -> None:
        record = self.markers.read(running.job.name)
        self.markers.write(running.job.name, {**record, "rows": running.watch.rows, **changes})

    def _stop(self) -> None:
        """End what is running; trainings and the search go on from there the next time."""
        for running in self._running:
            if running.process.returncode is None:
                _signal(running.process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 10
        for running in self._running:
            try:
                running.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal(running.process.pid, signal.SIGKILL)
                running.process.wait()
            running.log.close()

    def _show(self, waiting: int) -> None:
        now = time.monotonic()
        if not self._running or now - self._last_line < (1.0 if self._terminal else QUIET_SECONDS):
            return
        self._last_line = now
        parts = []
        for running in self._running:
            status = running.watch.status(now - running.began)
            parts.append(f"{running.job.name} {status or _clock(now - running.began)}")
        text = f"{len(self._done)}/{len(self.jobs)} done | " + " | ".join(parts)
        if not self._terminal:
            self._say(text)
            return
        width = shutil.get_terminal_size().columns - 1
        stamp = _clock(now - self._began)
        print("\r" + f"{stamp} {text}"[:width].ljust(width), end="", file=self.out, flush=True)

    def _clear(self) -> None:
        if self._terminal:
            width = shutil.get_terminal_size().columns - 1
            print("\r" + " " * width + "\r", end="", file=self.out, flush=True)

    def _say(self, text: str) -> None:
        self._clear()
        self._last_line = time.monotonic()
        print(f"{_clock(time.monotonic() - self._began)} {text}", file=self.out, flush=True)


def cpu_seconds(pid: int, otherwise: float) -> float:
    """Return the CPU seconds that a process and its finished children have used.

    Args:
        pid: The process.
        otherwise: Returned where the system has no ``/proc``.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return otherwise
    fields = text.rpartition(")")[2].split()  # proc(5); the name before it may hold anything
    ticks = sum(int(value) for value in fields[11:15])
    return ticks / float(os.sysconf("SC_CLK_TCK"))


def _die_with_parent() -> None:
    """Let the kernel end the job where this process is killed (Linux)."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


def _signal(pid: int, number: int) -> None:
    try:
        os.killpg(pid, number)
    except ProcessLookupError:
        return  # it has ended by itself


def _tail(path: Path) -> str:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    return "\n".join(f"    {line}" for line in lines[-TAIL_LINES:])


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60:d}:{int(seconds) % 60:02d}"
