"""Which Python the recipes' scripts run: that of the active environment, or of `make setup`."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ("recipes/benchmark.sh", "recipes/install.sh", "tools/experiments/path.sh")


def programs(folder: Path, *names: str) -> Path:
    """Make programs that say where they are."""
    folder.mkdir(parents=True)
    for name in names:
        (folder / name).write_text('#!/bin/sh\necho "$0"\n')
        (folder / name).chmod(0o755)
    return folder


@pytest.mark.parametrize("script", SCRIPTS)
@pytest.mark.parametrize(
    ("active", "built", "chosen"),
    [
        ({}, True, ".venv"),
        ({}, False, "other"),
        ({"VIRTUAL_ENV": "other"}, True, "other"),
        ({"CONDA_PREFIX": "other", "CONDA_DEFAULT_ENV": "espnet"}, True, "other"),
        ({"CONDA_PREFIX": "other"}, True, "other"),  # as ESPnet's activate_python.sh leaves it
        ({"CONDA_PREFIX": "other", "CONDA_DEFAULT_ENV": "base"}, True, ".venv"),
        ({"CONDA_PREFIX": "other", "CONDA_DEFAULT_ENV": "base"}, False, "other"),
        (
            {"VIRTUAL_ENV": "other", "CONDA_PREFIX": "c", "CONDA_DEFAULT_ENV": "base"},
            True,
            "other",
        ),
    ],
)
def test_an_active_environment_takes_precedence(
    tmp_path: Path, script: str, active: dict[str, str], built: bool, chosen: str
) -> None:
    for name in (*SCRIPTS, "tools/environment.sh"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    names = ("python", "python3", "nas-encoder", "snakemake")
    other = programs(tmp_path / "other" / "bin", *names)
    if built:
        programs(tmp_path / ".venv" / "bin", *names)
    done = subprocess.run(
        ["bash", "-euc", 'if [ -x "$0" ]; then "$0"; else . "$0"; python; fi', tmp_path / script],
        env={**active, "PATH": f"{other}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).parent == tmp_path / chosen / "bin"
