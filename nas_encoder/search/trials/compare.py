"""Compare search algorithms on a table, as if they trained what they look up.

The budget is counted in epochs, so that searches with and without pruning are comparable. A search
sees one training of each architecture (the table's seeds in turn) and selects by validation error.
Its regret is the test error of what it selected, mean over the table's seeds, minus that of the
table's best architecture (Ying et al. 2019, NAS-Bench-101, section 4.3).
"""

from __future__ import annotations

import bisect
import logging
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import optuna
from tqdm import tqdm

from nas_encoder.common.fields import Declared, choice, integer, option, tuple_of
from nas_encoder.errors import ConfigError, DataError
from nas_encoder.genotype import load_genotype
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.strategies import GRADIENT, strategies
from nas_encoder.search.trials.evaluate import TableEvaluator
from nas_encoder.search.trials.samplers import build_pruner, build_sampler
from nas_encoder.search.trials.storage import quiet
from nas_encoder.search.trials.study import ERRORS, RESULT, evaluate
from nas_encoder.spaces import get_space, searchable_spaces
from nas_encoder.tabular import Table, model_hash
from nas_encoder.tabular.table import MEAN

logger = logging.getLogger(__name__)

ALGORITHMS = ("random", "evolution", "hyperband", "tpe")
MOST_POINTS = 200  # per curve


@dataclass(frozen=True)
class CompareSettings(Declared):
    """Settings of a comparison.

    Attributes:
        algorithms: Some of :data:`ALGORITHMS`.
        runs: Searches per algorithm, with seeds 0, 1, ...
        trials: The budget, in whole trainings; null for the number of architectures, at most 150.
        population: Population of the evolution; null for a quarter of the trials, at most 20.
        sample: Sample of the evolution; null for a quarter of the population, at least 2.
        target: Target epochs of the trainings; null for the largest.
    """

    algorithms: tuple[str, ...] = option(
        ALGORITHMS, tuple_of(choice("algorithm", ALGORITHMS), 1, 100, once="an algorithm")
    )
    runs: int = option(20, integer(2, 10**5))
    trials: int | None = option(None, integer(2, 10**6))
    population: int | None = option(None, integer(2, 10**6))
    sample: int | None = option(None, integer(1, 10**6))
    target: int | None = option(None, integer(1, 10**6))


