"""What setup.py builds: what is inside, and that each way to install it works and leaves no trace.

Every installation has an environment of its own. That sees torch, PyYAML and setuptools of the
one that runs the tests through a path file; the checkout is not on its path, so whatever works
here works from what was installed alone.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest
import tomllib
from wheel_environment import build_wheel

import nas_encoder

pytestmark = pytest.mark.slow

PTH = "nas_encoder_autoload.pth"
ENVIRONMENT = {
    key: value
    for key, value in os.environ.items()
    if key not in ("PYTHONPATH", "NAS_ENCODER_AUTOLOAD") and not key.startswith("PIP_")
}


def run(
    command: Sequence[str | Path], cwd: Path, **variables: str
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env={**ENVIRONMENT, **variables},
        capture_output=True,
        text=True,
        timeout=300,
    )


def checked(command: Sequence[str | Path], cwd: Path, **variables: str) -> str:
    done = run(command, cwd, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@dataclass(frozen=True)
class Venv:
    folder: Path

    @classmethod
    def create(cls, folder: Path) -> Venv:
        checked([sys.executable, "-m", "venv", "--without-pip", folder], folder.parent)
        venv = cls(folder)
        # A path file adds the folder, but the .pth files in it (an editable nas_encoder among
        # them) are not read.
        (venv.site_packages / "parent.pth").write_text(sysconfig.get_path("purelib") + "\n")
        return venv

    @property
    def python(self) -> Path:
        return self.folder / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return next((self.folder / "lib").glob("python3.*/site-packages"))

    def pip(self, *arguments: str | Path) -> str:
        pip = [sys.executable, "-m", "pip", "--python", self.python, "--no-input"]
        return checked([*pip, *arguments], self.folder.parent, PIP_DISABLE_PIP_VERSION_CHECK="1")

    def code(self, code: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return run([self.python, "-c", code], self.folder, **variables)


OFFLINE = ("--no-deps", "--no-index", "--no-build-isolation")
KINDS = ("folder", "editable", "wheel", "sdist")


@dataclass(frozen=True)
class Built:
    """What there is to install."""

    folder: Path
    wheel: Path
    sdist: Path

    def install(self, kind: str, venv: Venv) -> None:
        option = ("--editable",) if kind == "editable" else ()
        source = self.folder if kind == "editable" else getattr(self, kind)
        venv.pip("install", *OFFLINE, *option, source)


@pytest.fixture(scope="module")
def built(repository: Path, wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    build = [sys.executable, "-m", "build", "--no-isolation", "--sdist", "--outdir", folder]
    checked([*build, repository], folder)
    (sdist,) = folder.glob("*.tar.gz")
    return Built(repository, wheel, sdist)


@pytest.fixture(scope="module")
def unpacked(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sdist's folder."""
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(built.sdist) as archive:
        archive.extractall(folder)
    (project,) = folder.iterdir()
    return project


@pytest.fixture
def installed(built: Built, tmp_path: Path) -> Venv:
    venv = Venv.create(tmp_path / "venv")
    built.install("wheel", venv)
    return venv


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return {name for name in archive.namelist() if ".dist-info/" not in name}


def test_wheel_holds_the_package_the_configs_and_the_hook_and_nothing_else(
    built: Built, repository: Path
) -> None:
    package = {f"nas_encoder/{name}" for name in files_below(repository / "nas_encoder")}
    configs = {f"nas_encoder/conf/{name}" for name in files_below(repository / "conf")}
    plugins = {f"hydra_plugins/{name}" for name in files_below(repository / "hydra_plugins")}
    assert "nas_encoder/py.typed" in package
    assert "nas_encoder/genotype/zoo/darts_v2.yaml" in package
    assert "nas_encoder/conf/search/tiny.yaml" in configs
    # An __init__.py beside it would hide the Hydra plug-ins of all other distributions.
    assert plugins == {"hydra_plugins/nas_encoder_searchpath/__init__.py"}
    assert names_in(built.wheel) == package | configs | plugins | {PTH}


def test_sdist_holds_what_the_wheel_is_built_from_and_nothing_else(
    built: Built, unpacked: Path, repository: Path, tmp_path: Path
) -> None:
    assert names_in(build_wheel(unpacked, tmp_path / "wheel")) == names_in(built.wheel)
    sources = {
        f"{folder}/{name}"
        for folder in ("nas_encoder", "hydra_plugins", "conf")
        for name in files_below(repository / folder)
    }
    project = {"LICENSE", "README.md", "pyproject.toml", "setup.py"}
    assert files_below(unpacked) - {"PKG-INFO", "setup.cfg"} == sources | project


def test_building_leaves_nothing_in_the_checkout_and_takes_nothing_from_an_earlier_build(
    unpacked: Path, tmp_path: Path
) -> None:
    project = Path(shutil.copytree(unpacked, tmp_path / "with blank"))
    stale = project / "nas_encoder" / "stale.py"
    stale.touch()
    before = files_below(project)
    assert "nas_encoder/stale.py" in names_in(build_wheel(project, tmp_path / "first"))
    assert files_below(project) == before
    stale.unlink()
    assert "nas_encoder/stale.py" not in names_in(build_wheel(project, tmp_path / "second"))


