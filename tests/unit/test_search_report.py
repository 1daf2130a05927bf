"""The report of a search: whole, honest about doubts, safe with any text, never fatal."""

from __future__ import annotations

import json
import logging
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_pages import (
    Page,
    page_of,
    require_drawn,
    require_whole_numbers,
    require_working_steps,
)
from search_folders import SPACE, derived, make_run

from nas_encoder.cli.main import main
from nas_encoder.errors import MissingDependencyError
from nas_encoder.genotype import load_genotype
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import Cost, EpochRecord
from nas_encoder.search.report.build import build_report, write_report
from nas_encoder.search.report.gradient import GradientReport
from nas_encoder.search.report.pictures import entropies
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.space import KINDS, edge_list


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunFolder, Page]:
    folder = make_run(tmp_path_factory.mktemp("finished") / "run")
    return folder, page_of(folder.path)


def test_it_needs_nothing_else(finished: tuple[RunFolder, Page]) -> None:
    _, page = finished
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "iframe", "object")
        if tag == "img":
            assert str(attributes["src"]).startswith("data:image/png;base64,")
            assert attributes["alt"]
    assert not re.search(r"https?://|url\(", "".join(str(tag) for tag in page.tags))


def test_the_pictures_are_pictures(finished: tuple[RunFolder, Page]) -> None:
    _, page = finished
    # Cells, curves, shares, every edge of two cells; at the end of each stage the edges, and of
    # the first stage its cells (those of the last are the result).
    assert len(page.pictures) == 8
    require_drawn(page)


def test_it_says_what_was_found_and_how(finished: tuple[RunFolder, Page]) -> None:
    folder, page = finished
    genotype = load_genotype(folder.path / "genotype.yaml")
    for text in (
        "Search of found",
        "finished, 4 of 4 epochs in 4 min 06 s",
        genotype.hash,
        "normal cell",
        "reduction cell",
        "data/train",
        "abc123",
        "a machine",
        "seed 7",
        "strategy: pdarts",
        "Edges after epoch 2 of stage 1",
        "Edges after epoch 2 of stage 2",
        "Derived after epoch 2 of stage 1",
        "Every edge of the reduction cell over time",
        f"nas-encoder show {folder.path}/genotype.yaml",
        "--seeds 8 9",
    ):
        assert text in page.words, text
    for edge in genotype.architecture.normal.edges:
        assert f"{edge.op}(" in page.words
    assert "--resume" not in page.words


def test_warnings_stand_in_the_page(finished: tuple[RunFolder, Page], tmp_path: Path) -> None:
    folder, page = finished
    assert GradientReport(folder).warnings() == []
    assert not [tag for tag in page.tags if tag[1].get("class") == "warn"]


def test_a_choice_that_stayed_uniform_is_told(tmp_path: Path) -> None:
    warnings = GradientReport(make_run(tmp_path, sharpness=0.05)).warnings()
    assert len(warnings) == 2
    for kind, text in zip(KINDS, warnings, strict=True):
        assert f"parameters of the {kind} cell have hardly left the uniform choice" in text


@pytest.mark.slow
def test_learned_edges_are_shown_and_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    edges = {kind: [1.0] * 2 + [0.5] * 12 for kind in KINDS}
    records = [
        replace(record, edges=edges, edge_entropy={"normal": 0.99, "reduction": 0.9 - 0.1 * number})
        for number, record in enumerate(folder.records(EpochRecord))
    ]
    assert records[0].taken("normal")[2] == 0.5
    assert folder.records(EpochRecord)[0].taken("normal")[2] == 1.0  # where it is not learned
    folder.write_records(records)
    report = GradientReport(folder)
    (text,) = report.warnings()
    assert "The choice of edges in the normal cell has hardly left the uniform one" in text
    assert "(entropy 99.0 % of uniform)" in text
    assert "architecture.lr=" in commands(folder)
    page = page_of(folder.path)
    assert page.words.count("how probable it is that its node takes it") == 2  # both stages
    assert page.words.count("how probable it is that the edge is taken") == 2  # both kinds
    assert {"normal cell, its edges", "reduction cell, its edges"} < set(
        entropies(records, get_space("asr_revised"))
    )


