"""The import hook itself, ``nas-encoder enable|disable``, and ``nas-encoder doctor``.

What the installed wheel's start-up file does is in ``test_setup_wheel_contents.py``, what ESPnet
makes of it in ``test_espnet_*.py``. The toy package here stands for *any* module in
``HOOKS``: the finder knows nothing of a toolkit.
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType

import pytest

import nas_encoder
from nas_encoder import autoload
from nas_encoder.cli.enable import PTH

ROOT = Path(nas_encoder.__file__).resolve().parent.parent


@pytest.fixture
def toys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A package ``toytool`` whose modules in ``toytool.tasks`` the hook serves."""
    tasks = tmp_path / "toytool" / "tasks"
    tasks.mkdir(parents=True)
    for folder in (tasks.parent, tasks):
        (folder / "__init__.py").touch()
    for name in ("one", "two"):
        (tasks / f"{name}.py").write_text("table = ['own']\nloader_then = __loader__\n")
    (tasks / "broken.py").write_text("raise KeyError('the toolkit is broken')\n")
    (tmp_path / "toytool" / "other.py").write_text("table = ['own']\n")
    (tmp_path / "toyreg.py").write_text(
        "def register(module):\n"
        "    if 'ours' not in module.table:\n"
        "        module.table.append('ours')\n"
    )
    (tmp_path / "toyfail.py").write_text(
        "def register(module):\n    raise OSError('no luck today')\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(autoload, "HOOKS", {"toytool.tasks.*": "toyreg"})
    monkeypatch.delenv(autoload.SWITCH, raising=False)
    before, finders = set(sys.modules), list(sys.meta_path)
    autoload.uninstall()
    yield tmp_path
    sys.meta_path[:] = finders
    for name in set(sys.modules) - before:
        if name.startswith("toy"):
            del sys.modules[name]


def load(name: str) -> ModuleType:
    return importlib.import_module(name)


def test_registers_right_after_the_module_executed(toys: Path) -> None:
    assert autoload.install()
    assert load("toytool.tasks.one").table == ["own", "ours"]
    assert load("toytool.tasks.two").table == ["own", "ours"]
    assert load("toytool.other").table == ["own"]


def test_module_sees_its_real_loader_even_while_it_executes(toys: Path) -> None:
    autoload.install()
    module = load("toytool.tasks.one")
    assert module.__spec__ is not None
    for loader in (module.__loader__, module.__spec__.loader, module.loader_then):
        assert type(loader) is SourceFileLoader
    assert pickle.loads(pickle.dumps(module.__spec__.loader.name)) == "toytool.tasks.one"


def test_wrapped_loader_delegates_what_runpy_and_inspect_ask_for(toys: Path) -> None:
    autoload.install()
    spec = importlib.util.find_spec("toytool.tasks.one")
    assert spec is not None and isinstance(spec.loader, autoload.RegisteringLoader)
    assert "table" in spec.loader.get_source("toytool.tasks.one")
    assert spec.loader.get_code("toytool.tasks.one") is not None
    assert not hasattr(spec.loader, "no_such_thing")
    done = run_python("-m", "toytool.tasks.one", PYTHONPATH=f"{toys}{os.pathsep}{ROOT}")
    assert (done.returncode, done.stderr) == (0, "")


def test_modules_imported_before_are_registered_at_once(toys: Path) -> None:
    module = load("toytool.tasks.one")
    assert module.table == ["own"]
    autoload.install()
    assert module.table == ["own", "ours"]


def test_reload_registers_again(toys: Path) -> None:
    autoload.install()
    assert importlib.reload(load("toytool.tasks.one")).table == ["own", "ours"]


def test_install_is_idempotent_also_across_copies_of_the_file(toys: Path) -> None:
    for _ in range(3):
        assert autoload.install()
    spec = importlib.util.spec_from_file_location("another_copy", autoload.__file__)
    assert spec is not None and spec.loader is not None
    copy = importlib.util.module_from_spec(spec)  # as the .pth line loads it
    spec.loader.exec_module(copy)
    assert copy.installed() and copy.install()
    assert sum(hasattr(finder, "nas_encoder_hook") for finder in sys.meta_path) == 1
    copy.uninstall()
    assert not autoload.installed()
    assert load("toytool.tasks.one").table == ["own"]


@pytest.mark.parametrize("value", ["0", "false", "No", " off "])
def test_environment_switches_it_off(
    toys: Path, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(autoload.SWITCH, value)
    assert not autoload.install()
    assert not autoload.installed()
    monkeypatch.setenv(autoload.SWITCH, "1")
    assert autoload.install()


@pytest.mark.parametrize("registration", ["toyfail", "toymissing"])
def test_a_failure_of_ours_warns_and_leaves_the_toolkit_alone(
    toys: Path, registration: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(autoload, "HOOKS", {"toytool.tasks.*": registration})
    autoload.install()
    with pytest.warns(RuntimeWarning) as caught:
        module = load("toytool.tasks.one")
    assert module.table == ["own"]
    text = str(caught[0].message)
    assert "could not register its encoders in toytool.tasks.one" in text
    assert ("no luck today" in text) or ("No module named 'toymissing'" in text)
    assert "nas-encoder doctor" in text and "NAS_ENCODER_AUTOLOAD=0" in text


def test_a_failure_of_ours_stays_a_message_where_warnings_are_errors(
    toys: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(autoload, "HOOKS", {"toytool.tasks.*": "toyfail"})
    autoload.install()  # pytest turns warnings into errors here
    assert load("toytool.tasks.one").table == ["own"]
    assert "could not register its encoders" in capsys.readouterr().err


def test_a_failure_of_the_toolkit_stays_its_own(toys: Path) -> None:
    autoload.install()
    with pytest.raises(KeyError, match="the toolkit is broken"):
        load("toytool.tasks.broken")
    with pytest.raises(ModuleNotFoundError, match="toytool.tasks.absent"):
        load("toytool.tasks.absent")
    assert "toytool.tasks.broken" not in sys.modules


class WalkingFinder:
    """A finder of somebody else that asks all finders, as ours does."""

    def __init__(self) -> None:
        self.busy = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> object:
        if self.busy or not name.startswith("toytool"):
            return None
        self.busy = True
        try:
            for finder in sys.meta_path:
                spec = None if finder is self else finder.find_spec(name, path, target)  # type: ignore[arg-type]
                if spec is not None:
                    return spec
        finally:
            self.busy = False
        return None


@pytest.mark.parametrize("place", [0, 1])
def test_gets_along_with_another_hook(toys: Path, place: int) -> None:
    autoload.install()
    sys.meta_path.insert(place, WalkingFinder())  # type: ignore[arg-type]
    assert load("toytool.tasks.one").table == ["own", "ours"]


def test_every_hook_names_a_registration_that_exists() -> None:
    for target, registration in autoload.HOOKS.items():
        assert target and importlib.util.find_spec(registration) is not None
    assert autoload.hook_for("espnet2.tasks.asr") == "nas_encoder.espnet.registration"
    for name in ("espnet2.tasks", "espnet2", "espnet2.tasks.asr.deeper", "tasks", ""):
        assert autoload.hook_for(name) is None


# --- other processes ---------------------------------------------------------------------------


def run_python(
    *arguments: str | Path, python: Path | str = sys.executable, **variables: str
) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", autoload.SWITCH)}
    return subprocess.run(
        [str(part) for part in (python, *arguments)],
        env=kept | variables,
        cwd=ROOT.anchor,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_the_file_itself_imports_nothing() -> None:
    """Under ``-I -S`` the interpreter has loaded the least; ``site`` itself loads ``os``."""
    code = """
        import sys, os
        before = set(sys.modules)
        with open(sys.argv[1], encoding="utf-8") as file:
            exec(compile(file.read(), sys.argv[1], "exec"), names := {"__name__": "hook"})
        assert names["install"]() and names["installed"]()
        print(sorted(set(sys.modules) - before))
    """
    done = run_python("-I", "-S", "-c", textwrap.dedent(code), autoload.__file__)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An empty environment; the package comes from PYTHONPATH, the rest from this one."""
    folder = tmp_path / "venv"
    made = run_python("-m", "venv", "--without-pip", folder)
    assert made.returncode == 0, made.stderr
    return folder


def site_packages(venv: Path) -> Path:
    return next((venv / "lib").glob("python3.*/site-packages"))


def command(venv: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_python(
        "-m", "nas_encoder", *arguments, python=venv / "bin" / "python", PYTHONPATH=str(ROOT)
    )


PROBE = "import sys; print(any(hasattr(f, 'nas_encoder_hook') for f in sys.meta_path))"


def hooked(venv: Path, **variables: str) -> bool:
    done = run_python("-c", PROBE, python=venv / "bin" / "python", **variables)
    assert done.stderr == ""
    return done.stdout == "True\n"


def test_enable_and_disable_for_a_package_on_pythonpath(venv: Path) -> None:
    target = site_packages(venv) / PTH
    assert not hooked(venv, PYTHONPATH=str(ROOT))
    for expected in ("enabled: wrote", "already enabled by"):
        done = command(venv, "enable")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"{expected} {target}\n"
    assert hooked(venv, PYTHONPATH=str(ROOT))
    assert not hooked(venv)  # without the package: silent, not broken
    assert not hooked(venv, PYTHONPATH=str(ROOT), NAS_ENCODER_AUTOLOAD="0")
    for expected in (f"disabled: removed {target}", "already disabled: no start-up file in"):
        done = command(venv, "disable")
        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout.startswith(expected)
    assert not target.exists() and not list(target.parent.glob(f".{PTH}*"))


def test_enable_says_where_python_will_not_find_the_package(venv: Path) -> None:
    # Found by the current folder now, but not when Python starts elsewhere.
    done = subprocess.run(
        [venv / "bin" / "python", "-m", "nas_encoder", "enable"],
        env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "Python does not find the package nas_encoder when it starts" in done.stdout
    assert f"PYTHONPATH={ROOT}" in done.stdout


def test_enable_refuses_a_folder_that_python_does_not_read(venv: Path, tmp_path: Path) -> None:
    done = command(venv, "enable", "--site-dir", tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path} is no folder in which" in done.stderr
    assert str(site_packages(venv)) in done.stderr
    done = command(venv, "enable", "--site-dir", site_packages(venv))
    assert (done.returncode, done.stderr) == (0, "")


def test_enable_and_disable_name_what_they_cannot_write(
    venv: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A folder in the file's place: refused for root too, whom permissions do not stop.
    (site_packages(venv) / PTH).mkdir()
    done = command(venv, "enable")
    assert done.returncode == 2
    assert f"{site_packages(venv) / PTH}: cannot be written" in done.stderr
    assert "virtual environment" in done.stderr
    assert not list(site_packages(venv).glob(f".{PTH}*"))

    from nas_encoder.cli import disable
    from nas_encoder.cli.main import main

    monkeypatch.setattr(disable, "hook_files", lambda: [site_packages(venv) / PTH])
    assert main(["disable"]) == 2
    assert "cannot be removed" in capsys.readouterr().err


def test_enable_without_any_site_folder_says_so() -> None:
    code = "import sys; sys.path.insert(0, sys.argv.pop(1)); import nas_encoder.cli.main as m"
    done = run_python("-I", "-S", "-c", f"{code}; sys.exit(m.main(['enable']))", ROOT)
    assert done.returncode == 2
    assert "reads no .pth file anywhere" in done.stderr


def test_doctor_without_any_toolkit(venv: Path) -> None:
    done = command(venv, "doctor")
    assert (done.returncode, done.stderr) == (0, "")
    assert "ESPnet       -              not installed" in done.stdout
    assert "pip install 'nas_encoder[espnet]'" in done.stdout
    assert "NeMo         -              not installed" in done.stdout
    assert "Hydra        -              not installed\n" in done.stdout
    assert "torch        -              not installed" in done.stdout


@pytest.mark.slow
@pytest.mark.espnet
@pytest.mark.nemo
def test_doctor_tells_whether_the_toolkits_know_us(venv: Path) -> None:
    (site_packages(venv) / "parents.pth").write_text("\n".join(package_folders()) + "\n")
    done = command(venv, "doctor")
    assert done.returncode == 1
    assert done.stderr == "", "the toolkits' own messages are kept out"
    assert done.stdout.count("NOT registered: no start-up file in this environment") == 2
    configs = "blocks_ctc_bpe, blocks_hybrid_bpe, blocks_rnnt_bpe, blocks_streaming_ctc_bpe, "
    configs += "nas_ctc_bpe, nas_ctc_char, nas_hybrid_bpe, nas_rnnt_bpe"
    assert f"finds our configs: {configs} and 60 for corpora (nas-enc" in done.stdout
    assert "-> nas-encoder enable" in done.stdout

    assert command(venv, "enable").returncode == 0
    done = command(venv, "doctor", "--json")
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert report["nas_encoder"]["location"] == str(ROOT / "nas_encoder")
    assert report["python"]["executable"] == str(venv / "bin" / "python")
    assert report["hook"] == {
        "files": [str(site_packages(venv) / PTH)],
        "active": True,
        "switched_off": False,
    }
    espnet = report["toolkits"]["espnet"]
    assert espnet["registered"] == {
        "nas": "nas_encoder.espnet.encoder.NASEncoder",
        "dfsmn_san": "nas_encoder.espnet.encoder.DFSMNSANEncoder",
    }
    assert espnet["problem"] is None and espnet["version"]
    table = espnet["tables"]["espnet2.tasks.asr.encoder_choices"]
    assert table == {"encoders": ["nas", "dfsmn_san"], "state": "registered", "why": None}
    assert espnet["tables"]["espnet2.tasks.ssl.encoder_choices"]["state"] == "not offered"
    nemo, hydra = report["toolkits"]["nemo"], report["toolkits"]["hydra"]
    for name in ("NASEncoder", "DFSMNSANEncoder"):
        assert nemo["registered"][name] == f"nas_encoder.nemo.{name}"
    assert hydra["registered"]["nas_ctc_bpe"] == str(ROOT / "conf/train/nemo/nas_ctc_bpe.yaml")
    for toolkit in (nemo, hydra):
        assert toolkit["problem"] is None and toolkit["adapter"] and toolkit["version"]


@pytest.mark.nemo
def test_doctor_says_where_the_hydra_plugin_is_missing(venv: Path, tmp_path: Path) -> None:
    (site_packages(venv) / "parents.pth").write_text("\n".join(package_folders()) + "\n")
    (tmp_path / "nas_encoder").symlink_to(ROOT / "nas_encoder")  # without hydra_plugins beside it
    code = "from nas_encoder.cli.doctor import _finding, _toolkit; t = _toolkit('hydra', {});"
    code += "print(_finding(t, 'hydra')); print(t['todo'])"
    done = run_python("-c", code, python=venv / "bin" / "python", PYTHONPATH=str(tmp_path))
    finding, todo = done.stdout.splitlines()
    assert finding == (
        "does NOT find our configs: Python does not find the plug-in "
        "hydra_plugins.nas_encoder_searchpath"
    )
    assert todo == f"pip install {ROOT}, or PYTHONPATH={ROOT}"


def package_folders() -> list[str]:
    """Return the folders of this environment's packages, for a path file."""
    return [path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")]
