"""Every strategy from audio files to a genotype: complete, and the same after an interruption."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from report_checks import check_page
from report_pages import page_of
from search_samples import QUICK, Stop, outcome, require_same, stop_at, tone_corpus

from nas_encoder.cli.main import main
from nas_encoder.genotype import load_genotype
from nas_encoder.search import SearchConfig, run_search
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.loop import GradientSearch
from nas_encoder.search.gradient.rederive import rederive
from nas_encoder.search.gradient.steps import Steps
from nas_encoder.search.strategies import GRADIENT, strategies
from nas_encoder.spaces import get_space

pytestmark = pytest.mark.slow  # whole searches of every strategy
SEED = 3
CHAIN = {"layers": 6, "channels": 8, "operations": 4, "dropout": 0.2}
NODES = {"layers": 4, "channels": 6, "operations": 6, "dropout": 0.2}
CELLS = {"layers": 3, "channels": 1, "operations": 8, "dropout": 0.1}
STOP = {"min_epochs": 1, "patience": 1, "min_gain": 0.0}
NO_GAIN = {"min_epochs": 1, "patience": 1, "min_gain": 1000.0}


def phases(stage: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {**stage, "phase": "warmup", "epochs": 9, "stop": NO_GAIN},
        {**stage, "phase": "search", "epochs": 2, "warmup_epochs": 0, "stop": STOP},
        {**stage, "phase": "retrain", "epochs": 2, "stop": {**STOP, "decays": 1}},
    ]


CONFIGS: dict[str, dict[str, Any]] = {
    "stnas_chain": {"strategy": "stnas", "space": "tdnn_chain", "stages": phases(CHAIN)},
    "darts_chain": {
        "strategy": "darts",
        "order": "second",
        "space": "tdnn_chain",
        "weights": {"optimizer": "sgd", "lr": 0.05},
        "stages": [{**CHAIN, "epochs": 2, "warmup_epochs": 1}],
    },
    "stnas_cells": {
        "strategy": "stnas",
        "paths": 2,
        "stages": phases(CELLS)[1:],
    },
    "darts_cells": {
        "strategy": "darts",
        "order": "second",
        "space": "darts",
        "weights": {"optimizer": "sgd", "lr": 0.05},
        "stages": [{**CELLS, "epochs": 1, "warmup_epochs": 0}],
    },
    "stnas_edges": {
        "strategy": "stnas",
        "edges": "learned",
        "stages": [{**stage, "operations": 7} for stage in phases(CELLS)[1:]],
    },
    "pdarts_edges": {
        "space": "darts",
        "edges": "learned",
        "objective": {"macs": 3_000_000, "layers": 3, "channels": 1, "seconds": 1.0},
        "stages": [
            {**CELLS, "operations": 7, "epochs": 1, "warmup_epochs": 0},
            {**CELLS, "operations": 2, "epochs": 1, "warmup_epochs": 0},
        ],
    },
    "pdarts_drawn": {
        "edges": "drawn",
        "stages": [
            {**CELLS, "operations": 7, "epochs": 1, "warmup_epochs": 0},
            {**CELLS, "operations": 2, "epochs": 1, "warmup_epochs": 0},
        ],
    },
    "stnas_nodes": {"strategy": "stnas", "space": "nasbench_asr", "stages": phases(NODES)},
    "pdarts_nodes": {
        "space": "nasbench_asr",
        "stages": [
            {**NODES, "epochs": 1, "warmup_epochs": 0},
            {**NODES, "layers": 5, "operations": 2, "epochs": 1, "warmup_epochs": 0},
        ],
    },
    "pdarts_chain": {
        "space": "tdnn_chain",
        # One budget that is likely exceeded without a pull towards it, and one that is kept.
        "objective": {"parameters": 2500, "macs": 1e12, "weight": 0.0, "seconds": 1.0},
        "stages": [
            {**CHAIN, "epochs": 1, "warmup_epochs": 0},
            {**CHAIN, "operations": 2, "epochs": 1, "warmup_epochs": 0},
            {**CHAIN, "phase": "retrain", "epochs": 1},
        ],
    },
}


def config(name: str) -> SearchConfig:
    document = {**QUICK, **CONFIGS[name]}
    if document.get("space") in ("tdnn_chain", "nasbench_asr"):
        document["network"] = {"output_size": 8}
    return SearchConfig.from_dict(document)


@pytest.fixture(scope="module")
def corpus(shared_folder: Callable[..., Path]) -> tuple[str, str]:
    def write(folder: Path) -> None:
        tone_corpus(folder / "train", 8, seed=1, seconds=0.6)
        tone_corpus(folder / "valid", 4, seed=2, seconds=0.6)

    folder = shared_folder("strategies-corpus", write)
    return str(folder / "train"), str(folder / "valid")


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes longer than these searches."""
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)


