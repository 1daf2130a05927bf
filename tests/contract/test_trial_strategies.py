"""What every strategy of trials must hold, in spaces of every kind."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from report_checks import check_page
from report_pages import page_of
from trials_samples import lookup_config, shared_table

from nas_encoder.errors import CheckpointError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.rederive import rederive
from nas_encoder.search.strategies import TRIALS, strategies
from nas_encoder.search.trials import run_trials
from nas_encoder.search.trials.samplers import distributions
from nas_encoder.spaces import get_space, list_spaces
from nas_encoder.tables import STRATEGIES


@pytest.fixture(scope="module")
def source(shared_folder: Callable[..., Path]) -> Path:
    return shared_table(shared_folder)


@pytest.fixture
def whole(shared_folder: Callable[..., Path], source: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that gives a copy of a strategy's finished search of 12 trials."""

    def copied(strategy: str, name: str = "whole") -> Path:
        found = shared_folder(f"trials-{strategy}", lambda path: search(strategy, source, path))
        return Path(shutil.copytree(found, tmp_path / name))

    return copied


def outcome(folder: Path) -> list[Any]:
    """Return what was computed: every trial without times, and the result."""
    rows = RunFolder(folder).rows()
    for row in rows:
        del row["seconds"], row["finished"], row["number"]
    front = folder / "front.json"
    found = json.loads(front.read_text()) if front.exists() else None
    return [rows, load_genotype(folder / "genotype.yaml").hash, found]


def search(strategy: str, source: Path, output: Path, **more: Any) -> Genotype:
    config = lookup_config(strategy, source, **more)
    return run_trials(config, None, output, seed=5, resume=True)


@pytest.mark.parametrize("name", list_spaces())
def test_parameters_are_the_choices_of_the_space(name: str) -> None:
    space = get_space(name)
    found = distributions(space)
    assert [len(choices.choices) for choices in found.values()] == space.bounds  # type: ignore[attr-defined]
    assert list(found) == sorted(found)  # the order of a dashboard


@pytest.mark.slow
@pytest.mark.parametrize("strategy", strategies(TRIALS))
def test_a_search_has_exactly_its_trials_and_the_same_ones_again(
    strategy: str, source: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    """It is stopped once in the middle of a trial and resumes as if it had not been."""
    genotype = load_genotype(whole(strategy) / "genotype.yaml")
    rows, result, front = outcome(tmp_path / "whole")
    assert len(rows) == 12 and [row["trial"] for row in rows] == list(range(1, 13))
    assert genotype.hash == result and genotype.provenance["strategy"] == strategy
    complete = [row for row in rows if row["state"] == "complete"]
    best = min(row["error"] for row in complete)
    assert genotype.provenance["validation"]["token_error_rate"] == best
    assert (strategy == "nsga2") == (front is not None)
    if strategy != "hyperband":
        assert len(complete) == 12
    check_page(tmp_path / "whole", page_of(tmp_path / "whole"))

    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, trial=7)
        with pytest.raises(KeyboardInterrupt):
            search(strategy, source, tmp_path / "stopped")
    search(strategy, source, tmp_path / "stopped")
    again = outcome(tmp_path / "stopped")
    if strategy == "hyperband":
        # Optuna assigns brackets by trial numbers, of which the interruption takes one.
        assert [row["vector"] for row in again[0]] == [row["vector"] for row in rows]
    else:
        assert again == [rows, result, front]


