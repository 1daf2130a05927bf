"""Ctrl-C and SIGTERM end a run with a checkpoint; a second process is kept out of its folder."""

from __future__ import annotations

import os
import shlex
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import yaml
from preloaded import ended, fork, wait_until
from search_samples import QUICK, outcome, require_same, two_corpora
from trials_samples import lookup_config, write_table

from nas_encoder.cli.main import main
from nas_encoder.search.folder import RunFolder

STAGE = {"layers": 6, "channels": 4, "operations": 4, "epochs": 3, "warmup_epochs": 0}
SIGNALS = [(signal.SIGINT, 130), (signal.SIGTERM, 143)]
TRIALS = 12


@pytest.fixture(scope="module")
def finished(shared_folder: Callable[..., Path]) -> Path:
    """Return a folder with data, a configuration and the run that nothing interrupted."""

    def search(folder: Path) -> None:
        two_corpora(folder)
        document: dict[str, Any] = {**QUICK, "space": "tdnn_chain", "network": {"output_size": 8}}
        document["trainer"] = {**document["trainer"], "checkpoint_minutes": 60}
        text = yaml.safe_dump({**document, "stages": [STAGE]})
        (folder / "search.yaml").write_text(text)
        with pytest.MonkeyPatch.context() as patch:
            without_report(patch)
            assert main(words_of(folder, folder / "whole")) == 0

    return shared_folder("interruptions", search)


def without_report(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("nas_encoder.search.run.write_report", lambda folder: None)


@pytest.fixture
def started() -> Iterator[list[BaseProcess]]:
    with ended() as processes:
        yield processes


def words_of(folder: Path, output: Path) -> list[str]:
    data = ["--train", str(folder / "train"), "--valid", str(folder / "valid")]
    words = ["search", "--config", str(folder / "search.yaml"), *data]
    return [*words, "--output", str(output), "--seed", "3"]


def start(started: list[BaseProcess], words: list[str], said: Path) -> BaseProcess:
    prepare = "test_run_interruptions:held_in_the_middle"
    started.append(fork("preloaded:command_line", words, prepare, said=said))
    return started[-1]


def held(output: Path) -> Path:
    """Return the file that says that a process waits in its midst until the file is removed."""
    return output.with_name("held")


def held_in_the_middle(words: list[str]) -> None:
    """Let this process wait in its fourth step, of six, or in its fourth trial."""
    from nas_encoder.search.trials import study
    from nas_encoder.training.steps import WeightSteps

    without_report(pytest.MonkeyPatch())
    file, calls = held(Path(words[words.index("--output") + 1])), 0

    def waiting(function: Callable[..., Any]) -> Callable[..., Any]:
        def wait(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == 4:
                file.touch()
            while calls == 4 and file.exists():
                time.sleep(0.005)
            return function(*arguments)

        return wait

    WeightSteps.weight_step = waiting(WeightSteps.weight_step)  # type: ignore[method-assign]
    study.evaluate = waiting(study.evaluate)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), SIGNALS)
def test_a_signal_writes_a_checkpoint_and_names_the_command(
    finished: Path,
    tmp_path: Path,
    started: list[BaseProcess],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    output = tmp_path / "my run"
    words = words_of(finished, output)
    process = start(started, words, tmp_path / "said")
    wait_until(held(output).exists, process)
    assert process.pid is not None
    first = RunFolder(output).load_checkpoint()
    # A second process, and one that would resume, are kept out while it lives.
    for more in ([], ["--resume"]):
        other = start(started, [*words, *more], tmp_path / "other")
        other.join(120)
        said = (tmp_path / "other").read_text()
        assert other.exitcode == 2, said
        assert f"run folder {output}: is in use by process {process.pid} on " in said
        assert "running since 20" in said and "search --config" in said
    os.kill(process.pid, number)
    held(output).unlink()
    process.join(120)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == status, said
    command = shlex.join(["nas-encoder", *words, "--resume"])
    assert f"{number.name}: stopping after this step" in said
    assert f"stopped by {number.name}; go on with:\n  {command}\n" in said
    assert "Traceback" not in said
    state = RunFolder(output).load_checkpoint()
    assert first is not None and state is not None
    places = [(kept["position"]["epoch"], kept["position"]["step"]) for kept in (first, state)]
    assert places[1] > places[0]
    assert not list(output.glob(".*"))  # neither a lock nor a temporary file is left
    # The command that was named goes on to what an uninterrupted run finds.
    without_report(monkeypatch)
    assert main(shlex.split(command)[1:]) == 0
    require_same(outcome(output), outcome(finished / "whole"))


@pytest.mark.slow
def test_a_killed_run_is_no_obstacle(
    finished: Path,
    tmp_path: Path,
    started: list[BaseProcess],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "run"
    process = start(started, words_of(finished, output), tmp_path / "said")
    wait_until(held(output).exists, process)
    process.kill()
    process.join()
    assert (output / ".run.lock").exists()  # as it was left
    without_report(monkeypatch)
    assert main([*words_of(finished, output), "--resume"]) == 0
    assert not list(output.glob(".*"))
    require_same(outcome(output), outcome(finished / "whole"))


@pytest.mark.slow
def test_a_search_by_trials_that_is_interrupted(
    tmp_path: Path, started: list[BaseProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "t.sqlite", "tdnn_chain", 60)
    path, output = tmp_path / "search.yaml", tmp_path / "run"
    document = lookup_config("evolution", table, trials={"count": TRIALS}).to_dict()
    path.write_text(yaml.safe_dump(document))
    words = ["search", "--config", str(path), "--output", str(output)]
    process = start(started, words, tmp_path / "said")
    wait_until(held(output).exists, process)
    assert process.pid is not None
    second = start(started, words, tmp_path / "other")  # not without --resume
    second.join(120)
    said = (tmp_path / "other").read_text()
    assert second.exitcode == 2 and "is in use by process" in said and "--resume" in said
    os.kill(process.pid, signal.SIGINT)
    process.join(120)
    said = (tmp_path / "said").read_text()
    assert process.exitcode == 130, said
    command = shlex.join(["nas-encoder", *words, "--resume"])
    assert f"stopped by SIGINT; go on with:\n  {command}\n" in said
    assert not list(output.glob(".*"))
    without_report(monkeypatch)
    assert main(shlex.split(command)[1:]) == 0
    assert len(RunFolder(output).rows()) == TRIALS
