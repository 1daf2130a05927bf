"""The first trials of a search are the given genotypes, once each, whatever happens."""

from __future__ import annotations

import random
import shlex
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from report_checks import check_page
from report_pages import page_of
from trials_samples import lookup_config, write_table

from nas_encoder.common.resources import list_configs
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network.factory import read_options
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.strategies import TRIALS, strategies
from nas_encoder.search.trials import run_trials
from nas_encoder.search.trials.budget import Budget
from nas_encoder.search.trials.evaluate import TableEvaluator
from nas_encoder.search.trials.initial import enqueue, load_initial
from nas_encoder.search.trials.samplers import build_sampler, distributions
from nas_encoder.search.trials.storage import INITIAL, Storage, quiet
from nas_encoder.search.trials.study import RESULT, evaluate
from nas_encoder.spaces import get_space
from nas_encoder.tabular import load_table

SPACE = get_space("tdnn_chain")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_table(tmp_path_factory.mktemp("table") / "t.sqlite", "tdnn_chain", 60)


@pytest.fixture
def points(source: Path, tmp_path: Path) -> list[str]:
    """The files of three members of the table, dear, cheap and in between."""
    table = load_table(str(source))
    known = sorted(table.hashes(), key=lambda key: (table.static[key]["macs"], key))
    files = []
    for name, place in (("dear", -1), ("cheap", 0), ("middle", 30)):
        path = tmp_path / f"{name}.yaml"
        table.genotype(known[place]).renamed(name).save(path)
        files.append(str(path))
    return files


def evaluator_of(config: TrialsConfig) -> TableEvaluator:
    assert config.table is not None
    return TableEvaluator(config.table, config.space, config.costs, None, 0)


def config_of(strategy: str, source: Path, points: list[str], **more: Any) -> TrialsConfig:
    return lookup_config(strategy, source, trials={"count": 8, "initial": points}, **more)


def test_more_points_than_trials_and_a_point_twice_are_refused() -> None:
    with pytest.raises(ConfigError) as caught:
        TrialsConfig.from_dict({"trials": {"count": 1, "initial": ["a.yaml", "b.yaml"]}})
    assert caught.value.problems == (
        "trials.count: must be at least 2, the number of trials.initial, got 1",
    )
    with pytest.raises(ConfigError, match="lists a genotype twice"):
        TrialsConfig.from_dict({"trials": {"initial": ["a.yaml", "a.yaml"]}})


def test_all_that_cannot_be_first_is_named_before_anything_runs(
    source: Path, points: list[str], tmp_path: Path
) -> None:
    table, rng = load_table(str(source)), random.Random(0)
    keys = set(table.hashes())
    drawn = (SPACE.sample(rng) for _ in range(1000))
    unknown = tmp_path / "unknown.yaml"
    next(found for found in drawn if found.hash not in keys).save(unknown)
    twin = tmp_path / "twin.yaml"
    load_genotype(points[0]).renamed("twin").save(twin)
    given = [points[0], "asrnet_a", "no_such_name", str(unknown), str(twin)]
    with pytest.raises(ConfigError) as caught:
        run_trials(config_of("random", source, given), None, tmp_path / "run")
    said = "\n".join(caught.value.problems)
    for part in (
        "'asrnet_a': space: must be 'tdnn_chain'",
        "'no_such_name': unknown name",
        f"'{unknown}': the table does not hold it",
        f"'{twin}': is the same architecture as '{points[0]}'",
    ):
        assert part in said, said
    assert not (tmp_path / "run").exists()


def test_points_outside_the_budget_are_named_and_nothing_is_kept(
    source: Path, points: list[str], tmp_path: Path
) -> None:
    config = config_of("tpe", source, points, objective={"macs": 5e6})
    with pytest.raises(ConfigError) as caught:
        run_trials(config, None, tmp_path / "run")
    dear, middle, remedy = caught.value.problems
    assert dear.startswith("'dear': costs 1") and "the budget is at most 5 M" in dear
    assert middle.startswith("'middle': costs ")
    _, setting = shlex.split(remedy.partition("leave these out: ")[2])
    within = load_any_search_config("tpe", [setting]).trials.initial
    assert list(within) == points[1:2]
    run_trials(config_of("tpe", source, points[1:2]), None, tmp_path / "run")  # no --resume


def test_those_of_shipped_configurations_are_within_their_budgets() -> None:
    seen = 0
    for name in list_configs("search"):
        config = load_any_search_config(name)
        if not isinstance(config, TrialsConfig) or not config.trials.initial:
            continue
        space, size = get_space(config.space), config.features.num_mel_bins
        frames = round(config.measure.seconds / config.features.frame_shift)
        for source in config.trials.initial:
            genotype = load_genotype(source)
            vector = space.encode(genotype)  # it can be mutated
            options = read_options(space, {**config.network, "input_size": size})
            costs = space.costs.build(space, options, frames)
            found = costs.of(space.decode(vector).architecture)
            assert config.objective.excess(found) == {}, (name, source, found)
            seen += 1
    assert seen >= 6


