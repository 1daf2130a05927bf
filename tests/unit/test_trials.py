"""Parts of searches by trials: configuration, evolution, lookups, the front, dead workers."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
from trials_samples import EPOCHS, lookup_config, made_up_table, quality

from nas_encoder import build_encoder
from nas_encoder.errors import ConfigError, NasEncoderError
from nas_encoder.network.complexity import count_parameters
from nas_encoder.search import SearchConfig
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.sections import StudyConfig
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import TrialRecord, best_of, front_of
from nas_encoder.search.strategies import TRIALS, strategies
from nas_encoder.search.trials.evaluate import TableEvaluator
from nas_encoder.search.trials.processes import is_dead, this_process
from nas_encoder.search.trials.samplers import EvolutionSampler, distributions
from nas_encoder.search.trials.storage import Storage
from nas_encoder.spaces import get_space
from nas_encoder.tabular import Table, model_hash

SPACE = get_space("tdnn_chain")


def problems_of(document: Any) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        TrialsConfig.from_dict(document)
    return caught.value.problems


def test_every_strategy_ships_a_configuration() -> None:
    for strategy in strategies(TRIALS):
        config = load_any_search_config(strategy)
        assert isinstance(config, TrialsConfig)
        assert config.strategy == config.name == strategy
        assert (config.pruning is not None) == (strategy == "hyperband")
        assert (len(config.objectives) > 1) == (strategy == "nsga2")
        genotype = get_space(config.space).sample(random.Random(0))
        size = {"input_size": config.features.num_mel_bins}
        encoder: Any = build_encoder(genotype, **{**config.network, **size})
        assert count_parameters(encoder) < 10**6  # small enough to be trained a hundred times


def test_settings_of_the_command_line_apply() -> None:
    config = load_any_search_config("evolution", ["trials.count=7", "space=tdnn_chain"])
    assert isinstance(config, TrialsConfig)
    assert (config.trials.count, config.space) == (7, "tdnn_chain")


def test_all_problems_are_reported_together() -> None:
    problems = problems_of(
        {
            "strategy": "evolutoin",
            "space": "dart",
            "objectives": ["macs", "macs", "beauty"],
            "network": {"input_size": 40},
            "training": {"epochs": 0, "lr": "fast"},
            "trials": {"count": 0, "heartbeat": 0.5, "storage": ""},
            "evolution": {"population": 4, "sample": 5},
            "pruning": {"kind": "median", "factor": 1},
            "measure": {"threads": 0},
            "trainer": {"devices": 2},
            "tabel": {},
        }
    )
    for part in (
        "tabel: unknown key",
        "did you mean 'evolution'",
        "did you mean 'darts'",
        "objectives[2]: unknown objective 'beauty'",
        "objectives: must hold 'error'",
        "objectives: lists one twice",
        "pruning: needs a single objective",
        "network.input_size: is features.num_mel_bins",
        "training.epochs: must be in 1..",
        "training.lr: must be a number",
        "trials.count: must be in 1..",
        "trials.heartbeat: must be an integer",
        "trials.storage: must be a text or null",
        "evolution.sample: must be in 1..4",
        "pruning.kind: unknown kind of pruning 'median'",
        "pruning.factor: must be in 2..",
        "measure.threads: must be in 1..",
        "trainer.devices: must be 1, got 2 (a worker has one",
    ):
        assert any(part in line for line in problems), part
    assert len(problems) == 18


@pytest.mark.parametrize(
    ("strategy", "objectives", "said"),
    [
        ("nsga2", ["error"], "needs at least two"),
        ("evolution", ["error", "macs"], "has one"),
        ("hyperband", ["error", "macs"], "has one"),
    ],
)
def test_strategies_have_the_objectives_they_can(
    strategy: str, objectives: list[str], said: str
) -> None:
    assert said in problems_of({"strategy": strategy, "objectives": objectives})[0]


def test_a_gradient_search_says_what_trials_are() -> None:
    with pytest.raises(ConfigError, match="'tpe' searches by trials"):
        SearchConfig.from_dict({"strategy": "tpe"})
    with pytest.raises(ConfigError, match="did you mean 'hyperband'"):
        SearchConfig.from_dict({"strategy": "hyperbnd"})


def study_with(errors: dict[tuple[int, ...], float], sampler: Any = None) -> optuna.Study:
    """Return a study whose trials have these vectors and errors, in this order."""
    study = optuna.create_study(sampler=sampler)
    names = distributions(SPACE)
    for vector, error in errors.items():
        params = dict(zip(names, vector, strict=True))
        study.add_trial(optuna.create_trial(params=params, distributions=names, value=error))
    return study


def vectors(count: int) -> list[tuple[int, ...]]:
    rng = random.Random(0)
    drawn = [tuple(SPACE.encode(SPACE.sample(rng))) for _ in range(10 * count)]
    return list(dict.fromkeys(drawn))[:count]


def child_of(study: optuna.Study, population: int, sample: int, seed: int) -> tuple[int, ...]:
    sampler = EvolutionSampler(SPACE, population, sample, seed)
    trial = study.get_trials()[-1]
    found = sampler.sample_relative(study, trial, distributions(SPACE))
    assert list(found) == list(distributions(SPACE))
    return tuple(found.values())


def distance(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def test_the_child_is_a_mutation_of_the_best_of_the_sample() -> None:
    known = vectors(6)
    study = study_with({vector: float(place) for place, vector in enumerate(known, 1)})
    # The whole population is the sample: its best one is the parent, always.
    for seed in range(20):
        assert distance(child_of(study, 6, 6, seed), known[0]) == 1
    assert len({child_of(study, 6, 6, seed) for seed in range(20)}) > 5


def test_the_oldest_die_not_the_worst() -> None:
    known = vectors(6)
    study = study_with({vector: float(place) for place, vector in enumerate(known, 1)})
    # The four youngest are alive; the two best ones were the oldest.
    for seed in range(20):
        assert distance(child_of(study, 4, 4, seed), known[2]) == 1


def test_a_smaller_sample_presses_less() -> None:
    known = vectors(6)
    study = study_with({vector: float(place) for place, vector in enumerate(known, 1)})
    children = [child_of(study, 6, 1, seed) for seed in range(60)]
    parents = {min(known, key=lambda v: distance(v, child)) for child in children}
    assert len(parents) >= 5


def test_trials_are_random_until_the_population_is_full() -> None:
    known = vectors(5)
    study = study_with({vector: float(place) for place, vector in enumerate(known, 1)})
    children = {child_of(study, 6, 6, seed) for seed in range(40)}
    assert max(distance(child, known[0]) for child in children) >= 5


def test_evolution_beats_random_search() -> None:
    """On errors in which every choice counts alike, with the same number of trials."""

    def best(sampler: optuna.samplers.BaseSampler) -> float:
        study = optuna.create_study(sampler=sampler)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        for _ in range(80):
            trial = study.ask(distributions(SPACE))
            study.tell(trial, quality(SPACE, list(trial.params.values())))
        return study.best_value

    ours = [best(EvolutionSampler(SPACE, 10, 5, seed)) for seed in range(6)]
    random_ones = [best(optuna.samplers.RandomSampler(seed=seed)) for seed in range(6)]
    assert sum(ours) / 6 < sum(random_ones) / 6 - 0.1


# -- lookups ------------------------------------------------------------------------------------


def evaluator_of(config: TrialsConfig, own: int, table: Table) -> TableEvaluator:
    assert config.table is not None
    epochs = config.training.epochs
    return TableEvaluator(config.table, config.space, config.costs, epochs, own, table)


def evaluator(table: Table, own: int = 0, **lookup: Any) -> TableEvaluator:
    return evaluator_of(lookup_config("random", Path("made-up"), table=lookup), own, table)


def test_errors_are_the_lowest_so_far_in_per_cent() -> None:
    table = made_up_table("tdnn_chain", 20)
    key = table.hashes()[0]
    genotype = table.genotype(key)
    found = list(evaluator(table, 11).errors(genotype))
    seeds = table.seeds
    wanted = [
        100 * (table.val_acc(key, epoch=e, seed=seeds[11 % 2]) or 0) for e in range(1, EPOCHS + 1)
    ]
    assert found == pytest.approx(wanted)
    one, two = (list(evaluator(table, own).errors(genotype)) for own in (0, 1))
    assert one != two  # each seed of a search looks at other trainings
    assert list(evaluator(table, 1, seed=seeds[0]).errors(genotype)) == one


def test_a_table_of_a_part_of_its_space_is_asked_for_the_nearest() -> None:
    table = made_up_table("tdnn_chain", 20)
    found = evaluator(table)
    members = [SPACE.encode(table.genotype(key)) for key in table.hashes()]
    rng = random.Random(1)
    for _ in range(50):
        genotype = SPACE.sample(rng)
        near = found.nearest(genotype)
        assert model_hash(near) in table
        wanted = min(distance(tuple(SPACE.encode(genotype)), tuple(m)) for m in members)
        assert distance(tuple(SPACE.encode(genotype)), tuple(SPACE.encode(near))) == wanted
    own = table.genotype(table.hashes()[3])
    assert found.nearest(own) is own


def test_costs_come_from_the_table() -> None:
    table = made_up_table("tdnn_chain", 20)
    config = lookup_config("nsga2", Path("x"), objectives=["error", "latency_ms", "macs"])
    found = evaluator_of(config, 0, table)
    key = table.hashes()[0]
    costs = found.costs(table.genotype(key))
    assert costs["latency_ms"] == 1000 * table.latencies["a device"][key]
    assert costs["macs"] == table.static[key]["macs"]
    assert costs["parameters"] == table.static[key]["params"]


def test_what_a_table_does_not_have_is_said_at_once() -> None:
    table = made_up_table("tdnn_chain", 20)
    bare = Table("tdnn_chain", table.trainings, genotypes=table.genotypes)
    config = lookup_config(
        "nsga2",
        Path("x"),
        objectives=["error", "latency_ms", "macs"],
        table={"seed": 5, "device": "abacus"},
    )
    with pytest.raises(ConfigError) as caught:
        evaluator_of(config, 0, bare)
    said = "\n".join(caught.value.problems)
    assert all(part in said for part in ("table.seed", "table.device", "'macs'"))
    with pytest.raises(ConfigError, match="table.target: must be one of"):
        evaluator(table, target=3)


# -- results ------------------------------------------------------------------------------------


def record(trial: int, error: float, macs: float, state: str = "complete") -> TrialRecord:
    return TrialRecord(
        trial=trial,
        number=trial,
        state=state,
        error=error,
        macs=macs,
        epochs=1,
        seconds=0.1,
        genotype="0123456789abcdef",
        vector=[0],
        objectives=["error", "macs"],
        errors=[error],
        finished=None,
    )


def test_the_front_is_what_nothing_beats() -> None:
    trials = [
        record(1, 10, 5),
        record(2, 20, 3),
        record(3, 20, 4),  # beaten by 2
        record(4, 10, 5),  # as good as 1, later
        record(5, 30, 3),  # beaten by 2
        record(6, 40, 1),
        record(7, 1, 1, "pruned"),
    ]
    assert [found.trial for found in front_of(trials)] == [1, 2, 6]
    assert front_of([]) == []


def test_the_best_has_the_lowest_error_then_the_lowest_cost() -> None:
    assert best_of([record(1, 10, 5), record(2, 10, 4), record(3, 11, 1)]).trial == 2
    with pytest.raises(NasEncoderError, match="no trial was completed"):
        best_of([record(1, 1, 1, "pruned")])


# -- processes ----------------------------------------------------------------------------------


def test_a_process_is_dead_when_it_is_gone() -> None:
    me = this_process()
    assert not is_dead(me)
    assert is_dead({**me, "started": me["started"] - 1})  # another process had the number
    assert not is_dead({**me, "started": 0, "machine": "another"})  # not to be known from here
    assert not is_dead(None) and not is_dead({**me, "started": 0, "machine": None})
    process = subprocess.Popen([sys.executable, "-S", "-c", ""])
    process.wait()
    assert is_dead({**me, "pid": process.pid, "started": 1})


@pytest.mark.parametrize("name", ["plain", "what?", "a?b=c&d", "{x}", "e%20f", "g#h", "?{%41}#"])
def test_the_study_lies_in_its_folder_whatever_that_is_called(name: str, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / name)
    folder.path.mkdir()
    for _ in range(2):  # made, and opened again
        Storage(folder.study_url, StudyConfig()).close()
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert [path.name for path in folder.path.iterdir()] == ["study.db"]