class Comparison:
    """The comparison on one table.

    Raises:
        ConfigError: A setting is wrong, or the table does not fit.
        DataError: The table holds too little.
    """

    def __init__(self, table: Table, settings: CompareSettings) -> None:
        problems = settings.problems()
        if problems:
            raise ConfigError("comparison", problems)
        self.table, self.settings = table, settings
        if settings.target is not None and settings.target not in table.targets:
            raise ConfigError(
                "comparison", [f"target: must be one of {table.targets}, got {settings.target}"]
            )
        tests = {
            key: table.test_acc(key, seed=MEAN, target=settings.target) for key in table.hashes()
        }
        self.tests = {key: 100.0 * error for key, error in tests.items() if error is not None}
        if len(self.tests) < 2:
            raise DataError("comparison", ["the table holds fewer than two architectures"])
        self.best = min(self.tests.values())
        self.trials = settings.trials or min(len(self.tests), 150)
        self.population = settings.population or max(2, min(20, self.trials // 4))
        self.sample = settings.sample or max(2, self.population // 4)
        if self.sample > self.population:
            raise ConfigError(
                "comparison", [f"sample: must be at most the population, {self.population}"]
            )
        self.epochs = self._prepared("random", 0)[1].epochs
        self.budget = self.trials * self.epochs

    def run(self) -> dict[str, Any]:
        """Run all searches; return plain types, curves included."""
        step = max(1, (self.budget - self.epochs) // MOST_POINTS)
        grid = [*range(self.epochs, self.budget, step), self.budget]
        names, runs = self.settings.algorithms, self.settings.runs
        found: dict[str, Any] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with tqdm(total=len(names) * runs, desc="searches", unit="search", disable=None) as bar:
            for name in names:
                curves, counts = [], []
                for seed in range(runs):
                    bar.set_postfix_str(name, refresh=False)
                    course, count = self._search(name, seed)
                    curves.append(_on_grid(course, grid))
                    counts.append(count)
                    bar.update()
                found[name] = _summary(curves) | {"trials": statistics.median(counts)}
        return {
            "space": self.table.space,
            "architectures": len(self.tests),
            "epochs_of_a_training": self.epochs,
            "budget_epochs": self.budget,
            "runs": runs,
            "population": self.population,
            "sample": self.sample,
            "best_test_error": self.best,
            "mean_regret_of_the_table": statistics.fmean(self.tests.values()) - self.best,
            "epochs": grid,
            "algorithms": found,
        }

    def gradient(self, genotypes: Sequence[str]) -> dict[str, Any]:
        """Look up the results of gradient searches.

        Args:
            genotypes: Files or names in the zoo; if empty, those that the table lists as results
                of gradient searches.

        Raises:
            DataError: One is not in the table; all are listed.
        """
        space, loaded = self.table.space, map(load_genotype, genotypes)
        searches: list[dict[str, Any]] = [
            {"key": model_hash(found), "name": name, "strategy": found.provenance.get("strategy")}
            for name, found in zip(genotypes, loaded, strict=True)
        ] or [
            origin
            for origin in self.table.about.get("added", [])
            if origin.get("strategy") in strategies(GRADIENT)
        ]
        if not searches:
            why = (
                "no result was given; make one with: nas-encoder search --config stnas --set "
                f"space={space} ..., {self._how_to_add('its genotype.yaml')}"
            )
            if space not in searchable_spaces():
                why = (
                    f"the space '{space}' has no supernet in this package, so gradient search "
                    "is impossible in it"
                )
            return {"available": False, "why": why, "results": [], "strategies": []}
        problems = [
            f"--gradient {search['name']}: is not among its {len(self.tests)} architectures; "
            f"{self._how_to_add(search['name'])}"
            for search in searches
            if search["key"] not in self.tests
        ]
        if problems:
            raise DataError("table", problems)
        results = [
            {
                "genotype": search["name"],
                "hash": search["key"],
                "strategy": search["strategy"],
                "test_error": self.tests[search["key"]],
                "regret": self.tests[search["key"]] - self.best,
            }
            for search in searches
        ]
        return {
            "available": True,
            "why": None,
            "results": results,
            "strategies": _by_strategy(results),
        }

    def _how_to_add(self, genotype: str) -> str:
        """Say how a genotype can be compared on this table."""
        if len(self.tests) >= get_space(self.table.space).unique_size:
            return f"give {genotype} with --gradient"
        if "config" in self.table.about:
            return (
                f"train {genotype} too with: nas-encoder table build ... --resume --add {genotype}"
            )
        return "this table cannot be added to: compare on one made with 'nas-encoder table build'"

    # -- parts --------------------------------------------------------------------------------

    def _prepared(self, algorithm: str, seed: int) -> tuple[TrialsConfig, TableEvaluator]:
        config = TrialsConfig.from_dict(
            {
                "strategy": algorithm,
                "space": self.table.space,
                "name": algorithm,
                "training": {"epochs": None},
                "table": {"source": "compared", "target": self.settings.target},
                "evolution": {"population": self.population, "sample": self.sample},
            },
            "comparison",
        )
        assert config.table is not None
        return config, TableEvaluator(
            config.table, config.space, config.costs, config.training.epochs, seed, self.table
        )

    def _search(self, algorithm: str, seed: int) -> tuple[list[tuple[int, float]], int]:
        """Return (epochs spent, regret) after each trial, and the number of trials."""
        config, evaluator = self._prepared(algorithm, seed)
        sampler = build_sampler(config, evaluator.space, seed)
        # Hyperband assigns brackets by the study's name, so each seed needs its own.
        study = optuna.create_study(
            sampler=sampler,
            pruner=build_pruner(config.pruning, evaluator.epochs),
            study_name=f"{algorithm}-{seed}",
        )
        sampler.study = study
        spent, count, believed, course = 0, 0, float("inf"), []
        while spent < self.budget:
            with quiet():
                trial = study.ask()
            evaluate(study, trial, config.objectives, evaluator)
            result = study.get_trials(deepcopy=False)[trial.number].user_attrs[RESULT]
            spent += len(result[ERRORS])
            count += 1
            if result[ERRORS][-1] < believed:
                believed = result[ERRORS][-1]
                key = model_hash(evaluator.space.decode(result["vector"]))
                course.append((spent, self.tests[key] - self.best))
        return course, count


def _on_grid(course: Sequence[tuple[int, float]], grid: Sequence[int]) -> list[float]:
    """Return the regret at each number of epochs, that of the last improvement."""
    times = [spent for spent, _ in course]
    return [course[max(0, bisect.bisect_right(times, epoch) - 1)][1] for epoch in grid]


def _summary(curves: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return the pointwise median and quartiles over runs, and each run's last value."""
    points = [_quartiles(values) for values in zip(*curves, strict=True)]
    final = [round(curve[-1], 4) for curve in curves]
    return {
        **{name: [round(point[name], 4) for point in points] for name in points[0]},
        "final": final,
        "mean_final": round(statistics.fmean(final), 4),
        "found_the_best": sum(value == 0 for value in final),
    }


def _quartiles(values: Sequence[float]) -> dict[str, float]:
    several = values if len(values) > 1 else [*values, *values]
    lower, median, upper = statistics.quantiles(several, n=4, method="inclusive")
    return {"median": median, "lower_quartile": lower, "upper_quartile": upper}


def _by_strategy(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the results of each strategy: median and quartiles of the regret."""
    regrets: dict[str, list[float]] = {}
    for result in results:
        strategy = result["strategy"] or "strategy not recorded"
        regrets.setdefault(strategy, []).append(result["regret"])
    return [
        {
            "strategy": strategy,
            "searches": len(values),
            **_quartiles(values),
            "mean": statistics.fmean(values),
            "found_the_best": sum(value == 0 for value in values),
        }
        for strategy, values in regrets.items()
    ]
