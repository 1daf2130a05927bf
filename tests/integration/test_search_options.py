"""Searches under a budget, in bf16, with accumulated gradients and with learned tokens."""

from __future__ import annotations

import logging
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from search_samples import quick_config, tone_corpus

from nas_encoder.cli.main import main
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.data import TokenSet
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.genotype import load_genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.complexity import count_parameters
from nas_encoder.search import SearchConfig, run_search
from nas_encoder.search.config.gradient import dump
from nas_encoder.search.folder import RunFolder

STAGE = {"layers": 3, "channels": 1, "operations": 8, "epochs": 2, "warmup_epochs": 0}
SIZE = {"input_size": 16, "channels": 4, "layers": 5, "output_size": 12, "stem_stride": (1, 2)}


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("corpus")
    train = tone_corpus(folder / "train", 12, seed=1, seconds=0.5)
    return str(train), str(tone_corpus(folder / "valid", 4, seed=2, seconds=0.5))


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the report out, which takes as long as the search."""
    monkeypatch.setattr("nas_encoder.search.run.write_report", lambda folder: None)


def config(**sections: Any) -> SearchConfig:
    plain = {key: sections.pop(key) for key in ("tokens", "bpe_size", "stages") if key in sections}
    document = quick_config(**sections).to_dict()
    return SearchConfig.from_dict(document | {"stages": [STAGE]} | plain)


def parameters_of(folder: Path) -> int:
    return count_parameters(build_encoder(folder / "genotype.yaml", **SIZE))


@pytest.mark.slow
def test_a_budget_is_kept(corpus: tuple[str, str], tmp_path: Path) -> None:
    """Without it the same search finds a larger network; the costs recorded are the true ones."""
    target = {"layers": 5, "channels": 4, "seconds": 1.0}
    stages, rate = [STAGE | {"epochs": 3}], {"lr": 0.5}
    free = config(objective=target, stages=stages, architecture=rate)
    run_search(free, corpus[0], tmp_path / "free", valid=corpus[1], seed=1)
    unbound = parameters_of(tmp_path / "free")
    row = RunFolder(tmp_path / "free").rows()[-1]
    assert row["costs"]["parameters"]["derived"] == unbound
    assert "budget" not in row["costs"]["parameters"] and row["penalty"] == 0
    budget = 0.8 * unbound
    target |= {"parameters": budget, "weight": 100.0}
    bound = config(objective=target, stages=stages, architecture=rate)
    run_search(bound, corpus[0], tmp_path / "bound", valid=corpus[1], seed=1)
    assert parameters_of(tmp_path / "bound") <= budget
    rows = RunFolder(tmp_path / "bound").rows()
    assert rows[0]["penalty"] > 0
    assert rows[-1]["costs"]["parameters"]["budget"] == budget
    assert rows[-1]["costs"]["parameters"]["derived"] == parameters_of(tmp_path / "bound")


@pytest.mark.slow
def test_a_budget_in_latency(corpus: tuple[str, str], tmp_path: Path) -> None:
    target = {"layers": 5, "channels": 4, "seconds": 0.4}
    with pytest.raises(ConfigError, match="nas-encoder bench --operations .* --layers 5"):
        run_search(config(objective={**target, "latency_ms": 80}), corpus[0], tmp_path / "run")
    assert not (tmp_path / "run").exists()
    (tmp_path / "search.yaml").write_text(dump(config(objective=target)))
    table = tmp_path / "latency.yaml"
    command = ["bench", "--operations", "--config", str(tmp_path / "search.yaml")]
    command += ["--output", str(table), "--seconds", "0", "--repeats", "3", "--checks", "1"]
    assert main(command) == 0
    budget = {**target, "latency_ms": 80, "table": str(table)}
    one = [STAGE | {"epochs": 1}]
    run_search(config(objective=budget, stages=one), corpus[0], tmp_path / "run", valid=corpus[1])
    (row,) = RunFolder(tmp_path / "run").rows()
    assert 0 < row["costs"]["latency_ms"]["derived"] and row["costs"]["latency_ms"]["budget"] == 80
    # The folder keeps the table, and another one would be another search.
    assert read_yaml(tmp_path / "run" / "operations.yaml") == read_yaml(table)
    document = read_yaml(table)
    document["pieces"][0]["ms"] += 1.0
    write_yaml(table, document)
    with pytest.raises(CheckpointError, match="latencies differ from those the run started"):
        run_search(
            config(objective=budget, stages=one), corpus[0], tmp_path / "run", corpus[1], 0, True
        )


@pytest.mark.slow
def test_bf16(corpus: tuple[str, str], tmp_path: Path) -> None:
    """The weights stay in float32, the course is near that of float32 and not the same."""
    losses = {}
    for precision in ("32-true", "bf16-mixed"):
        settings = config(trainer={"precision": precision}, stages=[STAGE | {"epochs": 1}])
        run_search(settings, corpus[0], tmp_path / precision, valid=corpus[1])
        state = RunFolder(tmp_path / precision).load_checkpoint()
        assert state is not None
        floats = [v for v in state["network"].values() if v.is_floating_point()]
        assert {v.dtype for v in floats} == {torch.float32}
        assert all(bool(torch.isfinite(v).all()) for v in floats)
        losses[precision] = RunFolder(tmp_path / precision).rows()[0]["train_loss"]
    assert losses["bf16-mixed"] == pytest.approx(losses["32-true"], rel=0.1)
    assert losses["bf16-mixed"] != losses["32-true"]


@pytest.mark.slow
def test_accumulated_gradients_and_bpe(
    corpus: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Six utterances in batches of 2, two batches a step; the last step of an epoch has one."""
    settings = config(batch={"max_utterances": 2, "accumulate": 2}, tokens="bpe", bpe_size=12)
    with caplog.at_level(logging.WARNING, "nas_encoder"):
        run_search(settings, corpus[0], tmp_path / "run", valid=corpus[1])
    rows = RunFolder(tmp_path / "run").rows()
    assert [row["steps"] for row in rows] == [2, 2]
    assert all(math.isfinite(row["train_loss"]) for row in rows)
    tokens = TokenSet.load(tmp_path / "run" / "tokens.txt")
    assert tokens.kind == "bpe" and len(tokens) == 13
    # The network has not learned the task in so few steps; the log says so, once.
    told = [r.message for r in caplog.records if "token error rate" in r.message]
    assert len(told) == 1 and "it has hardly learned the task" in told[0]
    load_genotype(tmp_path / "run" / "genotype.yaml")
    # Gone on with: the pieces are learned again and must be the same.
    run_search(settings, corpus[0], tmp_path / "run", valid=corpus[1], resume=True)


