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


def install_wheel(repository: Path, folder: Path) -> Path:
    """Build the wheel and install it, alone, into a new environment; return its Python."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--no-input"]
    alone = ["--no-deps", "--no-index"]
    checked(
        [*pip, "wheel", *alone, "--no-build-isolation", "--wheel-dir", folder, repository], folder
    )
    checked([sys.executable, "-m", "venv", "--without-pip", folder / "venv"], folder)
    python = folder / "venv" / "bin" / "python"
    (wheel,) = folder.glob("*.whl")
    checked([*pip, "--python", python, "install", *alone, wheel], folder)
    inherit(folder / "venv")
    return python


def inherit(venv: Path) -> Path:
    """Let a new environment use the packages of this one; return its own folder of packages."""
    (site_packages,) = venv.glob("lib/python3.*/site-packages")
    # The toolkits of this environment. The .pth files *in* these folders are not read, so an
    # editable installation of this package there does not reach the new environment.
    parents = [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
    (site_packages / "parents.pth").write_text("\n".join(parents) + "\n")
    return site_packages
