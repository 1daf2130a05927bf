"""Runs the checks of OpenVINO, each group in a process of its own.

pytest's own processes, in which everything is loaded at some time, died at times during or soon
after a use of OpenVINO 2026.4.1, by a signal that no code of any thread was the cause of.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

CHECKS = Path(__file__).with_name("openvino_checks.py")
SLOW = ("family", "smaller_forms", "streams_and")


def run(words: str, folder: Path) -> None:
    """Run the checks that the words select."""
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider"]
        + ["--basetemp", str(folder / "checks"), str(CHECKS), "-k", words],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    assert " passed" in done.stdout and "skipped" not in done.stdout


@pytest.mark.slow
def test_what_openvino_runs(tmp_path: Path) -> None:
    run(" or ".join(SLOW), tmp_path)


@pytest.mark.slow
def test_what_openvino_measures_and_refuses(tmp_path: Path) -> None:
    run("not (" + " or ".join(SLOW) + ")", tmp_path)
