"""The plan of the recipe that compares encoders: searches, tables, commands, wrong options."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path

import pytest
import torch

from nas_encoder import build_encoder, load_genotype
from nas_encoder.cli import bench
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.errors import ConfigError
from nas_encoder.network.complexity import count_parameters
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.spaces import get_space
from recipes.blocks.local import table
from recipes.blocks.local.plan import Plan
from tools.experiments.recipe import read_options

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "blocks"


def plan(*arguments: str) -> Plan:
    return Plan(RECIPE, read_options(RECIPE, list(arguments)))


@pytest.mark.parametrize("path", ["blocks/conf/search.yaml", "mini/espnet/conf/search_blocks.yaml"])
def test_what_a_search_begins_with_is_in_the_space_and_within_its_budgets(path: str) -> None:
    config = read_yaml(RECIPE.parent / path, ConfigError)
    space, limits = get_space(config["space"]), config["objective"]
    initial = [load_genotype(source) for source in config["trials"]["initial"]]
    assert len(initial) >= 6
    for genotype in initial:
        space.encode(genotype)
        with torch.device("meta"):
            network = build_encoder(genotype, input_size=config["features"]["num_mel_bins"])
        assert limits["at_least"]["parameters"] <= count_parameters(network)
        assert count_parameters(network) <= limits["parameters"]


# -- the plan ---------------------------------------------------------------------------------


def test_the_plan_of_all_corpora() -> None:
    found = plan()
    runs = set(found.tuned_runs())
    assert ("aishell", "time", "transfer") in runs
    assert ("librispeech", "time", "transfer") not in runs  # its own search found it
    assert ("timit", "epochs", "zipformer") in runs
    assert ("prompts", "epochs", "zipformer") not in runs
    assert ("librispeech", "time", "random_search") in runs
    assert ("aishell", "time", "random_search") not in runs  # no random search there
    assert ("random", "aishell") not in found.search_runs
    assert found.genotype("aishell", "transfer") == ["search/evolution/librispeech/genotype.yaml"]
    assert found.genotype("aishell", "searched") == ["search/evolution/aishell/genotype.yaml"]
    assert found.genotype("aishell", "zipformer") == []
    untuned = list(found.untuned_runs())
    draws = [run for run in untuned if run["encoder"].startswith("draw-")]
    assert len(draws) >= 16 and {run["corpus"] for run in draws} == {"librispeech"}
    assert {run["seed"] for run in untuned if run["encoder"] == "searched"} == {"1", "2", "3"}
    sizes = {encoder.role for encoder in found.encoders.values()}
    assert sizes == {"searched", "chance", "cells", "peer", "narrowed"}


def test_a_small_run_has_the_encoders_that_it_can() -> None:
    found = plan("--small", "--searches", "evolution", "--seeds", "7")
    assert found.seeds == ["7"]  # what is given wins over what --small sets
    assert found.corpora.keys() == {"librispeech"} and found.options["n_test"] == 200
    assert "random_search" not in found.of_corpus("librispeech")
    assert not list(found.untuned_runs())


def test_hyperband_has_the_training_time_of_the_others() -> None:
    found = plan("--search_opts", "--set trials.initial=[]")
    assert ("hyperband", "librispeech") in found.search_runs
    assert found.search_options("evolution") == "--set trials.initial=[]"
    given = [word for word in found.search_options("hyperband").split() if word != "--set"]
    path = str(RECIPE / "conf" / "search.yaml")
    config = load_any_search_config(path, ["strategy=hyperband", *given])
    assert isinstance(config, TrialsConfig) and config.pruning is not None
    assert config.trials.seconds == found.options["trials"] * found.options["trial_seconds"]
    assert config.training.seconds == found.options["seconds"] and not config.trials.initial


def test_the_fast_search_has_a_predicted_latency() -> None:
    found = plan("--fast_ms", "4.5", "--search_opts", "--set measure.repeats=3")
    assert {("fast", corpus) for corpus in found.corpora} <= set(found.search_runs)
    assert found.table("fast") == ["latency_table.yaml"] and found.table("evolution") == []
    given = [word for word in shlex.split(found.search_options("fast")) if word != "--set"]
    config = load_any_search_config(str(RECIPE / "conf" / "search.yaml"), given)
    assert isinstance(config, TrialsConfig) and config.strategy == "evolution"
    assert config.training.lr == found.options["fast_rate"]
    assert config.objective.latency_ms == 4.5 and config.objective.table == "latency_table.yaml"
    names = [known["known"] for known in config.trials.initial]
    assert names == ["transformer", "dfsmn_san", "hourglass"] and config.measure.repeats == 3
    # The table is of the networks that the search asks for.
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    run, _, own = found.table_command().partition(" -- ")
    assert run.endswith("blocks.local.table --output latency_table.yaml")
    args = parser.parse_args(shlex.split(own))
    assert args.operations and args.space == config.space
    assert args.input_size == found.bins and args.frames == 100 * config.measure.seconds
    bounds = [config.objective.at_least["parameters"], config.objective.parameters]
    assert args.check_parameters == bounds
    assert found.encoders["fast_search"].title == "fast searched blocks"


@pytest.mark.slow
def test_a_stopped_table_goes_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Snakemake has removed its output then; a whole one is not measured again."""
    output, part = tmp_path / "table.yaml", tmp_path / "table_measured.yaml"
    options = "--operations --space blocks --input-size 16 --frames 40 --widths 32 --rates 4"
    options += " --fronts stack --modules 'memory -5+5' --seconds 0 --repeats 3 --checks 1 --json"
    command = ["--output", str(output), "--", *shlex.split(options)]
    assert table.main(command) == 0
    whole = output.read_bytes()
    document = read_yaml(part, ConfigError)
    held = document["pieces"].pop()
    write_yaml(part, {**document, "complete": False}, ConfigError)
    output.unlink()
    assert table.main(command) == 0
    after = read_yaml(output, ConfigError)
    assert after["complete"] and after["pieces"][:-1] == document["pieces"]
    assert after["pieces"][-1]["name"] == held["name"]
    output.write_bytes(whole)
    part.unlink()
    assert table.main(command) == 0 and output.read_bytes() == whole
    capsys.readouterr()


def test_wrong_options_are_named_together() -> None:
    with pytest.raises(ConfigError) as refused:
        wrong = ["--draw_corpora", "wsj", "--fast_known", "dfsmn_san dfsmn"]
        plan("--corpora", "timit wsj", "--encoders", "searched lstm", *wrong)
    text = str(refused.value)
    for part in ("corpora: unknown 'wsj'", "encoders: unknown 'lstm'", "draw_corpora: 'wsj'"):
        assert part in text
    assert text.count("fast_known:") == 1 and "fast_known: 'dfsmn' is none of what" in text


def test_commands() -> None:
    found = plan("--debs", "packages")
    folder = found.folders["timit"]
    assert "--layout timit" in found.corpus_command(folder, "/down")
    assert "--snr 5 20 --reverb" in found.corpus_command(folder, "/down")
    assert "--debs" in found.corpus_command("prompts_16000", "/down")
    assert found.data_command(folder, "/down", "/data").endswith("--phones 39")
