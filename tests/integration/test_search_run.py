"""Searches from audio files to a genotype: complete, repeatable, killed and resumed."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from preloaded import fork
from search_samples import (
    SEED,
    Stop,
    finished_search,
    measure_costs_once,
    outcome,
    quick_config,
    require_same,
    stop_at,
)

from nas_encoder.cli.main import main
from nas_encoder.common.documents import read_yaml
from nas_encoder.data import TokenSet
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.search import SearchConfig, load_search_config, run_search
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.loop import GradientSearch
from nas_encoder.search.gradient.steps import Steps
from nas_encoder.spaces import get_space
from nas_encoder.training.trainer import Trainer


@pytest.fixture(scope="module")
def corpus(shared_folder: Callable[..., Path]) -> tuple[str, str]:
    """Training and validation data: 12 and 4 utterances of about 0.6 s."""
    return finished_search(shared_folder)[1]


@pytest.fixture(scope="module")
def finished(shared_folder: Callable[..., Path]) -> Path:
    """Return the folder of a quick search that nothing interrupted; not to be changed."""
    return finished_search(shared_folder)[0]


@pytest.fixture
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes as long as the quick search itself."""
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)
    measure_costs_once(monkeypatch)


def test_the_folder_is_complete(finished: Path, corpus: tuple[str, str]) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names >= {
        "config.yaml",
        "run.yaml",
        "tokens.txt",
        "features.json",
        "genotype.yaml",
        "genotypes",
        "last.ckpt",
        "metrics.jsonl",
        "report.html",
        "tensorboard",
    }
    assert not [name for name in names if name.startswith(".")]  # no temporary file is left
    config = load_search_config(finished / "config.yaml")
    assert config == quick_config()
    run = read_yaml(finished / "run.yaml")
    assert (run["seed"], run["train"], run["valid"]) == (SEED, *corpus)
    assert {"version", "commit", "machine", "torch", "began"} <= set(run)
    assert TokenSet.load(finished / "tokens.txt").tokens == ("<blank>", *"abcd")
    assert len(list((finished / "genotypes").iterdir())) == 4
    assert any((finished / "tensorboard").iterdir())


def test_the_genotype_is_a_member_of_the_space(finished: Path) -> None:
    genotype = load_genotype(finished / "genotype.yaml")
    get_space("asr_revised").validate(genotype)
    assert genotype.name == "quick"
    assert genotype.provenance["kind"] == "search"
    assert genotype.provenance["strategy"] == "pdarts"
    assert genotype.provenance["seed"] == SEED
    last = RunFolder(finished).rows()[-1]
    assert genotype.provenance["validation"]["loss"] == last["valid_loss"]
    assert last["genotype"] == genotype.hash


def test_the_metrics_tell_the_whole_course(finished: Path) -> None:
    rows = RunFolder(finished).rows()
    assert [(row["stage"], row["epoch"]) for row in rows] == [(1, 1), (1, 2), (2, 1), (2, 2)]
    # The first epoch of the first stage is warm-up: the architecture does not move.
    assert [row["architecture_loss"] is None for row in rows] == [True, False, False, False]
    for row, count in zip(rows, (8, 8, 3, 3), strict=True):
        for kind in ("normal", "reduction"):
            assert row["uniform_entropy"][kind] == pytest.approx(np.log(count))
            assert len(row["probabilities"][kind]) == 14
            for edge in row["probabilities"][kind]:
                assert len(edge) == count and sum(edge.values()) == pytest.approx(1)
    for kind in ("normal", "reduction"):
        assert rows[1]["entropy"][kind] < rows[0]["entropy"][kind]
        # What is pruned is what was least probable.
        for before, after in zip(
            rows[1]["probabilities"][kind], rows[2]["probabilities"][kind], strict=True
        ):
            kept = sorted(before, key=lambda op: -before[op])[:2]
            assert set(kept) <= set(after) <= set(before)


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_another_seed_gives_another_search(
    finished: Path, corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Steps, "weight_step", stop_at(3, Steps.weight_step))  # of epoch 2
    with pytest.raises(Stop):
        run_search(quick_config(), corpus[0], tmp_path / "other", valid=corpus[1], seed=SEED + 1)
    (first,) = RunFolder(tmp_path / "other").rows()
    assert first["train_loss"] != RunFolder(finished).rows()[0]["train_loss"]


