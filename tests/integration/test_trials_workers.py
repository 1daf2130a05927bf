"""Many workers on one study: none of its trials is lost or counted twice, whoever dies."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path

import optuna
import pytest
import sqlalchemy
from optuna.trial import FrozenTrial, TrialState
from preloaded import ended, fork
from trials_samples import lookup_config, shared_table, work_in_a_process

from nas_encoder.genotype import load_genotype
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials.storage import INITIAL, WORKER
from nas_encoder.tabular import load_table
from nas_encoder.training.holding import STUDY

COUNT = 24
_SLOW = 0.06  # seconds an epoch; a trial has 9


@pytest.fixture(scope="module")
def source(shared_folder: Callable[..., Path]) -> Path:
    return shared_table(shared_folder)


@pytest.fixture
def processes() -> Iterator[list[BaseProcess]]:
    with ended() as started:
        yield started


def start(config: TrialsConfig, output: Path, url: str | None = None) -> BaseProcess:
    work = "trials_samples:work_in_a_process"
    return fork(work, config.to_dict(), str(output), _SLOW, url)


def trials_of(url: str, name: str) -> list[FrozenTrial]:
    """Return the trials so far; none before there is a study."""
    try:
        study = optuna.load_study(study_name=name, storage=url)
    except (KeyError, RuntimeError, sqlalchemy.exc.DatabaseError):
        # Opening a storage makes its tables, as a worker is doing at this moment.
        return []
    return study.get_trials(deepcopy=False)


def running_of(url: str, name: str, pid: int) -> FrozenTrial | None:
    for trial in trials_of(url, name):
        if trial.state == TrialState.RUNNING and trial.intermediate_values:
            if trial.user_attrs.get(WORKER, {}).get("pid") == pid:
                return trial
    return None


def kill_in_mid_trial(process: BaseProcess, database: Path, name: str) -> FrozenTrial:
    """Kill a worker while it runs a trial of which some epochs are done; return the trial."""
    assert process.pid is not None
    url, until = f"sqlite:///{database}", time.monotonic() + 120
    while time.monotonic() < until:
        found = running_of(url, name, process.pid) if database.exists() else None
        if found is not None:
            os.kill(process.pid, signal.SIGSTOP)  # or it might end the trial before it is killed
            stopped = running_of(url, name, process.pid)
            if stopped is not None:
                os.kill(process.pid, signal.SIGKILL)
                process.join(10)
                return stopped
            os.kill(process.pid, signal.SIGCONT)
        time.sleep(0.02)
    raise AssertionError("the worker never got a trial")


@pytest.mark.slow
def test_four_workers_one_of_which_is_killed(
    source: Path, tmp_path: Path, processes: list[BaseProcess]
) -> None:
    table, points = load_table(str(source)), []
    for place, key in enumerate(table.hashes()[:6]):
        points.append(str(tmp_path / f"point{place}.yaml"))
        table.genotype(key).renamed(f"point{place}").save(points[-1])
    config = lookup_config(
        "evolution",
        source,
        trials={"count": COUNT, "initial": points},
        evolution={"population": 8, "sample": 3},
        objective={"macs": 1.55e7},
    )
    output = tmp_path / "run"
    output.mkdir()
    url = f"sqlite:///{output / STUDY}"
    processes += [start(config, output) for _ in range(4)]
    lost = kill_in_mid_trial(processes[1], output / STUDY, config.study_name)
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, -signal.SIGKILL, 0, 0]

    trials = trials_of(url, config.study_name)
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == COUNT
    given = [t.user_attrs[INITIAL]["name"] for t in complete if INITIAL in t.user_attrs]
    assert sorted(given) == [f"point{place}" for place in range(6)]
    assert not [t for t in trials if t.state in (TrialState.RUNNING, TrialState.WAITING)]
    # Its trial failed, and its parameters were run by another worker.
    again = trials[lost.number]
    assert again.state == TrialState.FAIL
    retries = [t for t in trials if t.system_attrs.get("failed_trial") == lost.number]
    assert len(retries) == 1 and retries[0].state == TrialState.COMPLETE
    assert retries[0].params == lost.params
    pids = {trial.user_attrs[WORKER]["pid"] for trial in complete}
    assert pids <= {process.pid for process in processes} and len(pids) >= 3

    rows = RunFolder(output).rows()
    assert sorted(row["number"] for row in rows) == [trial.number for trial in complete]
    best = load_genotype(output / "genotype.yaml").provenance["validation"]
    assert best["token_error_rate"] == min(row["error"] for row in rows)


@pytest.mark.slow
def test_a_worker_of_another_machine_is_missed_by_its_heartbeat(
    source: Path, tmp_path: Path, processes: list[BaseProcess], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process cannot be looked up from here; only its silence shows that it is dead."""
    config = lookup_config("random", source, trials={"count": 4, "heartbeat": 1})
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    worker = start(config, tmp_path / "there", url)
    processes.append(worker)
    lost = kill_in_mid_trial(worker, tmp_path / "shared.db", config.study_name)
    monkeypatch.setattr("nas_encoder.search.trials.processes._machine", lambda: "another")
    work_in_a_process(config.to_dict(), str(tmp_path / "here"), 0.0, url)
    trials = trials_of(url, config.study_name)
    assert sum(trial.state == TrialState.COMPLETE for trial in trials) == 4
    assert trials[lost.number].state == TrialState.FAIL
    assert len(RunFolder(tmp_path / "here").rows()) == 4
