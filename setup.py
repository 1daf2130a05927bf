"""Builds the wheel, the sdist and the editable install; all that is declared is in pyproject.toml.

Two things lie outside the packages and must get into every one of them:

* ``conf/`` becomes ``nas_encoder/conf`` in a wheel. An editable install reads the checkout's.
* ``nas_encoder_autoload.pth`` goes into site-packages itself, where its one line is executed by
  every start of Python. It loads ``nas_encoder/autoload.py`` by its own spec, because an import
  would execute ``nas_encoder/__init__.py``, and with it typing and importlib, in every process of
  the environment. The line uses only the two frozen modules of the import system, which are loaded
  before any .pth file is read. Where the package is gone or half removed every step gives None and
  Python starts silently; where the hook fails, ``site`` prints the traceback and goes on.
"""

import base64
import hashlib
import os
import tempfile
import zipfile
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel
from setuptools.command.sdist import sdist

PTH = "nas_encoder_autoload.pth"
CONFIGS = sorted(str(path) for path in Path("conf").rglob("*.*"))


class BuildPy(build_py):
    """Builds the packages, ``conf/`` and the ``.pth`` file."""

    def finalize_options(self) -> None:
        """Add what lies outside the packages to their data."""
        super().finalize_options()
        target = os.path.join(self.build_lib, "nas_encoder", "conf")
        configs = [os.path.relpath(path, "conf") for path in CONFIGS]
        self.data_files.append(("nas_encoder", "conf", target, configs))
        self.data_files.append(("", "nas_encoder", self.build_lib, [PTH]))

    def get_source_files(self) -> list[str]:
        """Return what the sdist must hold, to build from."""
        return [*super().get_source_files(), *CONFIGS]


class EditableWheel(editable_wheel):
    """Adds the ``.pth`` file, which setuptools leaves out of editable installs."""

    def run(self) -> None:
        """Build the wheel as usual, then write it again with the file and its line in RECORD."""
        super().run()
        (wheel,) = Path(self.dist_dir).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            members = [(member, archive.read(member)) for member in archive.infolist()]
        content = Path("nas_encoder", PTH).read_bytes()
        digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b"=").decode()
        line = f"{PTH},sha256={digest},{len(content)}\n".encode()
        with zipfile.ZipFile(wheel, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr(PTH, content)
            for member, data in members:
                is_record = member.filename.endswith(".dist-info/RECORD")
                archive.writestr(member, line + data if is_record else data)


class Sdist(sdist):
    """Leaves out the metadata of the build, which lies in a temporary folder."""

    def make_release_tree(self, base_dir: str, files: list[str]) -> None:
        """Copy the files that belong to the checkout."""
        super().make_release_tree(base_dir, [file for file in files if not os.path.isabs(file)])


# Nothing is built inside the checkout: a stale build/lib would put deleted modules into the next
# wheel, an egg-info beside the packages would pass for an installation, and two builds at a time
# would meet.
with tempfile.TemporaryDirectory() as scratch:
    setup(
        # hydra_plugins is a namespace in which Hydra looks for its plug-ins: no __init__.py.
        packages=[*find_packages(include=["nas_encoder*"]), "hydra_plugins.nas_encoder_searchpath"],
        # Said explicitly, it makes editable installs a plain path to the checkout.
        package_dir={"": "."},
        cmdclass={"build_py": BuildPy, "editable_wheel": EditableWheel, "sdist": Sdist},
        options={"build": {"build_base": scratch}, "egg_info": {"egg_base": scratch}},
    )
