"""The run folder: two runs never mix, a checkpoint is whole or absent, damage is told."""

from __future__ import annotations

import errno
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from run_folder_samples import CONFIG, EPOCH, RUN, STATE, begun_folder

from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.common.sealed import SEALS
from nas_encoder.errors import CheckpointError
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.config.sections import MeasureConfig, StageConfig
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.recorder import recorded_before
from nas_encoder.training.checkpoint import previous_of
from nas_encoder.training.holding import METRICS


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return begun_folder(tmp_path / "run")


@pytest.fixture
def unsealed(tmp_path: Path) -> RunFolder:
    return begun_folder(tmp_path / "run", sealed=False)


def test_begin_records_what_is_run(folder: RunFolder) -> None:
    assert SearchConfig.from_dict(read_yaml(folder.path / "config.yaml")) == SearchConfig()
    assert folder.run() == RUN
    assert (folder.path / "genotypes").is_dir()


@pytest.mark.parametrize("trace", ["last.ckpt", "metrics.jsonl", "genotype.yaml"])
def test_a_folder_with_a_run_is_refused(tmp_path: Path, trace: str) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(CONFIG, RUN, resume=False)
    (tmp_path / trace).write_bytes(b"x")
    with pytest.raises(CheckpointError, match="already holds a run; add --resume"):
        folder.begin(CONFIG, RUN, resume=False)
    folder.begin(CONFIG, RUN, resume=True)


def test_a_run_that_failed_before_its_first_checkpoint_may_be_begun_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin(CONFIG, RUN, resume=False)
    folder.begin(CONFIG, RUN | {"seed": 2}, resume=False)
    assert folder.run()["seed"] == 2


@pytest.mark.parametrize("theirs", ["data", "tensorboard", "genotypes"])
def test_other_peoples_files_stay_as_they_are(tmp_path: Path, theirs: str) -> None:
    """A recipe's folder as the run folder: its data/ must survive a start, and one that fails."""
    (tmp_path / theirs / "train").mkdir(parents=True)
    (tmp_path / theirs / "train" / "text").write_text("a b\n")
    for resume in (False, True):
        folder = RunFolder(tmp_path)
        with pytest.raises(CheckpointError, match=f"of no search: {theirs}; choose another"):
            with folder.held():
                folder.begin(CONFIG, RUN, resume)
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")) == [
        theirs,
        f"{theirs}/train",
        f"{theirs}/train/text",
    ]


def test_a_start_that_fails_beside_other_files_takes_back_only_its_own(tmp_path: Path) -> None:
    for name in ("search.yaml", "tokens.model", "log.json"):
        (tmp_path / name).write_text("theirs")
    folder = RunFolder(tmp_path)
    with pytest.raises(ZeroDivisionError), folder.held():
        folder.begin(CONFIG, RUN, resume=False)
        raise ZeroDivisionError
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "log.json",
        "search.yaml",
        "tokens.model",
    ]


def test_resume_begins_where_there_is_nothing(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "new")
    folder.begin(CONFIG, RUN, resume=True)
    assert folder.run() == RUN
    assert folder.load_checkpoint() is None
    assert folder.rows() == []


def test_resume_names_everything_that_differs(folder: RunFolder) -> None:
    changed = SearchConfig.from_dict(
        {"weights": {"lr": 0.5}, "stages": [{}, {"operations": 5}], "augment": {}}
    )
    with pytest.raises(CheckpointError) as caught:
        folder.begin(changed, RUN | {"seed": 2, "train": "b", "valid": "v"}, resume=True)
    text = "\n".join(caught.value.problems)
    assert "weights.lr: was 0.01 when the run began, now 0.5" in text
    assert "run.seed: was 1 when the run began, now 2" in text
    assert "run.train: was 'a' when the run began, now 'b'" in text
    assert "run.valid: was None when the run began, now 'v'" in text
    assert "stages.1.operations: was None when the run began, now 5" in text
    assert "augment.p" in text


def test_resume_may_change_machine_and_commit(folder: RunFolder) -> None:
    folder.begin(CONFIG, RUN | {"machine": "other", "commit": "d", "began": "now"}, resume=True)
    assert folder.run() == RUN  # the record stays that of the beginning


def test_resume_may_spell_a_path_in_another_way(tmp_path: Path) -> None:
    """Completion in a shell adds the slash."""
    folder = RunFolder(tmp_path)
    folder.begin(CONFIG, RUN | {"train": "./data/train/"}, resume=False)
    folder.save_checkpoint(STATE)
    folder.begin(CONFIG, RUN | {"train": "data/train"}, resume=True)
    with pytest.raises(CheckpointError, match=r"train: was 'data/train' .*, now 'data/trai'"):
        folder.begin(CONFIG, RUN | {"train": "data/trai"}, resume=True)


