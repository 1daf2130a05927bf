"""Budgets of trials: what is outside is never trained, redrawn or recorded, and counted."""

from __future__ import annotations

import itertools
import math
import random
import re
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from report_checks import check_page
from report_pages import page_of
from torch import nn
from trials_samples import lookup_config, shared_table

from nas_encoder.deploy.memory import peak_memory
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network.budgets import ObjectiveConfig, TrialBudgets
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials import run_trials
from nas_encoder.search.trials.budget import Affordable, Budget
from nas_encoder.search.trials.evaluate import TableEvaluator
from nas_encoder.search.trials.samplers import OUTSIDE, build_sampler
from nas_encoder.search.trials.storage import REDRAWN, quiet
from nas_encoder.search.trials.study import evaluate
from nas_encoder.spaces import get_space

SPACE = get_space("tdnn_chain")


@pytest.fixture(scope="module")
def source(shared_folder: Callable[..., Path]) -> Path:
    return shared_table(shared_folder)


def made_up(genotype: Genotype, names: Collection[str] = ()) -> dict[str, float]:
    """Return costs that the choices add up to."""
    total = float(sum(SPACE.encode(genotype)))
    return {name: total for name in ("parameters", "macs", "latency_ms")}


# -- the section -----------------------------------------------------------------------------------


def test_bounds_are_checked_together() -> None:
    with pytest.raises(ConfigError) as caught:
        TrialsConfig.from_dict(
            {
                "objective": {
                    "parameters": 1e5,
                    "macs": 0,
                    "weight": 1.0,
                    "at_least": {"parameters": 2e5, "beauty": 1, "macs": "few"},
                }
            }
        )
    said = "\n".join(caught.value.problems)
    for part in (
        "objective.macs: must be a number above 0",
        "objective.weight: unknown key",
        "objective.at_least.beauty: unknown key",
        "objective.at_least.macs: must be a number",
        "objective.at_least.parameters: must be at most objective.parameters, 100000, got 200000",
    ):
        assert part in said, part


def test_excess_is_relative_and_of_broken_bounds_only() -> None:
    limits = TrialBudgets(parameters=100.0, latency_ms=5.0, at_least={"parameters": 80.0})
    assert limits.limited == ["parameters", "latency_ms"]
    assert limits.excess({"parameters": 100.0, "latency_ms": 5.0}) == {}
    assert limits.excess({"parameters": 80.0}) == {}
    assert limits.excess({"parameters": 200.0}) == {"parameters": pytest.approx(math.log(2))}
    assert limits.excess({"parameters": 40.0, "latency_ms": 10.0}) == {
        "parameters": pytest.approx(math.log(2)),
        "latency_ms": pytest.approx(math.log(2)),
    }
    assert limits.excess({"parameters": 0.0}) == {"parameters": 100.0}
    assert limits.told("parameters") == "80 to 100"
    assert limits.told("latency_ms") == "at most 5 ms"
    assert TrialBudgets(at_least={"macs": 2e6}).told("macs") == "at least 2 M"
    assert ObjectiveConfig(macs=5.0).budgets == TrialBudgets(macs=5.0).budgets == {"macs": 5.0}


def test_the_settings_that_the_readme_shows_are_read() -> None:
    readme = (Path(__file__).parents[2] / "README.md").read_text()
    part = readme[readme.index("- **Budgets**: `--set 'objective={") :]
    found = re.findall(r"--set (?:'([^']+)'|([^` ]+))", part[: part.index("```")])
    settings = [" ".join((quoted or plain).split()) for quoted, plain in found]
    assert len(settings) >= 4
    config = load_any_search_config("evolution", [*settings, "space=blocks", "network={}"])
    assert isinstance(config, TrialsConfig)
    assert config.objective.limited == ["parameters", "latency_ms"]
    assert config.training.seconds == 100 and len(config.trials.initial) == 2
    known = load_genotype(config.trials.initial[1])
    assert get_space("blocks").encode(known)


def test_objectives_and_budgets_say_what_is_measured() -> None:
    config = TrialsConfig.from_dict(
        {
            "strategy": "nsga2",
            "objectives": ["memory_mb", "error", "macs"],
            "objective": {"macs": 1e6, "train_seconds": 9, "at_least": {"parameters": 3}},
        }
    )
    assert config.costs == ["memory_mb", "macs", "parameters", "train_seconds"]


# -- the decision ----------------------------------------------------------------------------------