@pytest.mark.parametrize("strategy", strategies(TRIALS))
def test_every_sampler_begins_with_them(strategy: str, source: Path, points: list[str]) -> None:
    config = config_of(strategy, source, points)
    evaluator = evaluator_of(config)
    known = load_initial(points, evaluator)
    assert list(known) == ["dear", "cheap", "middle"]
    sampler = build_sampler(config, evaluator.space, 0)
    directions = ["minimize"] * len(config.objectives)
    study = optuna.create_study(sampler=sampler, directions=directions)
    sampler.study = study
    for _ in range(2):  # the second worker finds them enqueued
        enqueue(study, known, evaluator, config.objectives, None, points)
    for _ in range(6):
        with quiet():
            trial = study.ask()
        evaluate(study, trial, config.objectives, evaluator)
    results = [trial.user_attrs[RESULT] for trial in study.trials]
    assert [result.get(INITIAL) for result in results] == [*known, None, None, None]
    first = [result["genotype"] for result in results[:3]]
    assert first == [genotype.hash for genotype in known.values()]
    if strategy == "nsga2":  # they are of its first generation
        key = next(name for name in study.trials[3].system_attrs if "generation" in name)
        assert {trial.system_attrs[key] for trial in study.trials[:4]} == {0}


def test_evolution_mutates_them(source: Path, points: list[str]) -> None:
    config = config_of("evolution", source, points, evolution={"population": 3, "sample": 3})
    evaluator = evaluator_of(config)
    evaluator.space = SPACE  # all of it, so that a child is one choice away
    known = load_initial(points, evaluator)
    study = optuna.create_study(sampler=build_sampler(config, SPACE, 0))
    names = distributions(SPACE)
    for error, genotype in zip((3.0, 1.0, 2.0), known.values(), strict=True):
        params = dict(zip(names, SPACE.encode(genotype), strict=True))
        study.add_trial(optuna.create_trial(params=params, distributions=names, value=error))
    with quiet():
        child = list(study.ask(names).params.values())
    assert sum(a != b for a, b in zip(child, SPACE.encode(known["cheap"]), strict=True)) == 1


def test_costs_measured_once_are_those_that_count(source: Path, points: list[str]) -> None:
    """A latency that is measured again could be above the budget that it was found within."""
    config = config_of("random", source, points, objective={"latency_ms": 100.0})
    evaluator = evaluator_of(config)
    known = load_initial(points, evaluator)
    budget = Budget(config.objective, evaluator.costs)
    sampler = build_sampler(config, evaluator.space, 0)
    study = optuna.create_study(sampler=sampler)
    enqueue(study, known, evaluator, config.objectives, budget, points)
    before = [evaluator.costs(genotype, ["latency_ms"]) for genotype in known.values()]
    evaluator.costs = lambda *_: {"latency_ms": 1e9}  # type: ignore[method-assign,assignment]
    for costs in before:
        with quiet():
            trial = study.ask()
        assert evaluate(study, trial, config.objectives, evaluator, budget)
        assert study.trials[trial.number].user_attrs[RESULT]["costs"] == costs


@pytest.mark.slow
def test_a_search_that_is_stopped_and_doubled_has_each_point_once(
    source: Path, points: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    config = config_of("evolution", source, points)
    errors, count = TableEvaluator.errors, 0

    def interrupted(self: TableEvaluator, genotype: Genotype) -> Any:
        nonlocal count
        count += 1
        for place, error in enumerate(errors(self, genotype)):
            if count == 2 and place == 1:
                raise KeyboardInterrupt
            yield error

    with monkeypatch.context() as patch:
        patch.setattr(TableEvaluator, "errors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run_trials(config, None, output)
    # As another worker would, which began at the same moment elsewhere.
    store = Storage(RunFolder(output).study_url, config.trials)
    study = optuna.load_study(study_name=config.study_name, storage=store.rdb)
    params = study.trials[2].system_attrs["fixed_params"]
    study.enqueue_trial(params, user_attrs={INITIAL: {"name": "middle"}})
    store.close()

    result = run_trials(config, None, output, resume=True)
    rows = RunFolder(output).rows()
    assert len(rows) == 8
    assert sorted(row["initial"] for row in rows if "initial" in row) == ["cheap", "dear", "middle"]
    assert [row.get("initial") for row in rows[:3]].count(None) == 0
    study = optuna.load_study(study_name=config.study_name, storage=f"sqlite:///{output}/study.db")
    assert [t.state for t in study.trials].count(TrialState.FAIL) == 2  # stopped; the copy
    given = [row["error"] for row in rows if "initial" in row]
    assert result.provenance["validation"]["token_error_rate"] <= min(given)
    alone = tmp_path / "alone"
    run_trials(config, None, alone)
    assert {row["genotype"] for row in RunFolder(alone).rows()[:3]} == {
        load_genotype(path).hash for path in points
    }
    check_page(output, page_of(output))

    SPACE.decode(rows[-1]["vector"]).renamed("dear").save(points[0])
    with pytest.raises(CheckpointError, match=r"initial.dear: was '"):
        run_trials(config, None, output, resume=True)


def test_the_best_point_is_named_in_the_result(
    source: Path, points: list[str], tmp_path: Path
) -> None:
    table = load_table(str(source))
    seed = table.seeds[0]
    best = min(table.hashes(), key=lambda key: table.val_acc(key, seed=seed) or 1.0)
    path = tmp_path / "best.yaml"
    table.genotype(best).renamed("the-best").save(path)
    config = lookup_config(
        "random", source, trials={"count": 3, "initial": [str(path)]}, table={"seed": seed}
    )
    genotype = run_trials(config, None, tmp_path / "run")
    assert genotype.provenance["initial"] == "the-best" and genotype.name == "random"
    assert genotype.hash == load_genotype(path).hash
