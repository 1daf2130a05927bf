"""Ctrl-C and SIGTERM end a run with a checkpoint; a second process is kept out of its folder."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from search_samples import QUICK, outcome, require_same, two_corpora
from trials_samples import lookup_config, write_table

from nas_encoder.cli.main import main
from nas_encoder.search.folder import RunFolder
from nas_encoder.training.holding import CHECKPOINT

# Long enough to be met in its midst, and quick to finish.
STAGE = {"layers": 6, "channels": 4, "operations": 4, "epochs": 20, "warmup_epochs": 0}
SLOWLY = """
import sys, time
from nas_encoder.cli.main import main
from nas_encoder.training.steps import WeightSteps
step = WeightSteps.weight_step
def slow(self, *arguments):
    time.sleep(2.5)
    return step(self, *arguments)
WeightSteps.weight_step = slow
if "--train" not in sys.argv:
    import nas_encoder.search.trials.study as study
    evaluate = study.evaluate
    def slow_trial(*arguments):
        time.sleep(0.5)
        evaluate(*arguments)
    study.evaluate = slow_trial
import nas_encoder.search.run as run
run.write_report = lambda folder: None
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    return two_corpora(tmp_path_factory.mktemp("corpus"))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "search.yaml"
    document: dict[str, Any] = {**QUICK, "space": "tdnn_chain", "network": {"output_size": 8}}
    document["trainer"] = {**document["trainer"], "checkpoint_minutes": 60}
    path.write_text(yaml.safe_dump({**document, "stages": [STAGE]}))
    return path


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.wait()
        assert process.stderr is not None
        process.stderr.close()


def start(started: list[subprocess.Popen[str]], *words: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", SLOWLY, *words],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    started.append(process)
    return process


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    until = time.monotonic() + 240
    while not path.exists():
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < until
        time.sleep(0.02)


def words_of(config: Path, corpus: tuple[str, str], output: Path) -> list[str]:
    data = ["--train", corpus[0], "--valid", corpus[1]]
    return ["search", "--config", str(config), *data, "--output", str(output), "--seed", "3"]


@pytest.mark.slow
@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_writes_a_checkpoint_and_names_the_command(
    config: Path,
    corpus: tuple[str, str],
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    status: int,
) -> None:
    output = tmp_path / "my run"
    words = words_of(config, corpus, output)
    process = start(started, *words)
    wait_for(output / CHECKPOINT, process)
    first = RunFolder(output).load_checkpoint()
    time.sleep(0.3)  # somewhere in an epoch
    # A second process, and one that would resume, are kept out while it lives.
    others = [start(started, *words), start(started, *words, "--resume")]
    for other in others:
        said = other.communicate()[1]
        assert other.returncode == 2, said
        assert f"run folder {output}: is in use by process {process.pid} on " in said
        assert "running since 20" in said and "search --config" in said
    process.send_signal(number)
    said = process.communicate()[1]
    assert process.returncode == status, said
    command = shlex.join(["nas-encoder", *words, "--resume"])
    assert f"stopped by {number.name}; go on with:\n  {command}\n" in said
    assert "Traceback" not in said
    state = RunFolder(output).load_checkpoint()
    assert first is not None and state is not None
    places = [(kept["position"]["epoch"], kept["position"]["step"]) for kept in (first, state)]
    assert places[1] > places[0]
    assert not list(output.glob(".*"))  # neither a lock nor a temporary file is left
    # The command that was named goes on to what an uninterrupted run finds.
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)
    assert main(shlex.split(command)[1:]) == 0
    whole = tmp_path / "whole"
    assert main(words_of(config, corpus, whole)) == 0
    require_same(outcome(output), outcome(whole))


@pytest.mark.slow
def test_a_killed_run_is_no_obstacle(
    config: Path,
    corpus: tuple[str, str],
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    output = tmp_path / "run"
    process = start(started, *words_of(config, corpus, output))
    wait_for(output / CHECKPOINT, process)
    process.kill()
    process.wait()
    assert (output / ".run.lock").exists()  # as it was left
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)
    assert main([*words_of(config, corpus, output), "--resume"]) == 0
    assert not list(output.glob(".*"))


@pytest.mark.slow
def test_a_search_by_trials_that_is_interrupted(
    tmp_path: Path, started: list[subprocess.Popen[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write_table(tmp_path / "t.sqlite", "tdnn_chain", 60)
    path, output = tmp_path / "search.yaml", tmp_path / "run"
    document = lookup_config("evolution", table, trials={"count": 200}).to_dict()
    path.write_text(yaml.safe_dump(document))
    words = ["search", "--config", str(path), "--output", str(output)]
    process = start(started, *words)
    wait_for(output / "metrics.jsonl", process)
    second = start(started, *words)  # not without --resume
    said = second.communicate()[1]
    assert second.returncode == 2 and "is in use by process" in said and "--resume" in said
    process.send_signal(signal.SIGINT)
    said = process.communicate()[1]
    assert process.returncode == 130, said
    command = shlex.join(["nas-encoder", *words, "--resume"])
    assert f"stopped by SIGINT; go on with:\n  {command}\n" in said
    assert not list(output.glob(".*"))
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)
    assert main(shlex.split(command)[1:]) == 0
    assert len(RunFolder(output).rows()) == 200