def test_what_must_be_measured_is_measured_last() -> None:
    asked: list[tuple[str, ...]] = []

    def costs(genotype: Genotype, names: Collection[str]) -> dict[str, float]:
        asked.append(tuple(names))
        return made_up(genotype)

    budget = Budget(TrialBudgets(parameters=4.0, latency_ms=3.0), costs)
    assert set(budget.excess(SPACE.decode([1] * 5 + [0]))) == {"parameters"}
    assert set(asked) == {("parameters",)} and budget.refused == 1
    assert set(budget.excess(SPACE.decode([1] * 4 + [0, 0]))) == {"latency_ms"}
    assert ("parameters", "latency_ms") in asked
    assert budget.refused > 2  # measuring is expensive: fewer such attempts
    assert budget.excess(SPACE.decode([1] * 3 + [0] * 3)) == {} and budget.refused == 0


def test_an_impossible_budget_names_what_was_seen() -> None:
    budget = Budget(TrialBudgets(macs=0.5, at_least={"parameters": 1e3}), made_up)
    with pytest.raises(ConfigError) as caught:
        Affordable(SPACE, budget).require_one(0)
    head, *lines = caught.value.problems
    assert "1000 genotypes" in head and len(lines) == 2
    for line, start in zip(
        sorted(lines),
        (
            "macs: the budget is at most 0.5, the cheapest network seen has ",
            "parameters: the budget is at least 1 k, the most expensive network seen has ",
        ),
        strict=True,
    ):
        assert line.startswith(start) and "trials.initial" in line


def test_draws_and_mutations_are_within() -> None:
    budget = Budget(TrialBudgets(parameters=9.0, at_least={"parameters": 8.0}), made_up)
    space, rng = Affordable(SPACE, budget), random.Random(3)
    drawn = [space.sample(rng) for _ in range(30)]
    assert {sum(SPACE.encode(genotype)) for genotype in drawn} == {8, 9}
    assert budget.redrawn > 30 and len({genotype.hash for genotype in drawn}) > 20
    for parent in drawn:
        child = space.mutate(parent, rng)
        assert sum(SPACE.encode(child)) in (8, 9) and child.hash != parent.hash


def test_narrow_budgets_are_found_and_explored() -> None:
    """One genotype in 1,300 is within: draws alone would not do."""
    budget = Budget(TrialBudgets(parameters=17.0, at_least={"parameters": 17.0}), made_up)
    space, rng = Affordable(SPACE, budget), random.Random(3)
    space.require_one(0)
    assert budget.redrawn == 0 and budget.refused == 0
    drawn = [tuple(SPACE.encode(space.sample(rng))) for _ in range(120)]
    counts = Counter(drawn)
    assert all(sum(vector) == 17 for vector in counts) and len(counts) == 6
    assert min(counts.values()) >= 6  # 20 on average


def test_the_walk_within_is_even() -> None:
    """Far from a bound as often as close to it, although the walk enters at the bound."""
    wide = Budget(TrialBudgets(parameters=3.0), made_up)
    space, rng = Affordable(SPACE, wide), random.Random(3)
    start = SPACE.decode([3, 0, 0, 0, 0, 0])
    ends = Counter(sum(SPACE.encode(space._walked(start, rng))) for _ in range(600))
    within = Counter(sum(v) for v in itertools.product(range(4), repeat=6) if sum(v) <= 3)
    for total, ways in within.items():
        assert ends[total] == pytest.approx(600 * ways / within.total(), abs=45)


def test_without_a_neighbour_within_mutations_add_up() -> None:
    """In a space whose every mutation changes the sum, two are needed to keep it."""
    budget = Budget(TrialBudgets(parameters=9.0, at_least={"parameters": 9.0}), made_up)
    space, rng = Affordable(SPACE, budget), random.Random(3)
    parent = SPACE.decode([3, 3, 3, 0, 0, 0])
    found = {tuple(SPACE.encode(space.mutate(parent, rng))) for _ in range(20)}
    assert all(sum(vector) == 9 for vector in found) and len(found) > 5


# -- searches --------------------------------------------------------------------------------------


LIMIT = 8.5e6  # multiply-adds; a third of the table's architectures need no more


def config_of(strategy: str, source: Path, **more: Any) -> TrialsConfig:
    return lookup_config(strategy, source, objective={"macs": LIMIT}, **more)


def search(strategy: str, source: Path, output: Path) -> list[dict[str, Any]]:
    run_trials(config_of(strategy, source), None, output, seed=5, resume=True)
    return RunFolder(output).rows()