@pytest.mark.slow
def test_cells_of_pooling_are_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    table = [dict.fromkeys(SPACE.operations, 0.1) | {"max_pool_3x3": 0.5} for _ in edge_list(4)]
    folder.save_result(derived({"normal": table, "reduction": table}))
    warnings = GradientReport(folder).warnings()
    assert len(warnings) == 2
    assert "8 of 8 operations of the normal cell have no weights (max_pool_3x3, " in warnings[0]
    assert warnings[0].endswith(
        "regularization.at_most limits how many of them the normal cell may have."
    )
    assert "8 of 8 operations of the reduction cell have no weights" in warnings[1]
    # There are no limits for that cell.
    assert (
        "at_most" not in warnings[1] and "A longer warm-up (stages.N.warmup_epochs)" in warnings[1]
    )
    assert "--at-most" in commands(folder)
    assert "--set stages.0.warmup_epochs=" in commands(folder)
    require_working_steps(page_of(folder.path))


def test_pooling_that_wins_nearly_everywhere_is_told(tmp_path: Path) -> None:
    """Before it shows in the genotype, which takes only two edges of a node."""
    folder = make_run(tmp_path)
    edge = dict.fromkeys(SPACE.operations, 0.05) | {"max_pool_3x3": 0.35, "skip_connect": 0.35}
    change_last(folder, probabilities={"reduction": [edge] * 14})
    (text,) = GradientReport(folder).warnings()
    assert "Operations without weights (max_pool_3x3, " in text
    assert "skip_connect) have 75 % of the probability in the reduction cell." in text
    edge = dict.fromkeys(SPACE.operations, 0.05) | {"none": 0.65}
    change_last(folder, probabilities={"reduction": [edge] * 14})
    (text,) = GradientReport(folder).warnings()
    assert "'none' has 65 % of the probability in the reduction cell" in text


def change_last(folder: RunFolder, **changes: Any) -> None:
    *others, last = folder.records(EpochRecord)
    if "probabilities" in changes:
        changes["probabilities"] = {**last.probabilities, **changes["probabilities"]}
    folder.write_records([*others, replace(last, **changes)])


def commands(folder: RunFolder) -> str:
    return "\n".join(command for _, command in GradientReport(folder).next_steps())


def add_costs(folder: RunFolder, budget: float) -> None:
    records = [
        replace(
            record, costs={"parameters": Cost(derived, 7.5e6, budget), "macs": Cost(2.5e10, 2.4e10)}
        )
        for record, derived in zip(folder.records(EpochRecord), (9e6, 8e6, 6e6, 7e6), strict=True)
    ]
    folder.write_records(records)