@pytest.mark.slow
def test_tokens_of_espnet_and_a_token_that_only_validation_has(
    corpus: tuple[str, str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A list as asr.sh leaves it gives its ids; a rare character becomes <unk>, or an error."""
    valid = tmp_path / "valid"
    shutil.copytree(corpus[1], valid)
    lines = (valid / "text").read_text().splitlines()
    (valid / "text").write_text("\n".join([lines[0] + "龘", *lines[1:], ""]))
    write_yaml(tmp_path / "quick.yaml", config(stages=[STAGE | {"epochs": 1}]).to_dict())
    command = ["search", "--config", str(tmp_path / "quick.yaml"), "--train", corpus[0]]
    command += ["--valid", str(valid)]
    listed = tmp_path / "zh_token_list" / "char" / "tokens.txt"
    listed.parent.mkdir(parents=True)
    listed.write_text("<blank>\n<unk>\nd\nc\nb\na\n<space>\n<sos/eos>\n")
    with caplog.at_level(logging.WARNING, "nas_encoder"):
        assert main([*command, "--output", str(tmp_path / "run"), "--tokens", str(listed)]) == 0
        assert main([*command, "--output", str(tmp_path / "built")]) == 0
    assert (tmp_path / "run" / "tokens.txt").read_text() == listed.read_text()
    assert TokenSet.load(tmp_path / "built" / "tokens.txt").tokens[:2] == ("<blank>", "<unk>")
    told = [r.message for r in caplog.records if "'龘' (1, first in" in r.message]
    assert len(told) == 2 and told[0].startswith("valid: read as <unk>, not in the token set: 1 of")
    refused = [*command, "--output", str(tmp_path / "no"), "--set", "unknown_tokens=error"]
    assert main(refused) == 2
    assert not (tmp_path / "no" / "features.json").exists()


def test_tokens_on_the_command_line_replace_those_of_the_config(tmp_path: Path) -> None:
    from nas_encoder.cli import token_settings
    from nas_encoder.cli.main import build_parser
    from nas_encoder.search.config.load import load_search_config
    from nas_encoder.tabular.config import load_table_config

    bpe = config(tokens="bpe", bpe_size=12)
    write_yaml(tmp_path / "bpe.yaml", bpe.to_dict())
    given = ["--config", "x", "--output", "y"]
    for words, expected in (
        ([], ("bpe", 12)),
        (["--bpe-size", "20"], ("bpe", 20)),
        (["--tokens", "word"], ("word", None)),
        (["--tokens", "data/1e5: [x]"], ("data/1e5: [x]", None)),
        (["--tokens", "bpe", "--bpe-size", "30"], ("bpe", 30)),
    ):
        args = build_parser("search").parse_args(["search", *given, *words])
        found = load_search_config(tmp_path / "bpe.yaml", token_settings(args))
        assert (found.tokens, found.bpe_size) == expected
    build = ["table", "build", "--config", "x", "--output", "y", "--train", "a", "--valid", "b"]
    args = build_parser("table").parse_args([*build, "--test", "c", "--tokens", "lists/phn"])
    settings = [*token_settings(args), "unknown_tokens=error"]
    data = load_table_config("nasbench_asr_timit", settings).data
    assert (data.tokens, data.bpe_size, data.unknown_tokens) == ("lists/phn", None, "error")