def proposals(strategy: str, source: Path, count: int) -> list[tuple[int, bool]]:
    """Return of each proposal how many were redrawn before it, and whether it counts."""
    config = config_of(strategy, source)
    assert config.table is not None
    evaluator = TableEvaluator(config.table, config.space, config.costs, None, 0)
    budget = Budget(config.objective, evaluator.costs)
    sampler = build_sampler(config, Affordable(evaluator.space, budget), 0)
    directions = ["minimize"] * len(config.objectives)
    study = optuna.create_study(sampler=sampler, directions=directions)
    sampler.study = study
    found: list[tuple[int, bool]] = []
    while sum(counts for _, counts in found) < count:
        with quiet():
            trial = study.ask()
        counts = evaluate(study, trial, config.objectives, evaluator, budget)
        found.append((trial.user_attrs.get(REDRAWN, 0), counts))
    return found


@pytest.mark.parametrize("strategy", ["evolution", "nsga2", "tpe"])
def test_constraints_are_learned(strategy: str, source: Path) -> None:
    """Proposals are outside less often than random ones."""
    found, drawn = (proposals(name, source, 40) for name in (strategy, "random"))
    refused, chance = (
        sum(redrawn + (not counts) for redrawn, counts in own) for own in (found, drawn)
    )
    assert all(counts for _, counts in drawn) and chance > 40
    assert all(counts for _, counts in found) == (strategy == "evolution")
    assert 0 < refused < 0.8 * chance


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["evolution", "nsga2", "tpe"])
def test_no_trial_is_outside_and_as_many_are_trained_as_asked(
    strategy: str, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_up: list[float] = []
    errors = TableEvaluator.errors

    def counted(self: TableEvaluator, genotype: Genotype) -> Any:
        looked_up.append(self.costs(genotype)["macs"])
        return errors(self, genotype)

    monkeypatch.setattr(TableEvaluator, "errors", counted)
    rows = search(strategy, source, tmp_path / "whole")
    assert len(rows) == 12 and all(row["macs"] <= LIMIT for row in rows)
    assert max(looked_up) <= LIMIT
    refused = sum(row.get("refused", 0) for row in rows)
    assert refused > 0
    study = optuna.load_study(study_name=strategy, storage=f"sqlite:///{tmp_path}/whole/study.db")
    outside = [trial for trial in study.trials if OUTSIDE in trial.user_attrs]
    if strategy == "evolution":
        assert not outside
    else:  # Optuna's samplers see them, as constraints
        redrawn = sum(trial.user_attrs.get(REDRAWN, 0) for trial in study.trials)
        assert len(outside) + redrawn == refused
        for trial in outside:
            assert trial.state == TrialState.COMPLETE and trial.values[0] == math.inf
            cost = trial.user_attrs[OUTSIDE]["macs"]
            assert trial.constraints == {"macs": pytest.approx(math.log(cost / LIMIT))}
    best = load_genotype(tmp_path / "whole" / "genotype.yaml").provenance["validation"]
    assert best["macs"] <= LIMIT
    page = page_of(tmp_path / "whole")
    check_page(tmp_path / "whole", page)

    with pytest.MonkeyPatch.context() as patch:
        stop_in(patch, trial=6)
        with pytest.raises(KeyboardInterrupt):
            search(strategy, source, tmp_path / "stopped")
    again = search(strategy, source, tmp_path / "stopped")
    for row in (*rows, *again):
        del row["seconds"], row["finished"], row["number"]
    assert again == rows


def stop_in(patch: pytest.MonkeyPatch, trial: int) -> None:
    """Interrupt the process in the middle of its n-th trial."""
    errors, count = TableEvaluator.errors, 0

    def interrupted(self: TableEvaluator, genotype: Genotype) -> Any:
        nonlocal count
        count += 1
        for place, error in enumerate(errors(self, genotype)):
            if count == trial and place == 1:
                raise KeyboardInterrupt
            yield error

    patch.setattr(TableEvaluator, "errors", interrupted)


def test_an_impossible_budget_fails_before_anything_runs(source: Path, tmp_path: Path) -> None:
    config = lookup_config("tpe", source, objective={"macs": 1e3})
    with pytest.raises(ConfigError, match="the cheapest network seen has"):
        run_trials(config, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_table_without_the_cost_is_refused(source: Path, tmp_path: Path) -> None:
    config = lookup_config("random", source, objective={"memory_mb": 3})
    with pytest.raises(ConfigError, match="does not know 'memory_mb' of every architecture"):
        run_trials(config, None, tmp_path / "run")


# -- memory ----------------------------------------------------------------------------------------


def test_peak_memory_is_weights_input_and_the_largest_pair_of_layers() -> None:
    layers = nn.Sequential(nn.Linear(100, 1000), nn.ReLU(), nn.Linear(1000, 10)).eval()
    x = torch.randn(5, 100)
    weights, given = 4 * (101 * 1000 + 1001 * 10), 4 * 500
    most = 2 * 4 * 5 * 1000  # what enters the activation and what leaves it
    assert peak_memory(layers, x, lambda: layers(x)) == weights + given + most
