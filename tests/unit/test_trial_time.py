"""Trainings of a given time: what counts, when they end, the learning rate, the errors."""

from __future__ import annotations

import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from report_checks import check_page
from report_pages import page_of
from search_samples import tone_corpus
from tqdm import tqdm

from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials import run_trials
from nas_encoder.search.trials.timed import TimedBatches, clock_name
from nas_encoder.search.trials.training import TrainingEvaluator
from nas_encoder.spaces import get_space
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.steps import WeightSteps

SPACE = get_space("tdnn_chain")


class Clock:
    """A clock that stands still unless it is moved."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Loader:
    """Epochs of three batches, whose preparation takes an hour."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def iterate(self, start: int) -> Iterator[Any]:
        for step in range(start, 3):
            self.clock.now += 3600.0
            yield (self.epoch, step)


def timed(seconds: float, shares: tuple[float, ...], accumulate: int = 1) -> TimedBatches:
    clock = Clock()
    loader: Any = Loader(clock)
    return TimedBatches(loader, seconds, shares, accumulate, clock)


def test_steps_count_and_nothing_else() -> None:
    batches, seen = timed(7.0, (0.5, 1.0)), []
    clock: Any = batches._clock
    for number in (0, 1):
        for batch in batches.part(number):
            seen.append((number, batch))
            clock.now += 2.0  # a step
        clock.now += 500.0  # scoring
    # 2, 4 >= 3.5; 6, 8 >= 7: the last step goes over.
    assert seen == [(0, (0, 0)), (0, (0, 1)), (1, (0, 2)), (1, (1, 0))]
    assert (batches.spent, batches.progress, batches.epochs) == (8.0, 1.0, 1)


def test_a_step_of_several_batches_is_never_cut() -> None:
    batches, steps = timed(3.0, (1.0,), accumulate=2), []
    clock: Any = batches._clock
    stream = batches.part(0)
    while group := list(itertools.islice(stream, 2)):
        steps.append(group)
        clock.now += 1.0
    assert [len(group) for group in steps] == [2, 2, 2] and batches.spent == 3.0


def test_the_clock_is_that_of_the_process_only_with_one_thread() -> None:
    before = torch.get_num_threads()
    try:
        names = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            names.append(clock_name(torch.device("cpu")))
    finally:
        torch.set_num_threads(before)
    assert names == ["CPU seconds of the process", "wall seconds"]


# -- the configuration ------------------------------------------------------------------------


