"""The records of a run: whole rows or none, and a row of a wrong form is an error."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from run_folder_samples import CONFIG, EPOCH, RUN, begun_folder

from nas_encoder.common.sealed import SEALS
from nas_encoder.errors import CheckpointError
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import Cost, EpochRecord, TrialRecord


@pytest.fixture
def folder(tmp_path: Path) -> RunFolder:
    return begun_folder(tmp_path / "run")


@pytest.fixture
def unsealed(tmp_path: Path) -> RunFolder:
    return begun_folder(tmp_path / "run", sealed=False)


def test_damaged_records_are_told(unsealed: RunFolder) -> None:
    folder = unsealed
    (folder.path / "run.yaml").write_text("- no mapping")
    with pytest.raises(CheckpointError, match=r"run\.yaml: must be a mapping"):
        folder.begin(CONFIG, RUN, resume=True)
    (folder.path / "run.yaml").write_text("seed: [")
    with pytest.raises(CheckpointError, match=r"run\.yaml: is not valid YAML"):
        folder.begin(CONFIG, RUN, resume=True)
    (folder.path / "run.yaml").unlink()
    with pytest.raises(CheckpointError, match=r"holds no search \(no run\.yaml\)"):
        folder.begin(CONFIG, RUN, resume=True)


def test_a_line_that_a_kill_cut_off_is_dropped(folder: RunFolder) -> None:
    """As earlier versions, which kept no checksums, could leave one."""
    rows = [replace(EPOCH, epoch=epoch).to_row() for epoch in (1, 2, 3)]
    folder.write_records(map(EpochRecord.from_row, rows))
    path = folder.path / "metrics.jsonl"
    (folder.path / SEALS).unlink()
    text = path.read_text()
    for cut in range(1, len(json.dumps(rows[2])) + 1):
        path.write_text(text[:-cut])
        assert folder.rows() in (rows, rows[:2])
    path.write_text(text[:-8])
    assert folder.rows() == rows[:2]


def test_a_damaged_line_in_the_middle_is_told(unsealed: RunFolder) -> None:
    folder = unsealed
    path = folder.path / "metrics.jsonl"
    path.write_text('{"stage": 1}\n{"stage": \n{"stage": 2}\n')
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2"):
        folder.rows()


OLD = {"phase": None, "penalty": None, "valid_utterance_loss": None}  # keys added over time
RENAMED = [name for name in EPOCH.to_row() if name not in OLD]


def test_a_record_is_the_row_that_it_is_written_as(folder: RunFolder) -> None:
    whole = replace(
        EPOCH,
        edges={"blocks": [1.0]},
        edge_entropy={"blocks": 0.5},
        costs={"parameters": Cost(5.0, 6.0, 4.0), "macs": Cost(2.0, 3.0)},
    )
    folder.write_records([EPOCH, whole])
    first, second = folder.rows()
    assert list(first) == [
        *("stage", "epoch", "phase", "steps", "train_loss", "architecture_loss", "penalty"),
        *("valid_loss", "valid_utterance_loss", "valid_ter", "dropout", "entropy"),
        *("uniform_entropy", "seconds", "probabilities", "genotype"),
    ]
    assert second["costs"] == {
        "parameters": {"derived": 5.0, "expected": 6.0, "budget": 4.0},
        "macs": {"derived": 2.0, "expected": 3.0},
    }
    assert folder.records(EpochRecord) == [EPOCH, whole]
    assert folder.records(EpochRecord)[1].costs == whole.costs


def test_a_row_of_an_earlier_version_is_read() -> None:
    row = {name: value for name, value in EPOCH.to_row().items() if name not in OLD}
    row["uniform_entropy"] = 0.7  # one number for all kinds
    assert EpochRecord.from_row(row) == EPOCH


@pytest.mark.parametrize("name", RENAMED)
def test_a_renamed_field_is_an_error(unsealed: RunFolder, name: str) -> None:
    folder = unsealed
    row = EPOCH.to_row()
    row[f"{name}_new"] = row.pop(name)
    folder.metrics.write_text(json.dumps(EPOCH.to_row()) + "\n" + json.dumps(row) + "\n")
    with pytest.raises(CheckpointError) as caught:
        folder.records(EpochRecord)
    assert caught.value.subject == str(folder.metrics)
    assert f"line 2: {name}: is missing" in caught.value.problems
    assert any(f"line 2: {name}_new: unknown key" in line for line in caught.value.problems)


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("stage", "1", "stage: must be an integer, got '1'"),
        ("train_loss", None, "train_loss: must be a number, got None"),
        ("genotype", 5, "genotype: must be a string, got 5"),
        ("entropy", [1.0], "entropy: must be a mapping, got [1.0]"),
        ("costs", {"macs": {"spent": 1.0}}, "costs: "),
    ],
)
def test_a_value_of_a_wrong_type_is_told(
    unsealed: RunFolder, key: str, value: Any, problem: str
) -> None:
    folder = unsealed
    folder.metrics.write_text(json.dumps(EPOCH.to_row() | {key: value}) + "\n")
    with pytest.raises(CheckpointError, match=re.escape(f"line 1: {problem}")):
        folder.records(EpochRecord)


def test_a_line_that_is_no_trial_is_told(folder: RunFolder) -> None:
    folder.write_records([EPOCH])
    with pytest.raises(CheckpointError, match="line 1: trial: is missing"):
        folder.records(TrialRecord)