@pytest.mark.slow
def test_costs_stand_against_their_budgets(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    add_costs(folder, budget=8e6)
    page = page_of(folder.path)
    assert "Cost against budget" in page.words and "87.5 %" in page.words
    assert "17 layers, 24 channels, 10 s of speech" in page.words
    assert GradientReport(folder).warnings() == []
    add_costs(folder, budget=6.5e6)
    (text,) = GradientReport(folder).warnings()
    assert "costs 7 M of parameters, more than the budget of 6.5 M" in text
    # The third epoch kept it; the pull can be made stronger.
    assert f"nas-encoder derive {folder.path} --stage 2 --epoch 1" in commands(folder)
    assert "--set objective.weight=4" in commands(folder)


def test_a_choice_by_chance_is_told_what_to_do(tmp_path: Path) -> None:
    folder = make_run(tmp_path, sharpness=0.05)
    assert "--set architecture.lr=0.0024 --set stages.0.epochs=4" in commands(folder)


def test_no_limits_are_named_that_change_nothing_or_cannot_be_kept(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    edge = dict.fromkeys(SPACE.operations, 0.05) | {"max_pool_3x3": 0.35, "skip_connect": 0.35}
    change_last(folder, probabilities={"reduction": [edge] * 14})
    assert [f.where for f in GradientReport(folder).findings()] == ["reduction"]
    found = commands(folder)
    assert "--at-most" not in found  # the normal cell, which they are for, stays the same
    assert "--set stages.0.warmup_epochs=2 --set stages.0.epochs=3" in found
    pools = {"max_pool_3x3": 0.5, "avg_pool_3x3": 0.5}
    change_last(folder, probabilities={"normal": [pools] * 14})
    assert "--at-most" not in commands(folder)  # eight edges with one of each cannot be


def require_whole_epochs(page: Page) -> None:
    """Check that epochs are whole numbers, however few there are."""
    assert {"Training", "Operations over time"} <= set(page.figures)
    require_whole_numbers(page)


@pytest.mark.slow
def test_epochs_of_the_derived_network_alone(tmp_path: Path) -> None:
    """In a stage that retrains it, nothing is chosen any more."""
    folder = make_run(tmp_path)
    change_last(folder, phase="retrain", valid_ter=95.0)
    page = page_of(folder.path)
    assert "2 retrain" in page.words and "Edges after epoch 1 of stage 2" in page.words
    (text,) = GradientReport(folder).warnings()
    assert "error rate on the validation data is 95.0 %" in text


def test_a_network_that_learned_nothing_is_told(tmp_path: Path) -> None:
    folder = make_run(tmp_path)
    change_last(folder, valid_ter=97.0)
    (text,) = GradientReport(folder).warnings()
    assert "token error rate on the validation data is 97.0 %" in text


@pytest.mark.slow
def test_an_unfinished_search_has_a_report_too(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, epochs=3, valid=None).path)
    require_whole_epochs(page)
    assert "not finished, 3 of 4 epochs" in page.words
    assert [tag for tag in page.tags if tag[1].get("class") == "warn"]
    assert "Genotype so far" in page.words
    assert "--train data/train --output" in page.words and "--resume" in page.words
    assert "--valid" not in page.words


def test_a_search_without_an_epoch_has_a_report_too(tmp_path: Path) -> None:
    page = page_of(make_run(tmp_path, epochs=0).path)
    assert "No epoch is finished yet" in page.words
    assert not [tag for tag, _ in page.tags if tag == "img"]


@pytest.mark.slow
def test_text_from_outside_cannot_become_html(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>\"'&"
    page = page_of(make_run(tmp_path / "a b; rm -rf $HOME", 1, train=evil, machine=evil).path)
    require_whole_epochs(page)
    assert "script" not in [tag for tag, _ in page.tags]
    assert evil in page.words
    # In the commands to copy, names that a shell would take apart are quoted.
    assert f"--config '{tmp_path}/a b; rm -rf $HOME/config.yaml'" in page.words


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_run(tmp_path / "run", epochs=0)
    assert main(["report", str(folder.path), "--json"]) == 0
    path = json.loads(capsys.readouterr().out)["report"]
    assert path == str(folder.path / "report.html") and Path(path).is_file()
    assert main(["report", str(tmp_path / "none")]) == 2
    assert "holds no search" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("run.yaml", "- 1"),
        ("config.yaml", "strategy: [}"),
        ("config.yaml", "strategy: no_such"),
        ("metrics.jsonl", "{}\n"),
        ("metrics.jsonl", "5\n"),
        ("metrics.jsonl", "{\n{}\n"),
        ("genotype.yaml", "space: darts"),
    ],
)
def test_a_damaged_file_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, text: str
) -> None:
    folder = make_run(tmp_path)
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert main(["report", str(tmp_path)]) == 2
    assert name in capsys.readouterr().err
    assert write_report(folder) is None  # the search itself continues


def test_without_matplotlib_the_search_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "nas_encoder")  # other tests leave other levels behind
    folder = make_run(tmp_path)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingDependencyError):
        build_report(folder)
    assert write_report(folder) is None
    assert "pip install 'nas_encoder[plot]'" in caplog.text
    assert not (tmp_path / "report.html").exists()


def test_a_folder_that_cannot_be_written_to(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "nas_encoder")
    folder = make_run(tmp_path, epochs=0)
    (tmp_path / "report.html").mkdir()
    assert write_report(folder) is None
    assert "no report is written" in caplog.text and "cannot be written" in caplog.text
