"""Several seeds in one run: each a search of its own, the best derived network is the result."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from search_samples import quick_config, tone_corpus

from nas_encoder.cli.main import main
from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.search import SearchConfig, run_search
from nas_encoder.search.config.gradient import dump
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.report.build import write_report
from nas_encoder.search.report.page import render
from nas_encoder.search.report.seeds import SeedsReport
from nas_encoder.search.seeds import choose, score_of

STAGE = {"layers": 3, "channels": 1, "operations": 8, "epochs": 1, "warmup_epochs": 0}


def config() -> SearchConfig:
    document = quick_config().to_dict() | {"stages": [STAGE], "seeds": [4, 9]}
    return SearchConfig.from_dict(document | {"selection": {"epochs": 1, "channels": 2}})


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("corpus")
    train = tone_corpus(folder / "train", 8, seed=1, seconds=0.5)
    return str(train), str(tone_corpus(folder / "valid", 4, seed=2, seconds=0.5))


class Stop(BaseException):
    """The process ends here."""


@pytest.fixture(scope="module")
def finished(corpus: tuple[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a run that was stopped in its second search and resumed."""
    output = tmp_path_factory.mktemp("seeds") / "run"
    path = output.parent / "config.yaml"
    path.write_text(dump(config()))
    original, calls = RunFolder.save_checkpoint, 0

    def stopping(self: RunFolder, state: Any) -> None:
        nonlocal calls
        calls += self.path.name == "seed9"
        if calls == 2:
            raise Stop
        original(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "save_checkpoint", stopping)
        # The report of all is written; those of each seed would take longer than the searches.
        patch.setattr(
            "nas_encoder.search.run.write_report",
            lambda folder: folder.path == output and write_report(folder),
        )
        with pytest.raises(Stop):
            run_search(config(), corpus[0], output, valid=corpus[1])
        assert (output / "seed4" / "genotype.yaml").is_file()
        assert not (output / "genotype.yaml").exists()
        before = (output / "seed4" / "metrics.jsonl").stat().st_mtime_ns
        page = render(SeedsReport(RunFolder(output)).page())
        assert "not finished: 1 of 2 searches" in page and "--resume" in page
        patch.setattr(RunFolder, "save_checkpoint", original)
        command = ["search", "--config", str(path), "--train", corpus[0], "--valid", corpus[1]]
        assert main([*command, "--output", str(output)]) == 2  # the folder is taken
        assert main([*command, "--output", str(output), "--resume"]) == 0
    # What was finished is not done again.
    assert (output / "seed4" / "metrics.jsonl").stat().st_mtime_ns == before
    return output


@pytest.mark.slow
def test_the_best_derived_network_is_the_result(finished: Path) -> None:
    result = load_genotype(finished / "genotype.yaml")
    candidates = {
        seed: load_genotype(finished / f"seed{seed}" / "genotype.yaml") for seed in (4, 9)
    }
    best = min(candidates, key=lambda seed: score_of(candidates[seed]))
    assert result.architecture == candidates[best].architecture
    assert result.provenance["seed"] == best
    assert [entry["seed"] for entry in result.provenance["candidates"]] == [4, 9]
    for entry in result.provenance["candidates"]:
        rows = RunFolder(finished / f"seed{entry['seed']}").rows()
        # The figures are those of the derived network, trained from scratch.
        assert [row["phase"] for row in rows] == ["search", "retrain"]
        assert entry["validation"]["loss"] == rows[-1]["valid_loss"]
        assert entry["hash"] == candidates[entry["seed"]].hash


@pytest.mark.slow
def test_each_seed_is_the_search_that_it_is_alone(
    finished: Path, corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)
    run_search(config().of_one_seed(), corpus[0], tmp_path / "alone", valid=corpus[1], seed=9)
    ours, theirs = RunFolder(tmp_path / "alone").rows(), RunFolder(finished / "seed9").rows()
    for row in (*ours, *theirs):
        row.pop("seconds")
    assert ours == theirs
    state, other = RunFolder(finished).run(), RunFolder(finished / "seed9").run()
    assert (state["seeds"], other["seed"]) == ([4, 9], 9)


@pytest.mark.slow
def test_the_report_compares_them(finished: Path) -> None:
    page = (finished / "report.html").read_text()
    for text in ("finished: 2 of 2 searches", "trained from scratch", "seed9/report.html",
                 "Do the seeds agree?", "of 16", "4 and 9", "nas-encoder show"):  # fmt: skip
        assert text in page, text
    assert main(["report", str(finished), "--json"]) == 0


@pytest.mark.slow
def test_a_genotype_is_derived_from_one_of_them(
    finished: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["derive", str(finished)]) == 2
    assert f"give one of them: {finished}/seed4" in capsys.readouterr().err
    assert main(["derive", str(finished / "seed4"), "--stage", "1"]) == 0


@pytest.mark.slow
def test_other_seeds_are_another_run(finished: Path, corpus: tuple[str, str]) -> None:
    document = config().to_dict() | {"seeds": [4, 8]}
    said = r"seeds: was \[4, 9\] when the run began, now \[4, 8\]"
    with pytest.raises(CheckpointError, match=said):
        run_search(
            SearchConfig.from_dict(document), corpus[0], finished, valid=corpus[1], resume=True
        )


@pytest.mark.slow
def test_seeds_are_not_searched_on_different_data(
    finished: Path, corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)
    output = tmp_path / "run"
    shutil.copytree(finished, output)
    shutil.rmtree(output / "seed9")  # not begun when the data changed
    (output / "genotype.yaml").unlink()
    run = yaml.safe_load((output / "seed4" / "run.yaml").read_text())
    run["data"]["train"]["sha256"] = "0" * 64
    (output / "seed4" / "run.yaml").write_text(yaml.safe_dump(run))
    (output / "seed4" / "checksums.json").unlink()  # "the change is meant"
    with pytest.raises(CheckpointError, match="seed 9 has others than seed 4"):
        run_search(config(), corpus[0], output, valid=corpus[1], resume=True)
    assert not (output / "genotype.yaml").exists()


def genotype(error_rate: float | None, loss: float | None) -> Genotype:
    found = load_genotype("asrnet_a")
    validation = {"token_error_rate": error_rate, "loss": loss}
    return Genotype(found.name, found.space, found.architecture, {"validation": validation})


def test_the_lowest_error_rate_wins_then_the_loss_then_the_first() -> None:
    found = {3: genotype(20.0, 1.0), 1: genotype(10.0, 2.0), 2: genotype(10.0, 1.5)}
    assert choose(found).provenance["validation"]["loss"] == 1.5
    found = {3: genotype(10.0, 1.0), 1: genotype(10.0, 1.0), 2: genotype(None, None)}
    assert choose(found).provenance["candidates"][0]["seed"] == 3
    assert json.loads(json.dumps(choose(found).to_dict()))
