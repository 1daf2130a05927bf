"""Detects whether the process of a worker is still running."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_PROC = Path("/proc")


def this_process() -> dict[str, Any]:
    """Return what identifies this process: its machine, process id and start time.

    Processes can only be looked up within one boot and one PID namespace, so these identify the
    machine; null where the system does not tell.
    """
    pid = os.getpid()
    return {"machine": _machine(), "pid": pid, "started": _started(pid)}


def is_dead(worker: Mapping[str, Any] | None) -> bool:
    """Return whether a worker's process is known to be gone; False if unknown."""
    if not worker or worker.get("machine") is None or worker["machine"] != _machine():
        return False
    return _started(int(worker["pid"])) != worker.get("started")


def _machine() -> str | None:
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return None


def _started(pid: int) -> int | None:
    """Return the clock tick at which a process was started; None if it is gone."""
    try:
        text = (_PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The program name, in parentheses, may contain anything.
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])