@pytest.fixture(scope="module")
def finished(corpus: tuple[str, str], shared_folder: Callable[..., Path]) -> Callable[[str], Path]:
    """Return a function that gives the folder of a search that nothing interrupted."""

    def search(name: str, folder: Path) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("nas_encoder.search.run.write_report", lambda folder: None)
            run_search(config(name), corpus[0], folder, valid=corpus[1], seed=SEED)

    return lambda name: shared_folder(f"searched-{name}", partial(search, name))


QUICK_ONES = [
    "stnas_chain",
    "darts_chain",
    "pdarts_chain",
    "stnas_nodes",
    "pdarts_nodes",
    "stnas_cells",
    "stnas_edges",
]
SLOW_ONES = ["darts_cells", "pdarts_edges", "pdarts_drawn"]


@pytest.mark.parametrize("name", [*QUICK_ONES, *SLOW_ONES])
def test_a_member_of_the_space_is_found(finished: Callable[[str], Path], name: str) -> None:
    folder = RunFolder(finished(name))
    genotype = load_genotype(finished(name) / "genotype.yaml")
    get_space(config(name).space).validate(genotype)
    assert genotype.provenance["strategy"] == config(name).strategy
    rows = folder.rows()
    assert [row["phase"] for row in rows] == sorted(
        (row["phase"] for row in rows), key=["warmup", "search", "retrain"].index
    )
    for row in rows:
        moved = row["phase"] == "search" and row["epoch"] > (name == "darts_chain")
        assert (row["architecture_loss"] is not None) == moved
    entropies = [next(iter(row["entropy"].values())) for row in rows if row["phase"] == "search"]
    assert entropies[-1] < entropies[0] or len(entropies) == 1
    # The recorded probabilities derive the recorded genotype.
    assert rederive(folder).hash == rows[-1]["genotype"] == genotype.hash


REPORTED = ("darts_chain", "pdarts_chain", "stnas_chain")


@pytest.mark.parametrize("name", REPORTED)
def test_the_report_shows_what_was_found(
    finished: Callable[[str], Path], tmp_path: Path, name: str
) -> None:
    """Searches of other spaces: test_earlier_artefacts.py."""
    assert {config(name).strategy for name in REPORTED} == set(strategies(GRADIENT))
    folder = Path(shutil.copytree(finished(name), tmp_path / "run"))
    page = page_of(folder)
    check_page(folder, page)
    if name == "pdarts_chain":
        parameters, macs = page.rows("Cost against budget")
        assert any("more than the budget of 2.5 k" in text for text in page.warnings)
        assert float(parameters["share of the budget"].split()[0]) > 100
        assert float(macs["share of the budget"].split()[0]) < 100


