"""Several seeds of a search by trials: the folders, the result and the report of gradient ones."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml
from report_checks import check_page
from report_pages import page_of
from trials_samples import lookup_config, shared_table

from nas_encoder.cli.main import main
from nas_encoder.genotype import load_genotype
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.strategies import TRIALS, strategies
from nas_encoder.search.trials import run_trials

pytestmark = pytest.mark.slow  # whole searches, several of each
SEEDS = (3, 0)
COUNT = {"count": 8}


@pytest.fixture(scope="module")
def source(shared_folder: Callable[..., Path]) -> Path:
    return shared_table(shared_folder)


@pytest.fixture(autouse=True)
def quick_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the reports at the end of the searches; ``page_of`` makes the one looked at."""
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)


def command(strategy: str, source: Path, output: Path, *more: str) -> list[str]:
    path = output.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(lookup_config(strategy, source, trials=COUNT).to_dict()))
    return ["search", "--config", str(path), "--output", str(output), *more]


def with_seeds(strategy: str, source: Path, output: Path, *more: str) -> int:
    seeds = ["--seeds", *map(str, SEEDS)]
    return main(command(strategy, source, output, *seeds, *more))


def rows(folder: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = RunFolder(folder).rows()
    for row in found:
        del row["seconds"], row["finished"]
    return found


@pytest.fixture
def finished(
    shared_folder: Callable[..., Path], source: Path, tmp_path: Path
) -> Callable[[str], Path]:
    """Return a function that gives a copy of a strategy's finished search with both seeds."""

    def search(strategy: str, folder: Path) -> None:
        folder.mkdir()
        assert with_seeds(strategy, source, folder / "run") == 0

    def copied(strategy: str) -> Path:
        found = shared_folder(f"trials-seeds-{strategy}", partial(search, strategy)) / "run"
        return Path(shutil.copytree(found, tmp_path / "run"))

    return copied


@pytest.mark.parametrize("strategy", strategies(TRIALS))
def test_each_seed_is_the_search_that_it_is_alone(
    strategy: str, source: Path, finished: Callable[[str], Path], tmp_path: Path
) -> None:
    output, found = finished(strategy), {}
    for seed in SEEDS:
        alone = tmp_path / f"alone{seed}"
        run_trials(lookup_config(strategy, source, trials=COUNT), None, alone, seed=seed)
        assert rows(output / f"seed{seed}") == rows(alone) and len(rows(alone)) == 8
        found[seed] = load_genotype(output / f"seed{seed}" / "genotype.yaml")
        assert found[seed].hash == load_genotype(alone / "genotype.yaml").hash
        assert found[seed].provenance["seed"] == seed
    errors = {s: g.provenance["validation"]["token_error_rate"] for s, g in found.items()}
    best = min(SEEDS, key=lambda seed: errors[seed])
    result = load_genotype(output / "genotype.yaml")
    assert result.architecture == found[best].architecture
    assert result.provenance["seed"] == best
    assert [(c["seed"], c["hash"]) for c in result.provenance["candidates"]] == [
        (seed, found[seed].hash) for seed in SEEDS
    ]
    assert RunFolder(output).kind() == "seeds"
    assert not (output / "study.db").exists() and (output / "seed0" / "study.db").is_file()
    page = page_of(output)
    check_page(output, page)
    assert page.headings[-2:] == ["What to run next", "Provenance"]
    assert ("Front: error and multiply-adds" in page.headings) == (strategy == "nsga2")


def test_the_front_is_that_of_all_seeds(finished: Callable[[str], Path]) -> None:
    output = finished("nsga2")
    trials = [{**row, "seed": seed} for seed in SEEDS for row in rows(output / f"seed{seed}")]
    points = {(row["error"], row["macs"]) for row in trials}
    expected = sorted(
        (error, macs)
        for error, macs in points
        if not any(e <= error and m <= macs and (e, m) != (error, macs) for e, m in points)
    )
    document = json.loads((output / "front.json").read_text())
    assert [(m["error"], m["macs"]) for m in document["front"]] == expected
    for member in document["front"]:
        own = next(
            t for t in trials if (t["seed"], t["trial"]) == (member["seed"], member["trial"])
        )
        assert (own["error"], own["macs"]) == (member["error"], member["macs"])
        genotype = load_genotype(output / member["file"])
        assert genotype.hash == member["hash"] == own["genotype"]
        assert genotype.provenance["seed"] == member["seed"]
    shown = page_of(output).rows("Front: error and multiply-adds")
    assert [(row["seed"], row["trial"]) for row in shown] == [
        (str(member["seed"]), str(member["trial"])) for member in document["front"]
    ]


def test_a_stopped_run_goes_on_and_can_be_made_longer(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "run"
    from nas_encoder.search.trials.evaluate import TableEvaluator

    errors, count = TableEvaluator.errors, 0

    def stopping(self: TableEvaluator, genotype: Any) -> Any:
        nonlocal count
        count += 1
        if count == 11:
            raise KeyboardInterrupt
        return errors(self, genotype)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TableEvaluator, "errors", stopping)
        with pytest.raises(KeyboardInterrupt):
            run_with_interrupts("evolution", source, output)
    assert not (output / "genotype.yaml").exists()
    page = page_of(output)
    assert "not finished: 1 of 2 searches" in page.words
    assert with_seeds("evolution", source, output) == 2
    assert "add --resume" in capsys.readouterr().err
    assert with_seeds("evolution", source, output, "--resume") == 0
    assert [len(rows(output / f"seed{seed}")) for seed in SEEDS] == [8, 8]
    longer = ["--resume", "--set", "trials.count=12"]
    assert with_seeds("evolution", source, output, *longer) == 0
    for seed in SEEDS:
        alone = tmp_path / f"alone{seed}"
        config = lookup_config("evolution", source, trials={"count": 12})
        run_trials(config, None, alone, seed=seed)
        assert [row["vector"] for row in rows(output / f"seed{seed}")] == [
            row["vector"] for row in rows(alone)
        ]
    check_page(output, page_of(output))
    capsys.readouterr()
    others = command("evolution", source, output, "--seeds", "3", "1", *longer)
    assert main(others) == 2
    assert "seeds: was [3, 0] when the run began, now [3, 1]" in capsys.readouterr().err


def run_with_interrupts(strategy: str, source: Path, output: Path) -> None:
    """Search without the command, which would turn an interrupt into its exit status."""
    from nas_encoder.search import run_search

    config = lookup_config(strategy, source, trials=COUNT, seeds=list(SEEDS))
    run_search(config, None, output)


def test_seeds_share_a_storage_as_studies_of_their_own(source: Path, tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    url = f"sqlite:///{tmp_path / 'all.db'}"
    assert with_seeds("random", source, tmp_path / "run", "--storage", url) == 0
    names = {summary.study_name for summary in optuna.get_all_study_summaries(url)}
    assert names == {"random-seed3", "random-seed0"}
    page = page_of(tmp_path / "run" / "seed3")
    assert "--seed 3 --resume --storage URL --set trials.count=16" in page.words
