"""One process at a time in a run folder or a table, and who it is."""

from __future__ import annotations

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from filelock import FileLock, Timeout

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import CheckpointError


@contextmanager
def held(
    path: Path, subject: str, wait: float = 0.0, rule: str = "wait for it to end, or stop it"
) -> Iterator[None]:
    """Hold a lock file, which the system frees when this process ends, however it ends.

    Args:
        path: The lock file; one beside it, with ``.json``, names the holder.
        subject: What is locked, for errors.
        wait: Seconds to wait for another process.
        rule: What to do if there is one.

    Raises:
        CheckpointError: Another process holds it, or it cannot be written.
    """
    lock, holder = FileLock(path, timeout=wait), _holder_file(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise CheckpointError(subject, [f"is in use by {holder_of(path)}; {rule}"]) from None
    except OSError as error:
        raise CheckpointError(subject, [f"cannot be made: {error.strerror or error}"]) from None
    try:
        about = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now(timezone.utc).isoformat(timespec="seconds"),
            "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        }
        write_atomically(holder, json.dumps(about).encode(), CheckpointError)
        yield
    finally:
        holder.unlink(missing_ok=True)
        path.unlink(missing_ok=True)  # while held: whoever waits for it makes a new one
        lock.release()


def holder_of(path: Path) -> str:
    """Return who holds a lock, as far as is known."""
    try:
        about = json.loads(_holder_file(path).read_bytes())
        return (
            f"process {about['pid']} on {about['host']}, running since {about['since']}: "
            f"{about['command']}"
        )
    except (OSError, ValueError, TypeError, KeyError):  # it has not written that yet
        return "another process"


def is_held(path: Path) -> bool:
    """Return whether a process holds a lock; remove what a killed one left."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            _holder_file(path).unlink(missing_ok=True)
            path.unlink(missing_ok=True)
            return False
    except Timeout:
        return True


def _holder_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.json")