def problems_of(document: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        TrialsConfig.from_dict(document)
    return "\n".join(caught.value.problems)


def test_time_is_in_place_of_epochs() -> None:
    config = TrialsConfig.from_dict({"training": {"seconds": 30}})
    assert config.training.epochs is None and config.training.evaluate_at[-1] == 1
    assert TrialsConfig.from_dict(config.to_dict()) == config
    assert "training.seconds: is in place of training.epochs" in problems_of(
        {"training": {"seconds": 30, "epochs": 5}}
    )
    shipped = load_any_search_config("tpe", ["training.seconds=9", "training.epochs=null"])
    assert isinstance(shipped, TrialsConfig) and shipped.training.seconds == 9
    said = problems_of({"training": {"seconds": 30, "evaluate_at": [0.5, 0.2, 1.0]}})
    assert "training.evaluate_at: must be ascending shares, the last of which is 1" in said
    assert "evaluate_at: must be" in problems_of({"training": {"evaluate_at": [0.5]}})
    said = problems_of({"training": {"epochs": None}})
    assert "where there is neither a table nor training.seconds" in said


def test_pruning_has_shares_of_the_time_as_rungs() -> None:
    def shares(**pruning: int) -> list[float]:
        document = {"strategy": "hyperband", "pruning": pruning, "training": {"seconds": 30}}
        return list(TrialsConfig.from_dict(document).training.evaluate_at)

    assert shares() == pytest.approx([1 / 9, 1 / 3, 1]) and shares(factor=2) == [0.25, 0.5, 1]
    given = {"seconds": 30, "evaluate_at": [0.063, 0.25, 1]}
    document = {"strategy": "tpe", "pruning": {"kind": "asha", "factor": 4}, "training": given}
    config = TrialsConfig.from_dict(document)
    assert config.training.evaluate_at == (0.063, 0.25, 1.0)
    assert TrialsConfig.from_dict(config.to_dict()) == config
    said = problems_of({**document, "pruning": {"factor": 3, "min_epochs": 2}})
    rungs = "each pruning.factor times the one before: 0.111, 0.333, 1"
    assert f"training.evaluate_at: must be the rungs of pruning, {rungs}" in said
    assert "pruning.min_epochs: must be 1 with training.seconds" in said
    assert "pruning.factor: " in problems_of({**document, "pruning": {"factor": 1}})


def test_what_counts_epochs_is_refused() -> None:
    said = problems_of({"trials": {"seconds": 600}})
    assert said == "trials.seconds: is for trials whose training.seconds are given"
    said = problems_of({"training": {"seconds": 30}, "table": {"source": "t.sqlite"}})
    assert said == "training.seconds: must be null: the trainings of a table are counted in epochs"


# -- trainings --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("corpus")
    train = tone_corpus(folder / "train", 8, seed=1, seconds=0.6)
    return str(train), str(tone_corpus(folder / "valid", 3, seed=2, seconds=0.6))


def config_of(seconds: float = 0.4, **more: Any) -> TrialsConfig:
    return TrialsConfig.from_dict(
        {
            "strategy": "random",
            "space": "tdnn_chain",
            "name": "timed",
            "features": {"num_mel_bins": 16},
            "network": {"channels": 8, "output_size": 8},
            "training": {"seconds": seconds, "lr": 0.01, "min_lr": 0.001, "evaluate_at": [0.5, 1]},
            "batch": {"max_utterances": 4},
            "trainer": {"accelerator": "cpu"},
            "trials": {"count": 2},
            **more,
        }
    )


@pytest.mark.slow
def test_every_training_takes_its_time_at_a_rate_that_follows_it(
    corpus: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluator = TrainingEvaluator(config_of(), *corpus, seed=1)
    rates: list[float] = []
    scores = iter([30.0, 40.0, 60.0, 20.0])
    step = WeightSteps.weight_step

    def stepping(self: WeightSteps, batches: Any, lr: float) -> float:
        rates.append(lr)
        return step(self, batches, lr)

    class Scored:
        ter = property(lambda self: next(scores))

    monkeypatch.setattr(WeightSteps, "weight_step", stepping)
    monkeypatch.setattr(WeightSteps, "score", lambda self, batches: Scored())
    genotype = SPACE.decode([0] * 6)
    # The last error is that at the end, whatever it was before.
    assert list(evaluator.errors(genotype)) == [30.0, 40.0]
    assert 0.4 <= evaluator.spent["seconds"] < 0.8
    assert len(rates) // 2 - 1 <= evaluator.spent["epochs"] <= len(rates) // 2
    assert rates[0] == pytest.approx(0.01) and rates == sorted(rates, reverse=True)
    assert 0.001 <= rates[-1] < 0.003
    assert list(evaluator.errors(genotype)) == [60.0, 20.0]


def test_a_network_that_diverges_recognizes_nothing_at_the_end(
    corpus: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(self: WeightSteps, batches: Any, lr: float) -> float:
        raise DivergedError("the loss is nan", batches[0])

    monkeypatch.setattr(WeightSteps, "weight_step", diverge)
    evaluator = TrainingEvaluator(config_of(), *corpus, seed=1)
    assert list(evaluator.errors(SPACE.decode([0] * 6))) == [100.0, 100.0]


def test_a_step_longer_than_all_shares_is_scored_once(
    corpus: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scored: list[int] = []
    score = WeightSteps.score

    def counted(self: WeightSteps, batches: Any) -> Any:
        scored.append(1)
        return score(self, batches)

    monkeypatch.setattr(WeightSteps, "score", counted)
    evaluator = TrainingEvaluator(config_of(seconds=1e-6), *corpus, seed=1)
    errors = list(evaluator.errors(SPACE.decode([0] * 6)))
    assert len(errors) == 2 and errors[0] == errors[1] <= 100 and len(scored) == 1


class Bar(tqdm):  # type: ignore[misc]  # tqdm has no types
    """A progress bar as a terminal shows it."""

    def __init__(self, **options: Any) -> None:
        self.began, self.shown = options["initial"], io.StringIO()
        super().__init__(**{**options, "disable": False, "file": self.shown})


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    """The bars of the studies that this test runs."""
    made: list[Bar] = []

    def bar(**options: Any) -> Bar:
        made.append(Bar(**options))
        return made[-1]

    bar.format_interval = tqdm.format_interval  # type: ignore[attr-defined]
    monkeypatch.setattr("nas_encoder.search.trials.study.tqdm", bar)
    return made


@pytest.mark.slow
def test_a_search_of_timed_trials_is_recorded_reported_and_resumed(
    corpus: tuple[str, str], bars: list[Bar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, output = config_of(seconds=0.2), tmp_path / "run"
    genotype = run_trials(config, corpus[0], output, valid=corpus[1])
    rows = RunFolder(output).rows()
    assert len(rows) == 2 and all(len(row["errors"]) == 2 for row in rows)
    assert all(0.2 <= row["training_seconds"] < 0.4 <= row["seconds"] + 1 for row in rows)
    assert genotype.provenance["training_seconds"] in [row["training_seconds"] for row in rows]
    page = page_of(output)
    check_page(output, page)
    grown = config_of(seconds=0.2, trials={"count": 3})
    run_trials(grown, corpus[0], output, valid=corpus[1], resume=True)
    assert RunFolder(output).rows()[:2] == rows
    assert [(bar.began, bar.n, bar.total, bar.unit) for bar in bars] == [
        (0, 2, 2, "trial"),
        (2, 3, 3, "trial"),
    ]
    monkeypatch.setattr("nas_encoder.search.trials.training.clock_name", lambda _: "wall seconds")
    with pytest.raises(CheckpointError, match="clock: was 'CPU seconds of the process' when"):
        run_trials(grown, corpus[0], output, valid=corpus[1], resume=True)


@pytest.mark.slow
def test_hyperband_spends_a_given_time_on_more_trials_than_it_could_finish(
    corpus: tuple[str, str], bars: list[Bar], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Scored:
        def __init__(self, ter: float) -> None:
            self.ter = ter

    def by_size(self: WeightSteps, batches: Any) -> Scored:
        return Scored(sum(one.numel() for one in self.network.parameters()) / 100.0)

    def hyperband(seconds: float | None) -> TrialsConfig:
        trials = {"count": 500, "seconds": seconds}
        return config_of(strategy="hyperband", training={"seconds": 0.09}, trials=trials)

    monkeypatch.setattr(WeightSteps, "score", by_size)
    output, limit = tmp_path / "run", 0.6
    run_trials(hyperband(limit), corpus[0], output, valid=corpus[1])
    folder = RunFolder(output)
    rows = folder.rows()
    spent = [row["training_seconds"] for row in rows]
    assert sum(spent[:-1]) < limit + 0.09 <= sum(spent) + 0.09
    assert len(rows) > limit / 0.09
    for row in rows:
        assert 1 <= len(row["errors"]) <= 3 and (row["state"] == "pruned") == (
            len(row["errors"]) < 3
        )
    assert {row["state"] for row in rows} == {"complete", "pruned"}
    study = optuna.load_study(study_name="timed", storage=folder.study_url)
    steps = {step for trial in study.get_trials() for step in trial.intermediate_values}
    assert steps == {1, 3, 9}
    assert f": finished, {len(rows)} trials in 0.6 s of training (" in page_of(output).words
    with pytest.raises(CheckpointError, match="trials.seconds: was 0.6 .* can only be raised"):
        run_trials(hyperband(0.5), corpus[0], output, valid=corpus[1], resume=True)
    run_trials(hyperband(1.2), corpus[0], output, valid=corpus[1], resume=True)
    assert folder.rows()[: len(rows)] == rows and len(folder.rows()) > len(rows)
    # The bar is of the time that counts, and a search that is longer now begins where it was.
    # The first one's last trial went past its end, which is no longer the end of the second.
    assert [(bar.total, bar.unit) for bar in bars] == [(0.6, "s"), (1.2, "s")]
    assert [bar.began for bar in bars] == pytest.approx([0.0, sum(spent)], abs=0.06)
    assert [bar.n for bar in bars] == pytest.approx([0.6, 1.2])
    assert "0.0/0.6 [" in bars[0].shown.getvalue()