def test_settings_that_are_newer_than_the_run_have_their_defaults(unsealed: RunFolder) -> None:
    """As in the folder of a search that an earlier version began."""
    folder = unsealed
    older = read_yaml(folder.path / "config.yaml")
    del older["network"]["stem_stride"], older["network"]["hidden_sizes"], older["order"]
    write_yaml(folder.path / "config.yaml", older)
    folder.begin(CONFIG, RUN, resume=True)
    changed = replace(CONFIG, order="second")
    with pytest.raises(CheckpointError, match="order: was 'first' when the run began"):
        folder.begin(changed, RUN, resume=True)


def test_that_holds_for_searches_by_trials_too(tmp_path: Path) -> None:
    folder, config = RunFolder(tmp_path), TrialsConfig(name="older")
    folder.begin(config, RUN, resume=False)
    (tmp_path / METRICS).write_text("{}")
    (tmp_path / SEALS).unlink()
    older = read_yaml(tmp_path / "config.yaml")
    del older["evolution"]["sample"], older["measure"]
    write_yaml(tmp_path / "config.yaml", older)
    folder.begin(config, RUN, resume=True)
    with pytest.raises(CheckpointError, match="measure.threads: was 1 when the run began, now 2"):
        folder.begin(replace(config, measure=MeasureConfig(threads=2)), RUN, resume=True)


def test_a_checkpoint_comes_back(folder: RunFolder) -> None:
    state = folder.load_checkpoint()
    assert state is not None and state["position"] == STATE["position"]
    assert torch.equal(state["network"]["weight"], STATE["network"]["weight"])
    # It is a torch file like any other.
    assert torch.load(folder.checkpoint, weights_only=True).keys() == STATE.keys() | {"run"}


def damages() -> dict[str, Callable[[bytes], bytes]]:
    rng = random.Random(0)
    found: dict[str, Callable[[bytes], bytes]] = {
        "empty": lambda data: b"",
        "text": lambda data: b"hello world",
        "zeros": lambda data: bytes(len(data)),
        "longer": lambda data: data + b"x",
        "pickle": lambda data: b"\x80\x04N.",
    }
    for share in (0.1, 0.5, 0.9, 0.999):
        found[f"cut at {share}"] = lambda data, share=share: data[: int(share * len(data))]
    for number in range(40):
        place, bit = rng.random(), 1 << rng.randrange(8)

        def flip(data: bytes, place: float = place, bit: int = bit) -> bytes:
            changed = bytearray(data)
            changed[int(place * len(data))] ^= bit
            return bytes(changed)

        found[f"bit {number}"] = flip
    return found


def test_a_damaged_checkpoint_is_told(folder: RunFolder) -> None:
    whole = folder.checkpoint.read_bytes()
    for name, damage in damages().items():
        folder.checkpoint.write_bytes(damage(whole))
        with pytest.raises(CheckpointError, match=r"last\.ckpt") as caught:
            folder.load_checkpoint()
        assert "damaged" in str(caught.value) or "cannot be read" in str(caught.value), name


def test_a_foreign_checkpoint_is_told(folder: RunFolder, tmp_path: Path) -> None:
    torch.save({"state_dict": {}}, folder.checkpoint)
    with pytest.raises(CheckpointError, match="no checkpoint of a search"):
        folder.load_checkpoint()
    folder.save_checkpoint({"something": 1})
    with pytest.raises(CheckpointError, match="no checkpoint of a search"):
        folder.load_checkpoint()


def test_a_checkpoint_that_runs_code_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "was_here"),)

    folder.checkpoint.unlink()
    folder.save_checkpoint({"position": Evil()})
    with pytest.raises(CheckpointError, match="cannot be read"):
        folder.load_checkpoint()
    assert not (tmp_path / "was_here").exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_last_good_checkpoint(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    before = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, full)
    with pytest.raises(CheckpointError, match="cannot be written: No space left on device"):
        folder.save_checkpoint(STATE | {"position": {"stage": 2}})
    with pytest.raises(CheckpointError, match="No space left"):
        folder.write_records([EPOCH])
    monkeypatch.undo()
    after = {path: path.read_bytes() for path in folder.path.rglob("*") if path.is_file()}
    assert after == before  # nor is a temporary file left
    state = folder.load_checkpoint()
    assert state is not None and state["position"] == STATE["position"]