def test_a_renamed_field_is_an_error_and_no_empty_picture(
    finished: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # As a version that kept no checksums left it.
    left_out = ["report.html", "last.ckpt", "checksums.json"]
    shutil.copytree(finished("darts_chain"), tmp_path / "run", ignore=lambda *_: left_out)
    metrics = tmp_path / "run" / "metrics.jsonl"
    first, second = metrics.read_text().splitlines()
    metrics.write_text(first + "\n" + second.replace('"entropy"', '"entropies"') + "\n")
    for command in ("report", "derive"):
        assert main([command, str(tmp_path / "run")]) == 2
        said = capsys.readouterr().err
        assert f"{metrics}: 2 problems" in said
        assert "line 2: entropy: is missing" in said
        assert "line 2: entropies: unknown key (did you mean 'entropy'?)" in said
    assert not (tmp_path / "run" / "report.html").exists()


def test_learned_edges_are_recorded(finished: Callable[[str], Path]) -> None:
    for name in ("stnas_edges", "pdarts_edges", "pdarts_drawn"):
        rows = RunFolder(finished(name)).rows()
        for row in rows:
            for kind, edges in row["edges"].items():
                assert sum(edges) == pytest.approx(8.0), kind  # two of each of four nodes
                assert 0 < row["edge_entropy"][kind] <= 1 + 1e-9
        searching = [row["edges"] for row in rows if row["phase"] == "search"]
        for kind in ("normal", "reduction"):
            end = searching[-1][kind][2:]  # the first node has no choice
            uniform = [2 / 3] * 3 + [2 / 4] * 4 + [2 / 5] * 5
            moved = [abs(a - b) for a, b in zip(end, uniform, strict=True)]
            assert max(moved) > 0.01, (name, kind)  # the start is within 0.002
    assert "edges" not in RunFolder(finished("stnas_cells")).rows()[0]


def test_the_stages_of_st_nas(finished: Callable[[str], Path]) -> None:
    """Warm-up stops early; the search keeps its weights; retraining starts anew."""
    rows = RunFolder(finished("stnas_chain")).rows()
    by_phase = {phase: [r for r in rows if r["phase"] == phase] for phase in ("warmup", "search")}
    # One epoch that counts and brings no gain: the second of nine is the last.
    assert len(by_phase["warmup"]) == 2
    uniform = by_phase["warmup"][-1]["probabilities"]
    assert all(0.24 < p < 0.26 for block in uniform["blocks"] for p in block.values())
    search, retrain = by_phase["search"], [r for r in rows if r["phase"] == "retrain"]
    # All training data, and no longer a half of them.
    assert retrain[0]["steps"] > search[0]["steps"]
    best = min(search, key=lambda row: row["valid_utterance_loss"])
    assert retrain[-1]["genotype"] == best["genotype"]
    state = RunFolder(finished("stnas_chain")).load_checkpoint()
    assert state is not None
    blocks = {name.split(".")[2] for name in state["network"] if name.startswith("encoder.blocks")}
    assert blocks == set("012345")


def test_what_a_stage_takes_over(
    corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The search keeps the warm-up's weights and their optimizer; retraining starts anew."""
    begun: list[dict[str, Any]] = []
    ended: list[dict[str, Any]] = []
    build, finish = GradientSearch._steps, GradientSearch._finish_stage

    def snapshot(steps: Steps) -> dict[str, Any]:
        parts = {"network": steps.network, "alphas": steps.parameters, "weights": steps.optimizer}
        return {name: copy.deepcopy(part.state_dict()) for name, part in parts.items()}

    def building(self: GradientSearch, *where: Any) -> Steps:
        steps = build(self, *where)
        begun.append(snapshot(steps))
        return steps

    def finishing(self: GradientSearch, steps: Steps, index: int) -> None:
        ended.append(snapshot(steps))
        finish(self, steps, index)

    monkeypatch.setattr(GradientSearch, "_steps", building)
    monkeypatch.setattr(GradientSearch, "_finish_stage", finishing)
    run_search(config("stnas_chain"), corpus[0], tmp_path, valid=corpus[1], seed=SEED)
    require_same(begun[1], ended[0])
    assert all(float(state["step"]) > 0 for state in begun[1]["weights"]["state"].values())
    assert not begun[2]["weights"]["state"]
    require_same(begun[2]["alphas"], ended[1]["alphas"])
    require_same(ended[2]["alphas"], ended[1]["alphas"])
    assert begun[2]["network"].keys() != ended[1]["network"].keys()


def test_edges_keep_their_strengths_between_stages(
    corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[dict[str, Any]] = []
    ended: list[dict[str, Any]] = []
    build, finish = GradientSearch._steps, GradientSearch._finish_stage

    def building(self: GradientSearch, *where: Any) -> Steps:
        steps = build(self, *where)
        begun.append(copy.deepcopy(steps.parameters.state_dict()))
        return steps

    def finishing(self: GradientSearch, steps: Steps, index: int) -> None:
        ended.append(copy.deepcopy(steps.parameters.state_dict()))
        finish(self, steps, index)

    monkeypatch.setattr(GradientSearch, "_steps", building)
    monkeypatch.setattr(GradientSearch, "_finish_stage", finishing)
    run_search(config("pdarts_drawn"), corpus[0], tmp_path, valid=corpus[1], seed=SEED)
    assert len(begun) == len(ended) == 2
    for kind in ("normal", "reduction"):
        name = f"strengths.{kind}"
        assert torch.equal(begun[1][name], ended[0][name])
        assert not torch.equal(begun[0][name], ended[0][name])
        assert begun[1][f"alphas.{kind}"].shape == (14, 2)


@pytest.mark.parametrize(
    ("name", "owner", "function", "count"),
    [
        ("stnas_chain", RunFolder, "save_checkpoint", 2),  # a step of the warm-up is lost
        ("stnas_chain", GradientSearch, "_finish_stage", 1),  # stopped early, search not begun
        ("stnas_chain", Steps, "weight_step", 7),  # between two steps of the search
        ("stnas_chain", GradientSearch, "_finish_stage", 2),  # the best epoch is kept
        ("stnas_chain", RunFolder, "save_checkpoint", 17),  # while retraining
        ("darts_chain", Steps, "weight_step", 4),
        ("stnas_nodes", Steps, "weight_step", 7),
        ("stnas_cells", Steps, "weight_step", 2),
        ("stnas_edges", Steps, "weight_step", 3),
        ("pdarts_edges", GradientSearch, "_finish_stage", 2),
        ("pdarts_drawn", Steps, "weight_step", 2),
        ("darts_cells", Steps, "weight_step", 2),
        ("pdarts_chain", GradientSearch, "_finish_stage", 2),
    ],
)
def test_a_search_that_ended_anywhere_goes_on(
    finished: Callable[[str], Path],
    corpus: tuple[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    owner: Any,
    function: str,
    count: int,
) -> None:
    output = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, function, stop_at(count, getattr(owner, function)))
        with pytest.raises(Stop):
            run_search(config(name), corpus[0], output, valid=corpus[1], seed=SEED)
    assert not (output / "genotype.yaml").exists()
    run_search(config(name), corpus[0], output, valid=corpus[1], seed=SEED, resume=True)
    require_same(outcome(output), outcome(finished(name)))
