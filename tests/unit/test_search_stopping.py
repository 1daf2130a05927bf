"""Stopping: early, by the rule of ST-NAS' public code on made-up losses, and by a signal."""

from __future__ import annotations

import os
import pickle
import signal

import pytest

from nas_encoder.errors import ConfigError, StoppedError
from nas_encoder.search import SearchConfig, load_search_config
from nas_encoder.training.config import StopConfig
from nas_encoder.training.stopping import stoppable
from nas_encoder.training.trainer import EarlyStopping


def follow(stop: StopConfig, losses: list[float]) -> tuple[int, list[float], list[int]]:
    """Return the epochs run, the rate in each, and those that were the best so far."""
    stopping, rates, best = EarlyStopping(), [], []
    for epoch, loss in enumerate(losses, 1):
        rates.append(stopping.rate(stop))
        if stopping.see(stop, epoch, loss):
            best.append(epoch)
        if stopping.stopped:
            return epoch, rates, best
    return len(losses), rates, best


def test_warm_up() -> None:
    """At least 10 epochs, then until 3 do not gain 0.5."""
    stop = StopConfig(min_epochs=10, patience=3, min_gain=0.5, decays=0)
    early = [20.0] * 10
    assert follow(stop, early + [19.9, 19.8, 19.7, 1.0]) == (13, [1.0] * 13, [1])
    # A gain begins the count anew; epoch 14 is measured against 19.4.
    losses = [*early, 19.9, 19.4, 19.3, 19.0, 18.95, 0.0]
    assert follow(stop, losses)[0] == 15
    assert follow(stop, losses)[2] == [1, 12]
    # The best of the first ten counts.
    assert follow(stop, [20.0, 5.0, *[20.0] * 8, 4.8, 4.6, 4.55])[::2] == (13, [1, 2])


def test_search() -> None:
    """After 3 epochs without gain a tenth of the rate; one more without gain ends it."""
    stop = StopConfig(min_epochs=0, patience=3, min_gain=0.5, factor=0.1, decays=1)
    epochs, rates, best = follow(stop, [9.0, 8.0, 7.9, 7.8, 7.7, 7.6, 1.0])
    assert (epochs, best) == (6, [1, 2])
    assert rates == pytest.approx([1, 1, 1, 1, 1, 0.1])
    # A gain at the lower rate keeps it going.
    epochs, rates, _ = follow(stop, [9.0, 9.0, 9.0, 9.0, 8.0, 8.0, 8.0, 8.0, 8.0])
    assert epochs == 8 and rates[4:] == pytest.approx([0.1] * 4)


def test_retraining() -> None:
    stop = StopConfig(min_epochs=10, patience=1, min_gain=0.0, factor=0.1, decays=2)
    losses = [5.0] * 10 + [4.0, 4.5, 3.9, 3.95, 3.95]
    epochs, rates, best = follow(stop, losses)
    assert epochs == 15 and best == [1, 11, 13]
    assert rates == pytest.approx([1] * 12 + [0.1, 0.1, 0.01])


def test_a_loss_that_is_not_a_number_is_no_gain() -> None:
    stop = StopConfig(min_epochs=0, patience=2, min_gain=0.0)
    assert follow(stop, [3.0, float("nan"), float("nan"), 1.0])[0] == 3


def test_the_papers_stages() -> None:
    """The released code: 0.001 and 0.005, 10 epochs, 3 without 0.5, width 640, dropout 0.5."""
    config = load_search_config("stnas_tdnn")
    assert (config.strategy, config.space, config.paths) == ("stnas", "tdnn_chain", 1)
    assert [stage.phase for stage in config.stages] == ["warmup", "search", "retrain"]
    assert {(s.layers, s.channels, s.dropout) for s in config.stages} == {(6, 640, 0.5)}
    warmup, search, retrain = (stage.stop for stage in config.stages)
    assert warmup == StopConfig(min_epochs=10, patience=3, min_gain=0.5, decays=0)
    assert search == StopConfig(min_epochs=0, patience=3, min_gain=0.5, factor=0.1, decays=1)
    assert retrain == StopConfig(min_epochs=10, patience=1, min_gain=0.0, factor=0.1, decays=2)
    assert (config.weights.optimizer, config.weights.lr, config.weights.min_lr) == (
        "adam", 0.001, 0.001,
    )  # fmt: skip
    assert (config.architecture.lr, config.architecture.weight_decay) == (0.005, 0.0)
    network = config.encoder_config(config.stages[0])
    assert network.input_size * 3 == 120 and network.output_size == network.channels == 640
    assert network.subsampling_factor == 3


WARMUP = {"phase": "warmup", "layers": 3, "channels": 4}
SEARCH = {"phase": "search", "layers": 3, "channels": 4}
RETRAIN = {"phase": "retrain", "layers": 5, "channels": 6}


@pytest.mark.parametrize(
    ("stages", "paths"),
    [
        ([WARMUP], ["stages[0].phase: 'warmup' must be followed"]),
        ([WARMUP, {**SEARCH, "channels": 8}], ["stages[0].phase: 'warmup' must be followed"]),
        ([WARMUP, RETRAIN, SEARCH], ["stages[0].phase", "stages[1].phase: 'retrain' must be"]),
        ([RETRAIN], ["stages: none of them"]),
        ([{**SEARCH, "phase": "play"}], ["stages[0].phase: unknown"]),
        ([{**SEARCH, "stop": {"patience": 0}}], ["stages[0].stop.patience: must be in"]),
        ([{**SEARCH, "stop": {"decay": 1}}], ["stages[0].stop.decay: unknown key"]),
        ([{**SEARCH, "stop": 5}], ["stages[0].stop: must be a mapping"]),
        ([{**SEARCH, "stop": {"factor": 0}}], ["stages[0].stop.factor: must be a number"]),
    ],
)
def test_phases_that_make_no_search(stages: list[object], paths: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        SearchConfig.from_dict({"stages": stages})
    problems = caught.value.problems
    assert len(problems) == len(paths), problems
    for path in paths:
        assert any(problem.startswith(path) for problem in problems), problems


def test_a_chain_has_its_own_rules() -> None:
    with pytest.raises(ConfigError) as caught:
        SearchConfig.from_dict(
            {
                "space": "tdnn_chain",
                "network": {"stem_stride": [1, 2], "hidden_sizes": [8]},
                "stages": [{"layers": 5, "operations": 8}],
                "regularization": {"at_most": {"avg_pool_3x3": 2}},
            }
        )
    found = sorted(problem.split(":")[0] for problem in caught.value.problems)
    assert found == [
        "network.hidden_sizes",
        "network.stem_stride",
        "regularization.at_most",
        "stages[0].layers",
        "stages[0].operations",
    ]
    stages = [{"layers": 6, "operations": 4}]
    config = SearchConfig.from_dict({"space": "tdnn_chain", "stages": stages})
    assert config.regularization.operations == () and config.regularization.at_most == {}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_no_handler_of_errors_keeps_a_signal(number: signal.Signals) -> None:
    """It may arrive in a YAML parser, a report or a library that goes on after any error."""
    with pytest.raises(StoppedError) as stopped, stoppable():
        try:
            os.kill(os.getpid(), number)
        except Exception:
            pytest.fail("the signal was taken for an error")
    copy = pickle.loads(pickle.dumps(stopped.value))
    assert (str(copy), copy.status) == (f"stopped by {number.name}", 128 + number)