def test_a_kill_while_writing_leaves_the_last_good_checkpoint(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """Like a signal, nothing that the code handles."""

    def killed(*_: object) -> None:
        raise Killed

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(Killed):
        folder.save_checkpoint(STATE | {"position": {"stage": 2}})
    monkeypatch.undo()
    state = RunFolder(folder.path).load_checkpoint()
    assert state is not None and state["position"] == STATE["position"]


def test_a_file_in_place_of_the_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(CheckpointError, match=r"run folder .*file.*: cannot be made"):
            RunFolder(path).begin(CONFIG, RUN, resume=False)


def test_a_folder_in_place_of_a_file(tmp_path: Path) -> None:
    """As good as a folder that may not be written to, and true for root as well."""
    folder = RunFolder(tmp_path)
    folder.seal()
    (tmp_path / "config.yaml").mkdir()
    with pytest.raises(CheckpointError, match=r"config\.yaml: cannot be written"):
        folder.begin(CONFIG, RUN, resume=False)


# -- what a finished or half-done run goes on from ------------------------------------------------


def state_after(epochs: int) -> dict[str, Any]:
    rows = [replace(EPOCH, epoch=epoch + 1).to_row() for epoch in range(epochs)]
    return STATE | {"position": {"stage": 0, "epoch": epochs}, "records": rows}


def test_the_checkpoint_before_a_damaged_one_is_taken(
    folder: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    folder.save_checkpoint(state_after(1))
    folder.save_checkpoint(state_after(2))
    whole = folder.checkpoint.read_bytes()
    for name, damage in damages().items():
        folder.checkpoint.write_bytes(damage(whole))
        caplog.clear()
        state = folder.load_checkpoint()
        assert state is not None and state["position"]["epoch"] == 1, name
        assert "last.ckpt" in caplog.text and "last.previous.ckpt" in caplog.text
    folder.checkpoint.unlink()
    state = folder.load_checkpoint()
    assert state is not None and state["position"]["epoch"] == 1
    previous_of(folder.checkpoint).write_bytes(b"x")
    folder.checkpoint.write_bytes(whole[:-1])
    with pytest.raises(CheckpointError) as caught:
        folder.load_checkpoint()
    said = str(caught.value)
    assert "last.ckpt: is damaged" in said and "last.previous.ckpt: is damaged" in said
    assert "to begin anew" in said


def test_a_checkpoint_of_another_run_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    other = RunFolder(tmp_path / "other")
    other.begin(CONFIG, RUN | {"seed": 2}, resume=False)
    other.save_checkpoint(state_after(1))
    folder.checkpoint.write_bytes(other.checkpoint.read_bytes())
    with pytest.raises(CheckpointError, match=r"last\.ckpt: is of another run"):
        folder.load_checkpoint()


def test_a_deleted_checkpoint_is_missed(folder: RunFolder) -> None:
    folder.write_records([EPOCH, replace(EPOCH, epoch=2)])
    folder.checkpoint.unlink()
    with pytest.raises(CheckpointError, match=r"last\.ckpt: is missing; restore it, or begin anew"):
        folder.load_checkpoint()
    folder.write_records([EPOCH])  # as a kill before the first checkpoint leaves it
    assert folder.load_checkpoint() is None


@pytest.mark.parametrize("damage", ["none", "delete", "cut", "swap"])
def test_the_record_is_rebuilt_from_the_checkpoint(
    folder: RunFolder, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    records = [replace(EPOCH, epoch=epoch) for epoch in (1, 2, 3)]
    folder.write_records(records)  # of the third there is no checkpoint
    if damage == "delete":
        folder.metrics.unlink()
    elif damage == "cut":
        folder.metrics.write_bytes(folder.metrics.read_bytes()[:-30])
    elif damage == "swap":
        folder.metrics.write_text(json.dumps(replace(EPOCH, valid_ter=1.0).to_row()) + "\n")
    assert recorded_before(folder, state_after(2), CONFIG.stages) == records[:2]
    assert ("it is rebuilt from the checkpoint" in caplog.text) == (damage != "none")


def test_an_incomplete_record_beside_an_older_checkpoint_is_refused(unsealed: RunFolder) -> None:
    state = STATE | {"position": {"stage": 1, "epoch": 2}}  # as earlier versions wrote it
    stages = (StageConfig(epochs=2, warmup_epochs=0), StageConfig())
    places = [(1, 1), (1, 2), (2, 1), (2, 2), (2, 3)]
    rows = [replace(EPOCH, stage=stage, epoch=epoch).to_row() for stage, epoch in places]
    for kept in ([0, 1, 2, 3], [0, 1, 2, 3, 4]):
        unsealed.metrics.write_text("".join(json.dumps(rows[n]) + "\n" for n in kept))
        assert [epoch.place for epoch in recorded_before(unsealed, state, stages)] == places[:4]
    for kept in ([], [0, 1, 2], [0, 2, 3], [1, 2, 3], [2, 3], [0, 1], [0, 1, 3]):
        unsealed.metrics.write_text("".join(json.dumps(rows[n]) + "\n" for n in kept))
        with pytest.raises(CheckpointError, match=r"metrics\.jsonl: lacks epochs that last\.ckpt"):
            recorded_before(unsealed, state, stages)


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "new", tmp_path / "there"):
        (tmp_path / "there").mkdir(exist_ok=True)
        (tmp_path / "there" / "notes.txt").write_text("mine")
        folder = RunFolder(path)
        with pytest.raises(ZeroDivisionError):
            with folder.held():
                folder.begin(CONFIG, RUN, resume=False)
                folder.write_records([])
                raise ZeroDivisionError
    assert not (tmp_path / "new").exists()
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["notes.txt"]
    with RunFolder(tmp_path / "there").held():
        RunFolder(tmp_path / "there").begin(CONFIG, RUN | {"seed": 9}, resume=False)


def test_what_has_been_reached_stays_after_a_failure(folder: RunFolder) -> None:
    with pytest.raises(ZeroDivisionError), folder.held():
        raise ZeroDivisionError
    assert folder.load_checkpoint() is not None and folder.run() == RUN