# Where one search ends in turn, and stage, epoch and step that it then goes on from.
ENDS: list[tuple[Any, str, int, tuple[int, int, int]]] = [
    (RunFolder, "save_checkpoint", 5, (0, 1, 1)),  # a step is lost
    (Steps, "weight_step", 1, (0, 1, 1)),  # between the two steps on one batch
    # the stage's end is saved, the next stage has not started
    (GradientSearch, "_finish_stage", 1, (0, 2, 0)),
    (Trainer, "see", 1, (1, 0, 2)),  # an epoch is recorded but not saved
    (RunFolder, "save_result", 1, (1, 2, 0)),  # all is done but for the result
]


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_search_that_ended_anywhere_goes_on(
    finished: Path, corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the same seed gives the same search."""

    def search(resume: bool) -> None:
        run_search(quick_config(), corpus[0], tmp_path, valid=corpus[1], seed=SEED, resume=resume)

    for number, (owner, name, count, place) in enumerate(ENDS):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, stop_at(count, getattr(owner, name)))
            with pytest.raises(Stop):
                search(resume=number > 0)
        assert not (tmp_path / "genotype.yaml").exists()
        state = RunFolder(tmp_path).load_checkpoint()
        assert state is not None
        position = state["position"]
        assert (position["stage"], position["epoch"], position["step"]) == place, name
    search(resume=True)
    require_same(outcome(tmp_path), outcome(finished))


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_a_finished_search_can_be_resumed_and_stays_as_it_is(
    finished: Path, corpus: tuple[str, str], tmp_path: Path
) -> None:
    copy = Path(shutil.copytree(finished, tmp_path / "run"))
    genotype = run_search(quick_config(), corpus[0], copy, valid=corpus[1], seed=SEED, resume=True)
    assert genotype.to_dict() == read_yaml(copy / "genotype.yaml")
    require_same(outcome(copy), outcome(finished))


KILLS = 20


@pytest.mark.slow
def test_kill_9_at_any_moment(corpus: tuple[str, str], finished: Path, tmp_path: Path) -> None:
    """Processes are killed at 20 random moments and restarted until one reaches the end."""
    rng, output = random.Random(11), tmp_path / "run"
    checkpoint = output / "last.ckpt"
    found: list[int | None] = []  # the checkpoint at each kill
    until_a_step = 0.0
    for attempt in range(400):
        began = time.monotonic()
        process = fork("search_samples:search_in_a_process", *corpus, str(output))
        if len(found) < KILLS:
            if attempt % 2 == 0:  # while steps are done
                _wait_for_checkpoint(checkpoint, process)
                until_a_step = time.monotonic() - began
                time.sleep(rng.uniform(0.0, until_a_step / 4))
            else:  # at any moment, often before the first step
                time.sleep(rng.uniform(0.0, until_a_step))
            if process.is_alive():
                os.kill(process.pid, signal.SIGKILL)  # type: ignore[arg-type]
        process.join(timeout=300)
        if process.exitcode == 0:
            require_same(outcome(output), outcome(finished))
            if len(found) >= KILLS:
                break
            shutil.rmtree(output)  # the rest of the kills are of another search
            continue
        assert process.exitcode == -signal.SIGKILL
        found.append(checkpoint.stat().st_mtime_ns if checkpoint.exists() else None)
    assert process.exitcode == 0 and len(found) == KILLS
    assert len(set(found)) >= 8  # not the same moment again and again


def _wait_for_checkpoint(path: Path, process: Any) -> None:
    """Wait until a process has written one more checkpoint, or has ended."""
    before = path.stat().st_mtime_ns if path.exists() else None
    deadline = time.monotonic() + 120
    while process.is_alive() and time.monotonic() < deadline:
        if path.exists() and path.stat().st_mtime_ns != before:
            return
        time.sleep(0.005)


@pytest.mark.slow
def test_the_shipped_tiny_search_from_the_command_line(
    corpus: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    command = ["search", "--config", "tiny", "--train", corpus[0], "--valid", corpus[1]]
    command += ["--output", str(output), "--seed", "1", "--json"]
    command += ["--set", "trainer.score_utterances=4"]
    assert main(command) == 0
    result = json.loads(capsys.readouterr().out)
    genotype = load_genotype(output / "genotype.yaml")
    assert Genotype.from_dict(result["genotype"]) == genotype
    assert result["hash"] == genotype.hash
    get_space("asr_revised").validate(genotype)
    assert genotype.provenance["config"] == "tiny"
    assert "Search of tiny" in (output / "report.html").read_text(encoding="utf-8")
    # The folder is taken.
    assert main(command) == 2
    assert "already holds a run; add --resume" in capsys.readouterr().err
    assert main([*command, "--resume", "--set", "weights.lr=0.1"]) == 2
    assert "weights.lr: was 0.005 when the run began, now 0.1" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.usefixtures("no_report")
def test_the_validation_data_may_move_the_architecture(
    corpus: tuple[str, str], tmp_path: Path
) -> None:
    config = SearchConfig.from_dict(
        quick_config().to_dict()
        | {"architecture_data": "valid", "stages": [{"layers": 3, "channels": 1, "epochs": 1,
                                                      "warmup_epochs": 0}]}
    )  # fmt: skip
    run_search(config, corpus[0], tmp_path, valid=corpus[1])
    row = RunFolder(tmp_path).rows()[0]
    assert row["steps"] == 4  # all 12 utterances, 3 at a time
    assert row["architecture_loss"] is not None


def test_a_search_without_validation_data_and_without_extras(
    corpus: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither TensorBoard nor matplotlib is needed for the result."""
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    stages = {"stages": [{"layers": 3, "channels": 1, "epochs": 1, "warmup_epochs": 0}]}
    config = SearchConfig.from_dict(quick_config().to_dict() | stages)
    with caplog.at_level("WARNING"):
        genotype = run_search(config, corpus[0], tmp_path)
    assert "utterance ids are in both" not in caplog.text  # the halves have none in common
    assert load_genotype(tmp_path / "genotype.yaml") == genotype
    assert not (tmp_path / "report.html").exists() and not (tmp_path / "tensorboard").exists()
