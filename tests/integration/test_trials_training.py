"""Searches by trials on audio: training, the command, the report, what is refused."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from search_samples import tone_corpus
from trials_samples import lookup_config, write_table

from nas_encoder import build_encoder
from nas_encoder.cli.main import main
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.common.sealed import SEALS
from nas_encoder.deploy.latency import BenchSettings, measure_table
from nas_encoder.errors import CheckpointError, ConfigError, MissingDependencyError
from nas_encoder.genotype import load_genotype
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.search.config.sections import EvolutionConfig, MeasureConfig
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials import run_trials
from nas_encoder.search.trials.costs import TrialCosts
from nas_encoder.search.trials.training import TrainingEvaluator
from nas_encoder.spaces import get_space
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.steps import WeightSteps

NETWORKS: dict[str, dict[str, Any]] = {
    "asr_revised": {"layers": 3, "channels": 1, "output_size": 8, "stem_stride": [1, 2]},
    "darts": {"layers": 3, "channels": 1, "output_size": 8, "stem_stride": [1, 2]},
    "tdnn_chain": {"channels": 8, "output_size": 8},
    "nasbench_asr": {"channels": 12, "output_size": 8, "block_cells": [1, 1, 1, 1]},
    "blocks": {"channels": 32, "layers": 3},
}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("corpus")
    train = tone_corpus(folder / "train", 8, seed=1, seconds=0.6)
    return str(train), str(tone_corpus(folder / "valid", 3, seed=2, seconds=0.6))


def document(space: str, **more: Any) -> dict[str, Any]:
    return {
        "strategy": "random",
        "space": space,
        "name": "quick",
        "features": {"num_mel_bins": 16},
        "network": NETWORKS[space],
        "training": {"epochs": 2, "lr": 0.01},
        "batch": {"max_utterances": 4},
        "trainer": {"accelerator": "cpu", "score_utterances": 3},
        "trials": {"count": 2},
        **more,
    }


def evaluator(corpus: tuple[str, str], space: str, **more: Any) -> TrainingEvaluator:
    return TrainingEvaluator(TrialsConfig.from_dict(document(space, **more)), *corpus, seed=1)


@pytest.mark.parametrize("space", sorted(NETWORKS))
def test_networks_of_every_space_are_trained(corpus: tuple[str, str], space: str) -> None:
    import random

    found = evaluator(corpus, space)
    genotype = get_space(space).sample(random.Random(3))
    errors = list(found.errors(genotype))
    assert len(errors) == 2 and 0 <= errors[1] <= errors[0] <= 100
    assert list(found.errors(genotype)) == errors  # whichever trials were before it
    encoder = build_encoder(genotype, **{**NETWORKS[space], "input_size": 16})
    costs = found.costs(genotype)
    assert costs == {
        "parameters": count_parameters(encoder),
        "macs": pytest.approx(count_macs(encoder, 300, 16), rel=1e-4 if space == "blocks" else 0),
    }


def test_costs_are_measured_once_and_those_that_budgets_refuse_not_at_all(
    corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[str] = []
    own = TrialCosts._measured

    def counted(self: TrialCosts, genotype: Any, names: Any) -> dict[str, float]:
        measured.append(genotype.hash)
        return own(self, genotype, names)

    monkeypatch.setattr(TrialCosts, "_measured", counted)
    budgets = {"parameters": 3300, "memory_mb": 100, "train_seconds": 1e6, "latency_ms": 1e4}
    asked = document(
        "tdnn_chain",
        objective={**budgets, "at_least": {"parameters": 2900}},
        measure={"seconds": 0.5, "repeats": 3, "steps": 2},
        trials={"count": 3},
    )
    genotype = run_trials(TrialsConfig.from_dict(asked), corpus[0], tmp_path, valid=corpus[1])
    rows = RunFolder(tmp_path).rows()
    assert sorted(set(measured)) == sorted({row["genotype"] for row in rows})
    assert len(measured) == len(set(measured))
    assert sum(row.get("refused", 0) for row in rows) > 0
    found = evaluator(corpus, "tdnn_chain", **{k: asked[k] for k in ("measure", "objective")})
    for row in rows:
        assert 2900 <= row["parameters"] <= 3300
        assert row["latency_ms"] > 0 and row["train_seconds"] > 0
        again = found.costs(get_space("tdnn_chain").decode(row["vector"]), ["memory_mb"])
        assert again["memory_mb"] == pytest.approx(row["memory_mb"], rel=0.05)
        assert row["memory_mb"] > 4e-6 * row["parameters"]
    assert genotype.provenance["validation"].keys() == {"token_error_rate", "macs", *budgets}
    with pytest.raises(ConfigError, match="parameters: no network of the space and of this size"):
        evaluator(corpus, "tdnn_chain", objective={"parameters": 10})


@pytest.mark.slow
def test_latencies_are_predicted_where_there_is_a_table(
    corpus: tuple[str, str], tmp_path: Path
) -> None:
    path, space = str(tmp_path / "latency.yaml"), get_space("darts")
    options = space.options.from_dict({**NETWORKS["darts"], "input_size": 16})
    measure_table(space, options, 30, BenchSettings(seconds=0.0, repeats=3, checks=1), path)
    more = {"measure": {"seconds": 0.3}, "objectives": ["error"]}
    found = evaluator(corpus, "darts", objective={"table": path, "latency_ms": 1e6}, **more)
    genotype = load_genotype("darts_v2")
    predicted = space.costs.build_with_latency(space, options, 30, path).of(genotype.architecture)
    assert found.costs(genotype, ["latency_ms"]) == predicted
    # A study is not gone on with by latencies of another runtime, at the same path.
    known, measured = found.identity()["latencies"], read_yaml(path)
    assert known["settings"] == measured["settings"] and known["scale"] == measured["scale"]
    write_yaml(path, {**measured, "settings": {**measured["settings"], "runtime": "onnx"}})
    again = evaluator(corpus, "darts", objective={"table": path, "latency_ms": 1e6}, **more)
    assert again.identity()["latencies"]["settings"]["runtime"] == "onnx"
    with pytest.raises(ConfigError, match="latency_ms: no network of the space"):
        evaluator(corpus, "darts", objective={"table": path, "latency_ms": 1e-6}, **more)
    with pytest.raises(ConfigError, match=r"frames: is 30 in the table, the search has 300"):
        evaluator(corpus, "darts", objective={"table": path})


def test_nothing_is_trained_twice(
    corpus: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained: list[str] = []
    errors = TrainingEvaluator.errors

    def counted(self: TrainingEvaluator, genotype: Any) -> Any:
        trained.append(genotype.hash)
        return errors(self, genotype)

    monkeypatch.setattr(TrainingEvaluator, "errors", counted)
    space = get_space("tdnn_chain")
    monkeypatch.setattr(space, "sample", lambda rng: space.decode([rng.randrange(2)] + [0] * 5))
    config = TrialsConfig.from_dict(document("tdnn_chain", trials={"count": 6}))
    run_trials(config, corpus[0], tmp_path / "run", valid=corpus[1])
    rows = RunFolder(tmp_path / "run").rows()
    assert len(rows) == 6 and sorted(trained) == sorted({row["genotype"] for row in rows})
    for row in rows:
        twin = next(other for other in rows if other["genotype"] == row["genotype"])
        assert row["errors"] == twin["errors"] and row["macs"] == twin["macs"]


def test_training_lowers_the_error(corpus: tuple[str, str]) -> None:
    found = evaluator(
        corpus,
        "tdnn_chain",
        network={"channels": 48, "output_size": 48},
        training={"epochs": 30, "lr": 0.005},
    )
    genotype = get_space("tdnn_chain").decode([0] * 6)
    errors = list(found.errors(genotype))
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 60, errors


def test_a_diverging_network_recognizes_nothing(
    corpus: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def diverge(self: WeightSteps, batches: Any, lr: float) -> float:
        raise DivergedError("the loss is nan", batches[0])

    monkeypatch.setattr(WeightSteps, "weight_step", diverge)
    found = evaluator(corpus, "tdnn_chain")
    assert list(found.errors(get_space("tdnn_chain").decode([0] * 6))) == [100.0, 100.0]


@pytest.mark.slow
def test_the_command_finds_a_front_and_reports_it(
    corpus: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "front.yaml"
    asked = document(
        "tdnn_chain",
        strategy="nsga2",
        objectives=["error", "latency_ms"],
        trials={"count": 5},
        evolution={"population": 2, "sample": 1},
        measure={"seconds": 0.5, "repeats": 3},
    )
    config.write_text(yaml.safe_dump(asked))
    output = tmp_path / "run"
    command = ["search", "--config", str(config), "--train", corpus[0], "--valid", corpus[1]]
    assert main([*command, "--output", str(output), "--seed", "1", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    best = load_genotype(output / "genotype.yaml")
    assert printed["hash"] == best.hash

    rows = RunFolder(output).rows()
    assert len(rows) == 5 and all(row["latency_ms"] > 0 for row in rows)
    front = json.loads((output / "front.json").read_text())
    assert front["objectives"] == ["error", "latency_ms"]
    files = {str(path.relative_to(output)) for path in (output / "front").iterdir()}
    assert files == {member["file"] for member in front["front"]}
    for member in front["front"]:
        assert load_genotype(output / member["file"]).hash == member["hash"]
        for row in rows:
            assert not (row["error"] < member["error"] and row["latency_ms"] < member["latency_ms"])
    errors = [member["error"] for member in front["front"]]
    assert errors == sorted(errors) and errors[0] == min(row["error"] for row in rows)
    assert best.hash == front["front"][0]["hash"]

    page = (output / "report.html").read_text()
    assert "Front: error and latency" in page and "Search history" in page
    assert page.count("data:image/png") == 4 and best.hash in page
    (output / "report.html").unlink()
    assert main(["report", str(output)]) == 0
    assert (output / "report.html").read_text() == page

    assert main([*command, "--output", str(output), "--seed", "1"]) == 2
    assert "add --resume" in capsys.readouterr().err


def test_data_are_needed_and_all_that_is_missing_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["search", "--config", "random", "--output", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert "--train" in said and "--valid" in said
    assert main(["search", "--config", "tiny", "--output", "x", "--storage", "sqlite://"]) == 2
    said = capsys.readouterr().err
    assert "--train" in said and "--storage" in said


def test_workers_of_one_study_have_the_same_configuration(tmp_path: Path) -> None:
    source = write_table(tmp_path / "t.sqlite", "tdnn_chain", 30)
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    config = lookup_config("evolution", source, trials={"count": 5})
    run_trials(config, None, tmp_path / "a", seed=1, storage=url)
    # Another worker, from a folder of its own, finds it finished.
    genotype = run_trials(config, None, tmp_path / "b", seed=1, storage=url)
    assert genotype.hash == load_genotype(tmp_path / "a" / "genotype.yaml").hash
    other = lookup_config("evolution", source, trials={"count": 6}, evolution={"population": 3})
    with pytest.raises(CheckpointError) as caught:
        run_trials(other, None, tmp_path / "c", seed=2, storage=url)
    said = "\n".join(caught.value.problems)
    assert all(part in said for part in ("evolution.population", "seed"))


@pytest.mark.slow
def test_settings_that_are_newer_than_a_search_by_trials_have_their_defaults(
    tmp_path: Path,
) -> None:
    """As in the folder and the study of a search that an earlier version began."""
    import optuna

    def age(document: dict[str, Any]) -> None:
        del document["measure"], document["bpe_size"], document["evolution"]["sample"]

    config = lookup_config("random", write_table(tmp_path / "t.sqlite", "tdnn_chain", 30))
    config = replace(config, evolution=EvolutionConfig())
    output = tmp_path / "run"
    found = run_trials(config, None, output)
    older = read_yaml(output / "config.yaml")
    age(older)
    write_yaml(output / "config.yaml", older)
    (output / SEALS).unlink()
    study = optuna.load_study(study_name="random", storage=f"sqlite:///{output / 'study.db'}")
    identity = study.user_attrs["nas_encoder"]
    age(identity["config"])
    study.set_user_attr("nas_encoder", identity)

    assert run_trials(config, None, output, resume=True).hash == found.hash
    changed = replace(config, measure=MeasureConfig(seconds=1.0))
    with pytest.raises(CheckpointError, match=r"measure.seconds: was 3.0 when the run began"):
        run_trials(changed, None, output, resume=True)
    url = f"sqlite:///{output / 'study.db'}"
    with pytest.raises(CheckpointError, match=r"measure.seconds: was 3.0 when the study"):
        run_trials(changed, None, tmp_path / "other", storage=url)


@pytest.mark.slow
def test_a_storage_that_cannot_be_opened(tmp_path: Path) -> None:
    source = write_table(tmp_path / "t.sqlite", "tdnn_chain", 30)
    config = lookup_config("random", source)
    with pytest.raises(CheckpointError, match="cannot be opened") as caught:
        run_trials(config, None, tmp_path / "a", storage="mysterydb://me:secret@host/x")
    assert "secret" not in str(caught.value)
    with pytest.raises(CheckpointError, match="cannot be opened") as caught:
        run_trials(config, None, tmp_path / "a", storage=f"sqlite:///{tmp_path}/none/study.db")
    assert "SQL:" not in str(caught.value)


def test_optuna_is_named_where_it_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"nas_encoder\[search\]"):
        run_trials(TrialsConfig(), "train", tmp_path / "run", valid="valid")
    assert not (tmp_path / "run").exists()


def test_a_log_file_gets_a_line_now_and_then(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("nas_encoder.search.trials.study._TELL", 0.0)
    source = write_table(tmp_path / "t.sqlite", "tdnn_chain", 30)
    with caplog.at_level("INFO", "nas_encoder"):
        run_trials(lookup_config("random", source, trials={"count": 3}), None, tmp_path / "run")
    lines = [r.getMessage() for r in caplog.records if "of 3 trials" in r.getMessage()]
    assert len(lines) == 3 and all("best error" in line and "left" in line for line in lines)


def test_a_table_of_another_space(tmp_path: Path) -> None:
    source = write_table(tmp_path / "t.sqlite", "tdnn_chain", 30)
    with pytest.raises(ConfigError, match="is of the space 'tdnn_chain'"):
        run_trials(lookup_config("random", source, space="darts"), None, tmp_path / "a")
