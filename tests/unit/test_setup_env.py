"""The set-up script: what it repeats after an interruption, how it locks, how it explains."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from tools import setup_env


@pytest.fixture
def env(tmp_path: Path) -> setup_env.Environment:
    environment = setup_env.Environment(tmp_path / ".venv", os.open(os.devnull, os.O_RDONLY))
    environment.state.mkdir(parents=True)
    return environment


def stamp(env: setup_env.Environment, step: setup_env.Step, text: str) -> None:
    (env.state / f"{step.name}.stamp").write_text(text)


def test_pending_is_the_first_step_without_a_right_stamp_and_all_after_it(
    env: setup_env.Environment,
) -> None:
    wanted = setup_env.digests()
    steps = list(setup_env.STEPS)
    assert setup_env.pending(env, wanted) == steps
    for step in steps:
        stamp(env, step, wanted[step.name])
    assert setup_env.pending(env, wanted) == []
    stamp(env, steps[4], "of other requirements")
    assert setup_env.pending(env, wanted) == steps[4:]


def test_digests_follow_the_pins_and_every_step_before(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for file in {file for step in setup_env.STEPS for file in step.inputs}:
        copy = tmp_path / file
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_bytes((setup_env.ROOT / file).read_bytes())
    monkeypatch.setattr(setup_env, "ROOT", tmp_path)
    before = setup_env.digests()
    assert setup_env.digests() == before
    nemo = tmp_path / "requirements" / "nemo.txt"
    nemo.write_text(nemo.read_text() + "# changed\n")
    changed = [name for name, digest in setup_env.digests().items() if digest != before[name]]
    after = ["espnet-nodeps", "espnet", "dev", "project", "espnet-202611", "bytecode"]
    assert changed == ["nemo", *after]


def distribution(site_packages: Path, name: str, *files: str) -> Path:
    folder = site_packages / f"{name}-1.0.dist-info"
    folder.mkdir()
    for file in files:
        (folder / file).touch()
    return folder


def test_packages_that_were_cut_short_are_forgotten_and_whole_ones_kept(tmp_path: Path) -> None:
    whole = distribution(tmp_path, "whole", "METADATA", "INSTALLER", "RECORD")
    distribution(tmp_path, "no_installer", "METADATA", "RECORD")
    distribution(tmp_path, "no_metadata", "RECORD")
    (tmp_path / "~orch").mkdir()
    (tmp_path / "whole").mkdir()
    removed = setup_env.remove_damaged(tmp_path)
    assert removed == ["no_installer-1.0.dist-info", "no_metadata-1.0.dist-info", "~orch"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["whole", whole.name]


def test_a_second_set_up_waits_for_the_first_and_for_its_orphans(tmp_path: Path) -> None:
    lock = tmp_path / ".venv" / "lock"
    second = (
        "import sys; from pathlib import Path; from tools import setup_env\n"
        "with setup_env.locked(Path(sys.argv[1])): print('mine')"
    )
    with setup_env.locked(lock) as descriptor:
        orphan = subprocess.Popen(["sleep", "60"], pass_fds=(descriptor,))
    # This process has let go of the lock; its child still holds it.
    waiting = subprocess.Popen(
        [sys.executable, "-c", second, lock],
        cwd=setup_env.ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert waiting.stdout is not None
    try:
        assert f"process {os.getpid()}); waiting" in waiting.stdout.readline()
        assert waiting.poll() is None
        orphan.kill()
        orphan.wait()
        assert waiting.communicate(timeout=30)[0] == "mine\n"
    finally:
        orphan.kill()
        orphan.wait()
        waiting.kill()
        waiting.wait()


@pytest.mark.parametrize(
    ("output", "remedy"),
    [
        ("OSError: [Errno 28] No space left on device", "Free some space"),
        ("NewConnectionError('...: Name or service not known')\nNo matching distribution", "proxy"),
        ("fatal error: Python.h: No such file or directory", "python3-dev"),
        ("error: command '/usr/bin/gcc' failed: No such file", "gcc"),
        ("ERROR: No matching distribution found for torch==2.13.0", "does not offer"),
        ("something else", "log may tell"),
    ],
)
def test_a_failed_step_is_explained_with_its_log(
    output: str, remedy: str, env: setup_env.Environment
) -> None:
    code = f"import sys; print({output!r}); sys.exit(3)"
    with pytest.raises(setup_env.SetupError) as caught:
        env.run("torch", [sys.executable, "-c", code])
    message = str(caught.value)
    assert remedy in message
    assert "step 'torch' failed (exit status 3)" in message
    assert str(env.state / "torch.log") in message
    assert output.splitlines()[-1] in message


def test_commands_side_by_side_are_all_waited_for_and_one_that_fails_is_enough(
    env: setup_env.Environment, tmp_path: Path
) -> None:
    # Each waits until the other has begun.
    meeting = (
        "import pathlib, sys, time\n"
        "pathlib.Path(sys.argv[1]).touch()\n"
        "while not pathlib.Path(sys.argv[2]).exists(): time.sleep(0.01)\n"
        "print('met by', sys.argv[2]); sys.exit(int(sys.argv[3]))"
    )
    first, second = str(tmp_path / "first"), str(tmp_path / "second")

    def meet(status: int) -> str:
        Path(first).unlink(missing_ok=True)
        Path(second).unlink(missing_ok=True)
        command = [sys.executable, "-c", meeting]
        return env.run(
            "pair", [*command, first, second, "0"], [*command, second, first, str(status)]
        )

    assert sorted(meet(0).splitlines()) == [f"met by {first}", f"met by {second}"]
    with pytest.raises(setup_env.SetupError, match="exit status 5"):
        meet(5)


def test_what_has_no_wheel_is_built_before_the_steps_that_take_it(
    env: setup_env.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [step.name for step in setup_env.STEPS]
    (builds,) = [step for step in setup_env.STEPS if step.beside]
    pips = [step for step in setup_env.STEPS if not callable(step.action)]
    take = [step.name for step in pips if setup_env.WHEELS in step.action]
    assert take == ["espnet-nodeps", "espnet", "dev"]
    assert names.index(builds.name) < names.index(take[0])
    ran: list[tuple[str, ...]] = []

    def run(self: setup_env.Environment, name: str, *commands: Sequence[str | Path]) -> str:
        ran.extend(tuple(map(str, command)) for command in commands)
        return ""

    for step in setup_env.STEPS:
        if step is not builds:
            stamp(env, step, setup_env.digests()[step.name])
    monkeypatch.setattr(setup_env.Environment, "run", run)
    monkeypatch.setattr(setup_env.Environment, "site_packages", lambda self: env.venv)
    setup_env.build(env)
    first, second = ran[:2]
    assert first[3:5] == ("--no-input", "install") and "requirements/nemo.txt" in first
    assert second[3:5] == ("--no-input", "wheel") and "requirements/sources.txt" in second


def test_the_shares_of_all_cores_compile_what_is_imported(
    env: setup_env.Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(setup_env.os, "cpu_count", lambda: 3)
    env.python = Path(sys.executable)
    modules = ["one", "one/two", "one/testing", "one/tests/three", "transformers/models/bert"]
    packages = env.venv / "lib" / "python3.11" / "site-packages"
    for folder in (packages, env.venv / "espnet-202611"):
        for module in modules:
            (folder / module).mkdir(parents=True)
            (folder / module / "__init__.py").touch()
    (packages / "one" / "template.py").write_text("class {{ name }}:\n")
    setup_env.compile_modules(env)
    compiled = {path.parent.parent for path in env.venv.rglob("*.pyc")}
    expected = {packages / name for name in modules[:3]}
    assert compiled == expected | {env.venv / "espnet-202611" / name for name in modules[:3]}


def test_too_little_space_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    setup_env.require_space(tmp_path, 1e-6)
    with pytest.raises(setup_env.SetupError, match="needs 1000000000.0 GiB"):
        setup_env.require_space(tmp_path, 1e9)


def test_variables_that_redirect_an_install_do_not_reach_pip(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PIP_TARGET", "/elsewhere")
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    assert "/elsewhere" not in setup_env.clean_environment().values()


def find_python(python: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["sh", "tools/setup_env.sh", "--help"],
        cwd=setup_env.ROOT,
        env={**os.environ, "PYTHON": python},
        capture_output=True,
        text=True,
    )


def test_an_interpreter_that_does_not_fit_is_named_with_the_reason(tmp_path: Path) -> None:
    assert find_python(sys.executable).returncode == 0
    old = tmp_path / "an old python"
    old.write_text("#!/bin/sh\necho 'is Python 3.6'\nexit 1\n")
    old.chmod(0o755)
    for python, reason in ((str(old), "is Python 3.6"), ("/missing/python", "not found")):
        done = find_python(python)
        assert done.returncode == 1
        assert f"{python}: {reason}" in done.stderr
        assert "make setup PYTHON=" in done.stderr


def names_in(file: Path) -> list[str]:
    lines = (line.split("#")[0].strip() for line in file.read_text().splitlines())
    return [
        re.sub(r"[-_.]+", "-", re.split(r"[=<>\[ ]", line)[0]).lower() for line in lines if line
    ]


def test_everything_that_is_asked_for_is_pinned_exactly() -> None:
    folder = setup_env.ROOT / "requirements"
    pins = folder / "constraints.txt"
    pinned = names_in(pins)
    assert len(pinned) == len(set(pinned)) > 150
    for line in pins.read_text().splitlines():
        assert line.startswith("#") or re.fullmatch(r"[a-z0-9.-]+==[0-9][0-9a-z.]*", line)
    files = [file for file in folder.glob("*.txt") if file != pins]
    asked = {name for file in files for name in names_in(file)}
    assert {"torch", "espnet", "nemo-toolkit", "lhotse", "pytest"} <= asked
    assert asked - {"espnet"} <= set(pinned)
    versions = [
        line
        for file in files
        for line in file.read_text().splitlines()
        if line.startswith("espnet==")
    ]
    assert sorted(versions) == ["espnet==202511", "espnet==202611"]
