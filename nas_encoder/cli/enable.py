"""Register the encoders with ESPnet and NeMo in this Python environment.

An installed package does so by itself. This command is for the cases in which it cannot: the
package is used from a folder on PYTHONPATH or from ``pip install --target``, or its start-up
file was removed. It writes that file, ``nas_encoder_autoload.pth``, to a folder of this
environment in which Python looks for such files.
"""

from __future__ import annotations

import argparse
import os
import shutil
import site
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

import nas_encoder
from nas_encoder.autoload import SWITCH, enabled
from nas_encoder.errors import ConfigError, InputError

EXAMPLES = """examples:
  nas-encoder enable
  nas-encoder enable --site-dir /opt/venv/lib/python3.11/site-packages
  NAS_ENCODER_AUTOLOAD=0 python train.py     # off for one run
"""

PTH = "nas_encoder_autoload.pth"
PACKAGE = Path(nas_encoder.__file__).resolve().parent

_PROBE = "import sys; print(any(getattr(f, 'nas_encoder_hook', False) for f in sys.meta_path))"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--site-dir",
        type=Path,
        metavar="DIR",
        help="folder to write to (default: this environment's site-packages, else the user's)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the start-up file unless the hook works; return 1 if it does not work afterwards."""
    present = hook_files()
    if args.site_dir is None and present and active_at_startup():
        print(f"already enabled by {present[0]}")
    else:
        folders = site_folders() if args.site_dir is None else [_checked(args.site_dir)]
        print(f"enabled: wrote {_write_to_first(folders)}")
        if not active_at_startup():
            print(
                "but Python does not find the package nas_encoder when it starts; install it "
                f"(pip install {PACKAGE.parent}) or put it on the path "
                f"(PYTHONPATH={PACKAGE.parent})"
            )
            return 1
    if not enabled():
        print(f"note: {SWITCH}={os.environ[SWITCH]} is set here and switches it off")
    return 0


def site_folders() -> list[Path]:
    """Return the folders whose ``.pth`` files this Python reads at start-up, best first."""
    names = [] if sys.flags.no_site else list(site.getsitepackages())
    purelib = sysconfig.get_path("purelib")
    names.sort(key=lambda name: name != purelib)  # first where pip would install
    if site.ENABLE_USER_SITE:
        names.append(site.getusersitepackages())
    return list(dict.fromkeys(Path(name) for name in names))


def hook_files() -> list[Path]:
    """Return the start-up files in place, wherever they come from."""
    return [path for folder in site_folders() if (path := folder / PTH).is_file()]


def active_at_startup() -> bool:
    """Whether Python has the hook when started as the user would, from a neutral folder."""
    environment = {name: value for name, value in os.environ.items() if name != SWITCH}
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            cwd=folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
    return done.stdout.strip() == "True"


def _checked(folder: Path) -> Path:
    if folder.resolve() not in {known.resolve() for known in site_folders()}:
        known = ", ".join(map(str, site_folders())) or "none"
        raise InputError(
            f"--site-dir: {folder} is no folder in which {sys.executable} reads .pth files; "
            f"those are: {known}"
        )
    return folder


def _write_to_first(folders: list[Path]) -> Path:
    """Write the file to the first writable folder."""
    refused = []
    for folder in folders:
        target = folder / PTH
        temporary = folder / f".{PTH}.{os.getpid()}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(PACKAGE / PTH, temporary)
            os.replace(temporary, target)
        except OSError as error:
            temporary.unlink(missing_ok=True)
            refused.append(f"{target}: cannot be written: {error.strerror or error}")
        else:
            return target
    refused = refused or ["this Python reads no .pth file anywhere (started with -S?)"]
    raise ConfigError(
        "no start-up file could be written",
        [*refused, "make one of these writable, or work in a virtual environment"],
    )