@pytest.mark.slow
@pytest.mark.parametrize("strategy", strategies(TRIALS))
def test_a_study_made_longer_is_one_of_that_length(
    strategy: str, source: Path, whole: Callable[..., Path], tmp_path: Path
) -> None:
    search(strategy, source, tmp_path / "whole", trials={"count": 20})
    first = outcome(whole(strategy, "grown"))
    for file in ("genotype.yaml", "front.json"):  # what is told of 12 trials
        assert (tmp_path / "grown" / file).exists() == (tmp_path / "whole" / file).exists()
    genotype = search(strategy, source, tmp_path / "grown", trials={"count": 20})
    assert genotype.provenance["trials"] == 20
    rows, *result = outcome(tmp_path / "grown")
    assert [rows, *result] == outcome(tmp_path / "whole")
    assert rows[:12] == first[0] and len(rows) == 20
    fronts = [sorted(p.name for p in tmp_path.glob(f"{n}/front/*")) for n in ("grown", "whole")]
    assert fronts[0] == fronts[1]
    check_page(tmp_path / "grown", page_of(tmp_path / "grown"))
    with pytest.raises(CheckpointError, match=r"trials.count: was 20 .* \(it can only be raised"):
        search(strategy, source, tmp_path / "grown")


def test_nothing_can_be_derived_and_what_was_found_is_named(source: Path, tmp_path: Path) -> None:
    search("random", source, tmp_path / "seed0", trials={"count": 2})
    (tmp_path / "run.yaml").write_text("seeds: [0, 1]\n")
    for folder in (tmp_path, tmp_path / "seed0"):
        with pytest.raises(CheckpointError, match="a search by trials.* found is genotype.yaml"):
            rederive(RunFolder(folder))


@pytest.mark.slow
def test_a_study_that_grows_is_not_finished(source: Path, whole: Callable[..., Path]) -> None:
    """It has a result from before, which the report must not take for that of all trials."""
    grown = whole("random")
    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, trial=3)
        patch.setattr("nas_encoder.search.trials.run._WRITE_EVERY", -1.0)
        with pytest.raises(KeyboardInterrupt):
            search("random", source, grown, trials={"count": 20})
    page, done = page_of(grown), len(RunFolder(grown).rows())
    assert 14 <= done < 20  # repeated genotypes are not evaluated, so the third is a later trial
    assert f": not finished, {done} of 20 trials" in page.words
    assert page.warnings == ["The search is not finished; this is its state so far."]
    search("random", source, grown, trials={"count": 20})
    page = page_of(grown)
    check_page(grown, page)
    assert f"--output {grown} --seed 5 --resume --set trials.count=40" in page.words


def test_a_strategy_that_plans_for_a_length_says_so(
    source: Path,
    whole: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    grown = whole("random")
    monkeypatch.setitem(
        STRATEGIES._entries, "random", replace(STRATEGIES["random"], open_ended=False)
    )
    search("random", source, grown, trials={"count": 14})
    (warning,) = [r.getMessage() for r in caplog.records if r.levelname == "WARNING"]
    assert warning.startswith("'random' plans for a number of trials: the result is not that of")


def stop_in(patch: pytest.MonkeyPatch, trial: int) -> None:
    """Interrupt the process in the middle of its n-th trial."""
    from nas_encoder.search.trials.evaluate import TableEvaluator

    errors, count = TableEvaluator.errors, 0

    def interrupted(self: TableEvaluator, genotype: Genotype) -> Iterator[float]:
        nonlocal count
        count += 1
        for place, error in enumerate(errors(self, genotype)):
            if count == trial and place == 1:
                raise KeyboardInterrupt
            yield error

    # Hyperband may end a trial before; the first epoch of the next one will do.
    patch.setattr(TableEvaluator, "errors", interrupted)


@pytest.mark.parametrize("name", list_spaces())
def test_any_space(name: str, shared_folder: Callable[..., Path], tmp_path: Path) -> None:
    source = shared_table(shared_folder, name)
    genotype = search("evolution", source, tmp_path, space=name, trials={"count": 6})
    get_space(name).validate(genotype)
    assert genotype.space == name


@pytest.mark.slow
def test_another_seed_gives_other_trials(source: Path, tmp_path: Path) -> None:
    config = lookup_config("random", source)
    vectors = []
    for seed in (0, 1):
        run_trials(config, None, tmp_path / str(seed), seed=seed)
        vectors.append([row["vector"] for row in RunFolder(tmp_path / str(seed)).rows()])
    assert vectors[0] != vectors[1]