HOOKED = "import sys; print(any(hasattr(f, 'nas_encoder_hook') for f in sys.meta_path))"
METADATA = """
import json
from importlib.metadata import distribution
found = distribution("nas_encoder")
print(json.dumps({
    "version": found.version,
    "entry points": {point.name: point.value for point in found.entry_points},
    "needed": [line for line in found.requires if "extra ==" not in line],
    "extras": sorted(found.metadata.get_all("Provides-Extra")),
    "license": [found.metadata["License-Expression"], found.read_text("licenses/LICENSE")],
}))
"""


@pytest.mark.parametrize("kind", KINDS)
def test_every_installation_works_and_goes_without_a_trace(
    kind: str, built: Built, repository: Path, tmp_path: Path
) -> None:
    venv = Venv.create(tmp_path / "venv")
    before = files_below(venv.folder)
    assert venv.code(HOOKED).stdout == "False\n"
    built.install(kind, venv)
    assert venv.code(HOOKED).stdout == "True\n"
    assert venv.code(HOOKED, NAS_ENCODER_AUTOLOAD="0").stdout == "False\n"
    where = Path(venv.code("import nas_encoder; print(nas_encoder.__file__)").stdout.strip())
    package = (repository if kind == "editable" else venv.site_packages) / "nas_encoder"
    assert where == package / "__init__.py"
    # No copies beside an editable installation: they would grow stale.
    assert (venv.site_packages / "nas_encoder").exists() == (kind != "editable")
    assert "darts_v2" in checked([venv.folder / "bin" / "nas-encoder", "zoo"], venv.folder)
    configs = "from nas_encoder.common.resources import list_configs; print(list_configs('search'))"
    assert "'tiny'" in venv.code(configs).stdout
    for kind, folder, name in (
        ("espnet", "train", "train_asr_nas_small"),
        ("espnet", "decode", "decode_ctc"),
        ("nemo", "train", "nas_ctc_bpe"),
    ):
        command = [venv.folder / "bin" / "nas-encoder", "config", kind, name]
        shipped = repository / "conf" / folder / kind / f"{name}.yaml"
        assert checked(command, venv.folder) == shipped.read_text(encoding="utf-8")

    project = tomllib.loads((repository / "pyproject.toml").read_text())["project"]
    assert json.loads(venv.code(METADATA).stdout) == {
        "version": nas_encoder.__version__,
        "entry points": {"nas-encoder": "nas_encoder.cli.main:main"},
        # These two alone, so that the base installation never disturbs a toolkit.
        "needed": ["torch>=2.4", "PyYAML>=5.1"],
        "extras": sorted(project["optional-dependencies"]),
        "license": ["Apache-2.0", (repository / "LICENSE").read_text()],
    }
    venv.pip("uninstall", "--yes", "nas_encoder")
    # pip leaves the folder hydra_plugins, which it takes for another's: empty, without effect.
    assert files_below(venv.folder) == before
    assert venv.code(HOOKED).stdout == "False\n"


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_hydra_finds_the_nemo_configs(kind: str, built: Built, tmp_path: Path) -> None:
    venv = Venv.create(tmp_path / "venv")
    app = tmp_path / "app.py"
    app.write_text(
        "import sys, hydra\n"
        "@hydra.main(version_base=None, config_path=None)\n"
        "def main(cfg):\n"
        "    loaded = [name for name in ('torch', 'nemo') if name in sys.modules]\n"
        "    print(cfg.name, cfg.model.encoder._target_, loaded)\n"
        "main()\n"
    )
    command = (venv.python, app, "--config-name=nas_ctc_char", "hydra.output_subdir=null")
    command += (f"hydra.run.dir={tmp_path}", "hydra/job_logging=none")
    assert "Cannot find primary config 'nas_ctc_char'" in run(command, tmp_path).stderr
    built.install(kind, venv)
    expected = "NAS-CTC-Char nas_encoder.nemo.NASEncoder []\n"
    assert checked(command, tmp_path) == expected
    # The application's own file of that name wins.
    (tmp_path / "nas_ctc_char.yaml").write_text("{name: own, model: {encoder: {_target_: x}}}")
    assert checked((*command, f"--config-path={tmp_path}"), tmp_path) == "own x []\n"


def test_start_of_python_loads_no_module_more_than_without_the_package(
    installed: Venv,
) -> None:
    listing = "import sys; print(*sorted(sys.modules))"
    assert installed.code(HOOKED).stdout == "True\n"
    with_hook = installed.code(listing)
    (installed.site_packages / PTH).rename(installed.folder / PTH)
    without_hook = installed.code(listing)
    assert with_hook.stderr == without_hook.stderr == ""
    assert with_hook.stdout == without_hook.stdout


def delete(folder: Path, keep: str | None) -> None:
    """Remove a package's files; with ``keep``, all but that one."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.name != keep and path.is_file():
            path.unlink()
        elif path.is_dir() and not any(path.iterdir()):
            path.rmdir()


def test_python_starts_silently_where_the_package_is_half_removed(installed: Venv) -> None:
    package = installed.site_packages / "nas_encoder"
    for left in ("__init__.py", "empty folder", "nothing"):
        delete(package, keep=left)
        if left == "nothing":
            package.rmdir()
        assert (installed.site_packages / PTH).exists()
        done = installed.code("print('started')")
        assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", ""), left


def test_python_starts_where_the_hook_itself_fails_and_says_so(installed: Venv) -> None:
    (installed.site_packages / "nas_encoder" / "autoload.py").write_text("raise OSError('broken')")
    done = installed.code("print('started')")
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert "OSError: broken" in done.stderr
