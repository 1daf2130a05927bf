"""Genotypes derived again from what a search recorded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from search_folders import SPACE, make_run

from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError, ConfigError, NasEncoderError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.rederive import rederive


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("run") / "run")


def test_without_wishes_it_is_the_searchs_result(folder: RunFolder) -> None:
    genotype = rederive(folder)
    result = load_genotype(folder.path / "genotype.yaml")
    assert genotype.architecture == result.architecture
    assert (genotype.name, genotype.space) == (result.name, result.space)
    assert genotype.provenance["derived"] == {
        "stage": 2,
        "epoch": 2,
        "at_most": {"avg_pool_3x3": 2},
    }
    assert Genotype.from_dict(genotype.to_dict()) == genotype


@pytest.mark.parametrize(("stage", "epoch"), [(1, 1), (1, 2), (2, 1)])
def test_of_any_epoch(folder: RunFolder, stage: int, epoch: int) -> None:
    recorded = folder.genotype(stage, epoch)
    assert recorded is not None
    assert rederive(folder, stage, epoch).architecture == recorded.architecture
    if epoch == 2:
        assert rederive(folder, stage).architecture == recorded.architecture


@pytest.mark.parametrize("operation", ["sep_conv_5x5", "conv_7x1_1x7"])
def test_within_other_limits(folder: RunFolder, operation: str) -> None:
    plain = rederive(folder, 1, 2, at_most={})
    count = [edge.op for edge in plain.architecture.normal.edges].count(operation)
    assert count > 0
    limited = rederive(folder, 1, 2, at_most={operation: count - 1}, name="limited")
    assert limited.name == "limited"
    operations = [edge.op for edge in limited.architecture.normal.edges]
    assert operations.count(operation) == count - 1
    assert limited.architecture.reduction == plain.architecture.reduction
    SPACE.validate(limited)


def test_what_is_not_there(folder: RunFolder, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="recorded: stage 1: 1..2, stage 2: 1..2"):
        rederive(folder, stage=3)
    with pytest.raises(CheckpointError, match="stage 2, epoch 9: not recorded"):
        rederive(folder, 2, 9)
    with pytest.raises(CheckpointError, match="recorded: none"):
        rederive(make_run(tmp_path, epochs=0))


def test_bad_limits_and_names_are_reported_together(folder: RunFolder) -> None:
    with pytest.raises(ConfigError) as caught:
        rederive(folder, at_most={"pool": 1, "avg_pool_3x3": 9}, name="a b")
    assert len(caught.value.problems) == 3


def test_limits_that_no_cell_keeps(folder: RunFolder) -> None:
    nothing = {op: 0 for op in SPACE.choices[:-1]}
    with pytest.raises(NasEncoderError, match="cannot keep"):
        rederive(folder, at_most=nothing)  # the last operation was pruned on some edges


def test_the_command(folder: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = str(folder.path)
    output = tmp_path / "derived.yaml"
    assert main(["derive", run, "--stage", "1", "--output", str(output)]) == 0
    genotype = load_genotype(output)
    assert genotype.hash in capsys.readouterr().out
    assert main(["derive", run, "--stage", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["hash"] == genotype.hash
    assert main(["derive", run, "--stage", "1"]) == 0
    output.write_text(capsys.readouterr().out, encoding="utf-8")
    assert load_genotype(output) == genotype
    assert main(["derive", run, "--at-most", "avg_pool_3x3", "--at-most", "x=y"]) == 2
    assert "2 problems" in capsys.readouterr().err
    assert main(["derive", str(tmp_path / "none")]) == 2
    assert "holds no search" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_only_a_genotype_is_replaced(folder: RunFolder, tmp_path: Path) -> None:
    output = tmp_path / "config.yaml"
    command = ["derive", str(folder.path), "--output", str(output)]
    assert main(command) == main(command) == 0
    output.write_text("space: darts\n")
    assert main(command) != 0 and output.read_text() == "space: darts\n"
