"""The built wheel, installed into an environment of its own: what is inside, and that it works.

The environment sees torch and PyYAML of the one that runs the tests through a path file; the
checkout is not on its path, so whatever works here works from the wheel alone.
"""

from __future__ import annotations

import os
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

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


def install_editable(venv: Venv, repository: Path) -> None:
    options = ("--no-deps", "--no-index", "--no-build-isolation")
    venv.pip("install", *options, "--editable", repository)


@pytest.fixture(scope="module")
def wheel(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    options = ["--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder]
    checked([sys.executable, "-m", "pip", "wheel", *options, repository], folder)
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture
def installed(wheel: Path, tmp_path: Path) -> Venv:
    venv = Venv.create(tmp_path / "venv")
    venv.pip("install", "--no-deps", "--no-index", wheel)
    return venv


def files_below(folder: Path) -> set[str]:
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


def test_wheel_holds_the_package_the_configs_and_the_hook_and_nothing_else(
    wheel: Path, repository: Path
) -> None:
    package = {f"nas_encoder/{name}" for name in files_below(repository / "nas_encoder")}
    configs = {f"nas_encoder/conf/{name}" for name in files_below(repository / "conf")}
    plugins = {f"hydra_plugins/{name}" for name in files_below(repository / "hydra_plugins")}
    assert "nas_encoder/py.typed" in package
    assert "nas_encoder/genotype/zoo/darts_v2.yaml" in package
    assert "nas_encoder/conf/search/tiny.yaml" in configs
    # An __init__.py beside it would hide the Hydra plug-ins of all other distributions.
    assert plugins == {"hydra_plugins/nas_encoder_searchpath/__init__.py"}
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        metadata = archive.read(f"nas_encoder-{nas_encoder.__version__}.dist-info/METADATA")
        license_name = f"nas_encoder-{nas_encoder.__version__}.dist-info/licenses/LICENSE"
        assert archive.read(license_name) == (repository / "LICENSE").read_bytes()
    assert names == package | configs | plugins | {PTH}
    # The base install needs these two alone, so that it never disturbs a toolkit.
    needed = [
        line.removeprefix("Requires-Dist: ").split(">")[0]
        for line in metadata.decode().splitlines()
        if line.startswith("Requires-Dist: ") and "extra ==" not in line
    ]
    assert sorted(needed) == ["pyyaml", "torch"]


def test_installed_wheel_works_and_uninstalls_without_a_trace(
    installed: Venv, repository: Path
) -> None:
    zoo = checked([installed.folder / "bin" / "nas-encoder", "zoo"], installed.folder)
    assert "darts_v2" in zoo
    where = installed.code("import nas_encoder; print(nas_encoder.__file__)").stdout
    assert Path(where.strip()).is_relative_to(installed.site_packages)
    assert (installed.site_packages / "nas_encoder" / "conf" / "search" / "tiny.yaml").is_file()
    installed.pip("uninstall", "--yes", "nas_encoder")
    assert not list(installed.site_packages.glob("*nas_encoder*"))
    # pip leaves the namespace folder, which it takes for another's: empty, so without effect.
    assert not list((installed.site_packages / "hydra_plugins").iterdir())


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_hydra_finds_the_nemo_configs(
    kind: str, wheel: Path, repository: Path, tmp_path: Path
) -> None:
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
    if kind == "wheel":
        venv.pip("install", "--no-deps", "--no-index", wheel)
    else:
        install_editable(venv, repository)
    expected = "NAS-CTC-Char nas_encoder.nemo.NASEncoder []\n"
    assert checked(command, tmp_path) == expected
    # The application's own file of that name wins.
    (tmp_path / "nas_ctc_char.yaml").write_text("{name: own, model: {encoder: {_target_: x}}}")
    assert checked((*command, f"--config-path={tmp_path}"), tmp_path) == "own x []\n"


HOOKED = "import sys; print(any(hasattr(f, 'nas_encoder_hook') for f in sys.meta_path))"


@pytest.mark.parametrize("kind", ["wheel", "editable"])
def test_hook_is_active_from_the_start_and_can_be_switched_off(
    kind: str, wheel: Path, repository: Path, tmp_path: Path
) -> None:
    venv = Venv.create(tmp_path / "venv")
    assert venv.code(HOOKED).stdout == "False\n"
    if kind == "wheel":
        venv.pip("install", "--no-deps", "--no-index", wheel)
    else:
        install_editable(venv, repository)
        # The .pth file and the path to the checkout, no copies that would grow stale.
        assert not (venv.site_packages / "nas_encoder").exists()
    assert venv.code(HOOKED).stdout == "True\n"
    assert venv.code(HOOKED, NAS_ENCODER_AUTOLOAD="0").stdout == "False\n"
    venv.pip("uninstall", "--yes", "nas_encoder")
    assert not (venv.site_packages / PTH).exists()


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


@pytest.mark.parametrize("left", ["nothing", "empty folder", "__init__.py"])
def test_python_starts_silently_where_the_package_is_half_removed(
    left: str, installed: Venv
) -> None:
    package = installed.site_packages / "nas_encoder"
    delete(package, keep=left)
    if left == "nothing":
        package.rmdir()
    assert (installed.site_packages / PTH).exists()
    done = installed.code("print('started')")
    assert (done.returncode, done.stdout, done.stderr) == (0, "started\n", "")


def test_python_starts_where_the_hook_itself_fails_and_says_so(installed: Venv) -> None:
    (installed.site_packages / "nas_encoder" / "autoload.py").write_text("raise OSError('broken')")
    done = installed.code("print('started')")
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert "OSError: broken" in done.stderr
