"""Packages that add to our tables: installed ones, as pip leaves them, read by a fresh Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nas_encoder.extensions import GROUP, SWITCH


def install(folder: Path, name: str, source: str, target: str = "") -> None:
    """Lay a module and its distribution's metadata into a folder of sys.path."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[{GROUP}]\n{name} = {target or name}\n")


def run(folder: Path, code: str, **environment: str) -> tuple[list[str], str]:
    """Run code in a fresh Python; return the lines that it prints, and what it logs."""
    path = os.pathsep.join([str(folder), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environment},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines(), done.stderr


TOY = """
from nas_encoder import tables
def register():
    tables.SPACES.refer("toy", "toy_ext:SPACE")
    tables.BASELINES.refer("gru", "toy_ext:GRU")
SPACE = "the space"
"""


def test_names_are_read_where_a_table_lacks_one_or_is_listed(tmp_path: Path) -> None:
    install(tmp_path, "toy_ext", TOY, "toy_ext:register")
    code = """
import sys, nas_encoder
from nas_encoder.tables import BASELINES, SPACES, encoder_targets
SPACES["darts"], "darts" in SPACES, nas_encoder.load_genotype("darts_v2")
print({"toy_ext", "importlib.metadata"} & set(sys.modules))
print(SPACES["toy"], list(SPACES)[-1], len(BASELINES))
print(encoder_targets()["gru"], "torch" in sys.modules)
"""
    assert run(tmp_path, code)[0] == [
        "set()",
        "the space toy 2",
        "nas_encoder.nemo.GRUEncoder False",
    ]


def test_a_module_that_registers_on_import_is_enough_and_runs_once(tmp_path: Path) -> None:
    source = """
import threading, time
from nas_encoder.tables import SPACES
assert list(SPACES)[0] == "darts"  # an extension may ask, and does not begin again
time.sleep(0.3)
SPACES.refer("toy", "toy_ext:SPACE")
print("loaded")
"""
    install(tmp_path, "toy_ext", source)
    code = """
import threading
from nas_encoder.tables import BASELINES, SPACES
seen = []
threads = [threading.Thread(target=lambda: seen.append("toy" in SPACES)) for _ in range(8)]
[thread.start() for thread in threads]; [thread.join() for thread in threads]
list(BASELINES)
print(seen == [True] * 8)
"""
    assert run(tmp_path, code)[0] == ["loaded", "True"]


CLASH = """
from nas_encoder.tables import BASELINES, OPERATIONS, SPACES
def space(): SPACES.refer("darts", "clash:OTHER")
def encoder(): BASELINES.refer("other", "clash:DFSMNSAN")
def ours(): BASELINES.refer("own", "clash:NAS")
"""


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("clash:space", "search space 'darts' is registered already"),
        ("clash:encoder", "a class 'DFSMNSAN' is there already"),
        ("clash:ours", "a class 'NAS' is there already"),
        ("clash:nothing", "has no attribute 'nothing'"),
        ("absent_module", "No module named 'absent_module'"),
    ],
)
def test_one_that_fails_is_logged_named_and_keeps_no_other_away(
    tmp_path: Path, target: str, message: str
) -> None:
    install(tmp_path, "clash", CLASH, target)
    install(tmp_path, "toy_ext", TOY, "toy_ext:register")
    code = """
import nas_encoder
from nas_encoder.errors import NasEncoderError
from nas_encoder.tables import BASELINES, SPACES
print(SPACES["toy"], SPACES["darts"].name, sorted(BASELINES))
from nas_encoder.common.problems import Problems
def choose(names):
    problems = Problems()
    problems.choice("toyy", "space", "search space", names)
    raise NasEncoderError(problems.lines[0])
for ask in (
    lambda: SPACES["toyy"],
    lambda: nas_encoder.load_genotype({"space": "toyy"}),
    lambda: choose(SPACES.names(lambda space: True)),
):
    try:
        ask()
    except NasEncoderError as error:
        print(" ".join(str(error).split()))
from nas_encoder.cli import doctor
found = doctor._extensions()
known = {"version": "", "location": "", "executable": "", "files": [], "active": True}
report = {"nas_encoder": known, "python": known, "torch": {"version": None}, "toolkits": {}}
report |= {"hook": known | {"switched_off": False}, "extras": {}, "extensions": found}
for line in doctor.as_text(report):
    if line.startswith("extension"):
        print(line)
"""
    said, logged = run(tmp_path, code)
    assert said[0] == "the space darts ['dfsmn_san', 'gru']"
    assert said[4].startswith("extension    FAILS          clash: ") and message in said[4]
    assert said[5:] == ["extension    ok             toy_ext"]
    for line in said[1:4]:
        assert "(did you mean 'toy'?)" in line
        assert "extensions that failed to load: 'clash' (" in line and message in line
    assert "extension 'clash' failed" in logged
    assert "Traceback" in logged and message in logged


def test_they_can_be_switched_off(tmp_path: Path) -> None:
    install(tmp_path, "toy_ext", TOY, "toy_ext:register")
    code = """
from nas_encoder.tables import SPACES
print(list(SPACES)[-1])
print(SPACES.unknown("toy").partition("; ")[2])
"""
    said, logged = run(tmp_path, code, **{SWITCH: "off"})
    assert said[0] != "toy"
    assert said[1].endswith(f"; extensions are switched off by {SWITCH}='off'")
    assert not logged


@pytest.mark.slow
def test_an_entry_that_cannot_be_imported_breaks_nothing_else_and_says_which(
    tmp_path: Path,
) -> None:
    install(tmp_path, "toy_ext", TOY, "toy_ext:register")
    code = """
from nas_encoder.errors import RegistryError
from nas_encoder.tables import BASELINES
print(list(BASELINES), [cls.__name__ for cls in BASELINES.values()], len(BASELINES.items()))
try:
    BASELINES["gru"]
except RegistryError as error:
    print(error)
print(BASELINES.unknown("gry"))
"""
    said, logged = run(tmp_path, code)
    assert said[0] == "['dfsmn_san', 'gru'] ['DFSMNSAN'] 1"
    failure = "baseline encoder 'gru' cannot be imported from toy_ext:GRU: AttributeError"
    assert said[1].startswith(failure)
    assert f"extensions that failed to load: 'toy_ext' (RegistryError: {failure}" in said[2]
    assert logged.count("Traceback") == 2 and "extension 'toy_ext' failed" in logged
