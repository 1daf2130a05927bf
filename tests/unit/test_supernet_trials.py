"""Searches that score trials with shared weights: training, interruption, result, configuration."""

from __future__ import annotations

import json
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
import torch
from preloaded import fork, wait_until
from report_pages import page_of
from scipy.stats import kendalltau
from search_samples import two_corpora
from supernet_samples import CHOICES, SPACE, config, names

from nas_encoder import build_encoder, load_genotype
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search import run_search
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import TrialRecord
from nas_encoder.search.trials.finalists import chosen, train_finalists, trainings_of
from nas_encoder.search.trials.sandwich import SandwichSteps
from nas_encoder.search.trials.subspace import Subspace
from nas_encoder.search.trials.supernet import SupernetEvaluator
from nas_encoder.search.trials.training import TrainingEvaluator
from nas_encoder.training.lock import held
from nas_encoder.training.steps import WeightSteps

LAST: dict[str, Any] = {
    **{"drawn": 1, "recalibration": 2},
    "finalists": {"count": 3, "epochs": 2},
}


def search(data: tuple[str, str], output: Path, **changes: Any) -> Any:
    return run_search(config(**changes), data[0], output, valid=data[1], seed=3, resume=True)


@pytest.fixture(scope="module")
def data(shared_folder: Callable[..., Path]) -> tuple[str, str]:
    folder = shared_folder("supernet-data", lambda path: two_corpora(path))
    return str(folder / "train"), str(folder / "valid")


@pytest.fixture(scope="module")
def whole(shared_folder: Callable[..., Path], data: tuple[str, str]) -> Path:
    """The folder of a search that nothing interrupted."""
    return shared_folder("supernet-search", lambda path: search(data, path / "run")) / "run"


