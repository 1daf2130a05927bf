"""Training steps stay within their memory: everything that can be built, under glibc's heap checks.

float32, 1 to 17 channels, two utterances, both memory layouts; see heap_steps.py.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARY = "libc_malloc_debug.so.0"
TESTS = Path(__file__).resolve().parents[1]
CRASHES = (-signal.SIGABRT, -signal.SIGSEGV)

pytestmark = pytest.mark.slow


def steps(*cases: str) -> subprocess.CompletedProcess[str]:
    """Run cases in a process whose every block of memory is checked when it is freed."""
    try:
        ctypes.CDLL(LIBRARY)
    except OSError as error:
        pytest.skip(f"glibc's heap checks are not on this machine: {error}")
    paths = [str(TESTS), str(TESTS.parent), os.environ.get("PYTHONPATH", "")]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    environment |= {"LD_PRELOAD": LIBRARY, "MALLOC_CHECK_": "3"}
    command = [sys.executable, str(TESTS / "heap_steps.py"), *cases]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def test_every_training_step_stays_within_its_memory() -> None:
    done = steps("operations", "spaces", "residuals", "baselines")
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    counts = [int(line.split()[1]) for line in done.stdout.splitlines()]
    least = (1000, 145, 600, 17)
    assert all(count >= few for count, few in zip(counts, least, strict=True)), counts


def test_one_byte_too_many_is_found() -> None:
    done = steps("overrun")
    assert done.returncode == -signal.SIGABRT and "invalid pointer" in done.stderr


def test_the_strided_convolution_is_found() -> None:
    done = steps("strided")
    if done.returncode == 0:
        pytest.skip("here PyTorch computes strided 1x1 convolutions within their memory")
    assert done.returncode in CRASHES and "convolution of stride 2" in done.stderr
