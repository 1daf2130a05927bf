"""Where a result comes from: version, commit and machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

from nas_encoder import __version__


def commit() -> str | None:
    """Return the commit of the source checkout, with ``-dirty`` if files differ from it.

    None for an installed wheel, which its version identifies.
    """
    root = Path(__file__).resolve().parent.parent.parent
    if not (root / ".git").exists():
        return None
    describe = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(describe, cwd=root, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


def usable_cores() -> int:
    """Return the number of cores that this process may use, if the system tells."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def machine() -> str:
    """Return the processor and the number of cores that this process may use."""
    return f"{_processor()}, {usable_cores()} cores"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def environment() -> dict[str, str | None]:
    """Return version, commit, machine and the versions of libraries that affect numbers."""
    import torch

    return {
        "version": __version__,
        "commit": commit(),
        "machine": machine(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
    }
