"""New environments with nothing but the built wheel, and the toolkits of this one."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ENVIRONMENT = {
    key: value
    for key, value in os.environ.items()
    if key not in ("PYTHONPATH", "NAS_ENCODER_AUTOLOAD") and not key.startswith("PIP_")
}

# ESPnet 202611, which hides the one of this environment where it comes first on the path.
NEWER_ESPNET = Path(sys.prefix) / "espnet-202611"


def checked(command: Sequence[str | Path], folder: Path) -> str:
    done = subprocess.run(
        [str(part) for part in command],
        cwd=folder,
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    return done.stdout + done.stderr


PIP = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]


def build_wheel(source: Path, folder: Path) -> Path:
    """Build a checkout's wheel into a folder, and return it."""
    alone = ["--no-deps", "--no-index", "--no-build-isolation"]
    checked([*PIP, "wheel", *alone, "--wheel-dir", folder, source], source)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install_wheel(wheel: Path, folder: Path, *first: Path) -> Path:
    """Install the wheel, alone, into a new environment; return its Python."""
    checked([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder)
    python = folder / "venv" / "bin" / "python"
    checked([*PIP, "--python", python, "install", "--no-deps", "--no-index", wheel], folder)
    inherit(folder / "venv", *first)
    return python


def inherit(venv: Path, *first: Path) -> Path:
    """Let a new environment use some folders of packages, and those of this one.

    Returns:
        Its own folder of packages.
    """
    (site_packages,) = venv.glob("lib/python3.*/site-packages")
    # The toolkits of this environment. The .pth files *in* these folders are not read, so an
    # editable installation of this package there does not reach the new environment.
    parents = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "parents.pth").write_text("\n".join([*map(str, first), *parents]) + "\n")
    return site_packages