def history(folder: Path) -> Any:
    rows = json.loads((folder / "supernet.json").read_text())["epochs"]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def same(one: Path, other: Path) -> bool:
    texts = [(folder / "metrics.jsonl").read_text().splitlines() for folder in (one, other)]
    rows = [list(map(json.loads, own)) for own in texts]
    for row in (*rows[0], *rows[1]):
        for name in ("seconds", "finished", "number"):
            del row[name]
    weights = [torch.load(folder / "inherited.pt") for folder in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    equal = all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    return equal and rows[0] == rows[1] and history(one) == history(other)


# -- a search -------------------------------------------------------------------------------------


def test_the_weights_inherited_are_those_that_were_scored(
    whole: Path, data: tuple[str, str]
) -> None:
    genotype = load_genotype(whole / "genotype.yaml")
    wanted = genotype.provenance["validation"]["token_error_rate"]
    assert len(history(whole)) == 2
    evaluator = SupernetEvaluator(config().supernet, config(), *data, 3)  # type: ignore[arg-type]
    fresh = list(evaluator.errors(genotype))
    evaluator.prepare(RunFolder(whole))  # finds it trained
    assert list(evaluator.errors(genotype)) == [wanted]
    assert fresh != [wanted]
    network = CtcNetwork(build_encoder(genotype, input_size=16), len(evaluator.tokens))
    network.load_state_dict(torch.load(whole / "inherited.pt"))
    plain = WeightSteps(evaluator.fabric, network, torch.optim.SGD(network.parameters(), 0.0))
    assert plain.score(evaluator._valid).ter == wanted
    for text in (whole / "metrics.jsonl").read_text().splitlines():
        found = SPACE.decode(json.loads(text)["vector"])
        assert evaluator.nearest(found) is found


@pytest.mark.slow
def test_an_interrupted_training_goes_on(
    whole: Path, data: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step, count = SandwichSteps.sandwich_step, 0

    def interrupted(self: SandwichSteps, *given: Any) -> Any:
        nonlocal count
        count += 1
        if count == 7:  # of 8: in the second epoch
            raise KeyboardInterrupt
        return step(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(SandwichSteps, "sandwich_step", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(data, tmp_path / "run")
    assert not (tmp_path / "run" / "supernet.json").exists()
    search(data, tmp_path / "run")
    assert same(whole, tmp_path / "run")

    with pytest.raises(CheckpointError, match="supernet"):
        search(data, tmp_path / "run", supernet={"drawn": 2, "recalibration": 2})
    (tmp_path / "run" / "report.html").read_text().index("Supernet")


@pytest.mark.slow
def test_a_killed_search_goes_on(whole: Path, data: tuple[str, str], tmp_path: Path) -> None:
    process = fork("test_supernet_trials:search", data, tmp_path / "run")
    # two steps are done
    wait_until((tmp_path / "run" / "last.previous.ckpt").exists, process)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert not (tmp_path / "run" / "supernet.json").exists()
    search(data, tmp_path / "run")
    assert same(whole, tmp_path / "run")


@pytest.mark.slow
def test_a_training_can_have_a_time(data: tuple[str, str], tmp_path: Path) -> None:
    search(
        data,
        tmp_path / "run",
        training={"seconds": 0.4, "epochs": None, "lr": 0.003},
        trials={"count": 2},
    )
    state = torch.load(tmp_path / "run" / "last.ckpt", weights_only=True)
    assert state["position"]["stopping"]["stopped"] and 0.4 <= state["used"] < 2.0
    assert history(tmp_path / "run")


# -- the configuration ----------------------------------------------------------------------------


def test_a_part_of_the_space_is_searched() -> None:
    part, rng = Subspace(SPACE, names(config())), random.Random(0)
    allowed = {
        kind: set(names(config()).get(kind, own.operations)) for kind, own in SPACE.kinds.items()
    }

    def inside(genotype: Any) -> bool:
        chosen = SPACE.chosen(genotype.architecture)
        return all(value in allowed[kind] for kind, own in chosen.items() for _, value in own)

    for _ in range(30):
        member = part.sample(rng)
        assert inside(member) and part.nearest(member) is member
        mutated = part.mutate(member, rng)
        differ = [a != b for a, b in zip(*map(part.encode, (member, mutated)), strict=True)]
        assert inside(mutated) and sum(differ) == 1
        other = SPACE.sample(rng)
        near = part.nearest(other)
        assert not inside(other) and inside(near)
        assert inside(part.mutate(other, rng))


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"space": "tdnn_chain", "choices": {}}, ["supernet: is for spaces", "blocks, "]),
        ({"space": "asr_revised"}, ["choices: must be empty"]),
        ({"strategy": "hyperband"}, ["pruning: must be null"]),
        ({"pruning": {"kind": "asha"}}, ["pruning: must be null"]),
        ({"table": {"source": "x"}}, ["supernet: must be null", "choices: must be empty"]),
        (
            {"choices": {"widht": [1], "width": [33, 33], "depth": "many", "mixing": [None]}},
            ["choices.widht: unknown key", "width: lists", "'many'", "mixing: must be names"],
        ),
        (
            {"supernet": {"finalists": {"count": 9}}},
            ["finalists.epochs: give either", "finalists.count: must be at most trials.count, 4"],
        ),
        (
            {"strategy": "nsga2", "objectives": ["error", "macs"], "supernet": LAST},
            ["supernet.finalists: must be null with several objectives"],
        ),
        (
            {"supernet": {"drawn": -1, "distillation": 2, "recalibration": 0}},
            ["supernet.drawn", "supernet.distillation", "supernet.recalibration"],
        ),
    ],
)
def test_problems_of_the_configuration(changes: dict[str, Any], parts: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        config(**changes)
    text = "\n".join(caught.value.problems)
    for part in parts:
        assert part in text


# -- the best, trained alone ----------------------------------------------------------------------


def trained_rows(folder: Path) -> list[dict[str, Any]]:
    rows = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [row for row in rows if "trained" in row]


@pytest.mark.slow
def test_the_best_are_trained_alone_and_judge_the_scores(
    data: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given, run, count = TrainingEvaluator.errors, tmp_path / "run", 0

    def interrupted(self: TrainingEvaluator, genotype: Any) -> Any:
        nonlocal count
        count += 1
        if count == 2:
            raise KeyboardInterrupt
        yield from given(self, genotype)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingEvaluator, "errors", interrupted)
        with pytest.raises(KeyboardInterrupt):
            search(data, run, supernet=LAST, trials={"count": 5})
    assert not (run / "genotype.yaml").exists()
    page = page_of(run)
    assert "fewer than two genotypes" in page.words or "Nothing is known" in page.words
    search(data, run, supernet=LAST, trials={"count": 5})

    # One was trained before the interruption, and is not trained again.
    rows = trained_rows(run)
    hashes = {row["genotype"]: row for row in rows}
    every = [json.loads(text) for text in (run / "metrics.jsonl").read_text().splitlines()]
    distinct = {row["genotype"]: row["error"] for row in every}
    assert len(hashes) == min(3, len(distinct)) and len(distinct) > len(hashes)
    assert max(row["error"] for row in rows) <= min(
        error for key, error in distinct.items() if key not in hashes
    )
    # A training of its own is what a search without a supernet would have made of it.
    (first, *_) = sorted(rows, key=lambda row: row["error"])
    plain = config(supernet=None)
    alone = TrainingEvaluator(plain, *data, 3)
    assert list(alone.errors(SPACE.decode(first["vector"]))) == first["trained"]

    found = load_genotype(run / "genotype.yaml")
    best = min(rows, key=lambda row: (row["trained"][-1], row["trial"]))
    assert found.hash == best["genotype"]
    validation = found.provenance["validation"]
    assert validation["token_error_rate"] == best["trained"][-1]
    assert validation["token_error_rate_with_shared_weights"] == best["error"]
    inherited = torch.load(run / "inherited.pt")
    CtcNetwork(build_encoder(found, input_size=16), 5).load_state_dict(inherited)

    document = json.loads((run / "result.json").read_text())
    assert document["genotype"] == found.hash and document["trained_alone"] == len(hashes)
    scores = {one["score"]: one for one in document["scores"]}
    shared, early = scores["error with shared weights"], scores["error after 1 epoch"]
    finals = [row["trained"][-1] for row in hashes.values()]
    for one, values in (
        (shared, [row["error"] for row in hashes.values()]),
        (early, [row["trained"][0] for row in hashes.values()]),
    ):
        expected = kendalltau(values, finals).statistic
        assert one.get("why") or one["tau"] == pytest.approx(float(expected), abs=1e-6)
    table = {row["score"]: row for row in page_of(run).rows("What cheap scores are worth")}
    assert table.keys() == scores.keys()

    with closing(sqlite3.connect(run / "study.db")) as database, database:
        query = "UPDATE study_user_attributes SET value_json = replace(value_json, '\"errors\": ['"
        database.execute(f"{query}, '\"errors\": [0.5, ') WHERE key LIKE 'trained %'")
    with pytest.raises(CheckpointError, match="is not as it was finished"):
        search(data, run, supernet=LAST, trials={"count": 5})


def test_without_own_trainings_nothing_is_known_of_the_scores(whole: Path) -> None:
    document = json.loads((whole / "result.json").read_text())
    assert document["scores"] == [] and "supernet.finalists" in document["why_no_scores"]
    assert "Nothing is known: no genotype was trained alone" in page_of(whole).words


def test_workers_take_different_genotypes_and_wait_for_each_other(tmp_path: Path) -> None:
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    study = optuna.create_study(storage=storage, study_name="one")
    row = json.loads('{"number": 0, "state": "complete", "epochs": 1, "seconds": 1.0}')
    more = {"objectives": ["error"], "errors": [1.0], "finished": None}
    trials = [
        TrialRecord(trial=n, genotype=f"g{n}", vector=[n], error=float(n), **row, **more)
        for n in (1, 2, 3, 3)
    ]
    best = chosen([*trials[::-1], trials[0]], 2)
    assert [trial.genotype for trial in best] == ["g1", "g2"]
    order: list[tuple[str, int]] = []

    class Trains:
        spent: ClassVar[dict[str, float]] = {"seconds": 2.0}

        def __init__(self, name: str) -> None:
            self.name = name

        def errors(self, vector: Any) -> list[float]:
            order.append((self.name, *vector))
            return [9.0, float(vector[0])]

    def work(name: str) -> None:
        make: Any = lambda: Trains(name)  # noqa: E731
        same: Any = lambda vector: vector  # noqa: E731
        own = optuna.load_study(storage=storage, study_name="one")
        train_finalists(own, trials[:3], RunFolder(tmp_path), same, make, lambda: None)

    with held(tmp_path / ".trained-g1.lock", "another"):
        waiting = threading.Thread(target=work, args=("first",))
        waiting.start()
        while len(order) < 2:
            assert waiting.is_alive()
            time.sleep(0.02)
        time.sleep(0.2)
        assert order == [("first", 2), ("first", 3)] and waiting.is_alive()
    waiting.join(timeout=60)
    assert order[2:] == [("first", 1)] and not list(tmp_path.glob(".trained*"))
    work("second")  # finds nothing left
    assert len(order) == 3
    assert {key: own["errors"][-1] for key, own in trainings_of(study).items()} == {
        "g1": 1.0,
        "g2": 2.0,
        "g3": 3.0,
    }


def test_what_cannot_share_weights_is_told_before_any_training(
    data: tuple[str, str], tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=r"choices\.schedule"):
        search(data, tmp_path / "run", choices={**CHOICES, "schedule": ["1 2 1", "1 1 1"]})
    assert not (tmp_path / "run").exists()
