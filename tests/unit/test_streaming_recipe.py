"""The recipe that compares streaming encoders: its plan, its bounds, what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from recipe_samples import row, tiny_training
from search_samples import tone_corpus
from torch import Tensor

from nas_encoder import build_encoder, load_genotype
from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.network.complexity import count_parameters
from nas_encoder.peers import streaming as peers
from nas_encoder.peers.streaming import chunk_of
from nas_encoder.search.config.load import load_any_search_config
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.spaces import get_space
from recipes.blocks.local.collect import elsewhere
from recipes.blocks.local.encoders import Encoder
from recipes.blocks.local.train import Limit
from recipes.blocks.local.verdicts import verdicts
from recipes.streaming.local import bounded, collect, streamed
from recipes.streaming.local.plan import StreamingPlan
from tools.experiments.recipe import read_options
from tools.results.document import portable

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "streaming"
CAUSAL: dict[str, Any] = {
    "schema": 1,
    "name": "causal",
    "space": "streaming_blocks",
    "front": {"kind": "conv2d", "channels": 4},
    "stages": [{"width": 8, "modules": [{"kind": "memory", "back": 2, "ahead": 1}]}],
}


def plan(*arguments: str) -> StreamingPlan:
    return StreamingPlan(RECIPE, read_options(RECIPE, list(arguments)))


# -- the plan ---------------------------------------------------------------------------------


def test_the_plan() -> None:
    found = plan()
    searched = [("blocks", "librispeech"), ("blocks", "prompts"), ("cells", "librispeech")]
    expected = {
        (f"{space}_{bound}ms", corpus) for bound in (190, 550) for space, corpus in searched
    }
    assert set(found.search_runs) == expected
    runs = set(found.tuned_runs())
    for bound in (190, 550):
        for corpus in ("librispeech", "prompts"):
            for name in ("blocks", "nemo", "espnet"):
                assert (corpus, "time", f"{name}_{bound}ms") in runs
        # Cells are searched on one corpus, and the other one trains what was found there.
        assert ("librispeech", "time", f"cells_{bound}ms") in runs
        assert ("prompts", "time", f"cells_{bound}ms") not in runs
        assert ("prompts", "time", f"cells_{bound}ms_transfer") in runs
        assert found.bound_of(f"nemo_{bound}ms") == bound
        assert found.bound_of_search(f"cells_{bound}ms") == str(bound)
    assert not list(found.untuned_runs())
    assert found.genotype("prompts", "cells_550ms_transfer") == [
        "search/cells_550ms/librispeech/genotype.yaml"
    ]
    assert Path(found.search_document("cells_550ms")) == RECIPE / "conf" / "cells.yaml"
    assert found.search_documents("espnet_190ms") == []
    assert found.bins == 40  # of the list that recipes/blocks has, too


def test_a_part_of_the_plan() -> None:
    found = plan("--bounds", "550", "--searches", "blocks", "--corpora", "prompts")
    assert found.search_runs == [("blocks_550ms", "prompts")]
    assert {found.bound_of(name) for name in found.encoders} == {550}
    assert "cells_550ms" not in found.of_corpus("prompts")


def test_wrong_options_are_named_together() -> None:
    with pytest.raises(ConfigError) as refused:
        plan("--bounds", "190 320", "--searches", "blocks rnns", "--encoders", "nemo_550ms")
    for part in ("has 320 ms", "is that of 'rnns_190ms'", "'nemo_550ms' has another bound"):
        assert part in str(refused.value)
    with pytest.raises(ConfigError, match="encoders: unknown 'lstm'"):
        plan("--encoders", "lstm")


@pytest.mark.parametrize("name", ["blocks", "cells"])
def test_what_searches_begin_with_is_within_the_bounds(name: str) -> None:
    config = load_any_search_config(str(RECIPE / "conf" / f"{name}.yaml"))
    assert isinstance(config, TrialsConfig) and config.objective.lookahead_ms == 190
    assert config.space == f"streaming_{name}"
    initial = [load_genotype(source) for source in config.trials.initial]
    assert len(initial) == (4 if name == "blocks" else 0)
    for genotype in initial:
        get_space(config.space).encode(genotype)
        network: Any = build_encoder(genotype, input_size=config.features.num_mel_bins)
        assert 150_000 <= count_parameters(network) <= 450_000
        assert 10 * network.lookahead() <= 190


# -- bounds -----------------------------------------------------------------------------------


def causal() -> Any:
    return build_encoder(load_genotype(CAUSAL), input_size=8)


def otherwise(encoder: Any, x: Tensor) -> list[Tensor]:
    """Stream other outputs than those of the whole utterance."""
    return [encoder(x, torch.tensor([x.size(1)]))[0] + torch.randn(encoder.output_size)]


def test_the_lookahead_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    network = causal()  # the own 4 frames and 4 more
    expected = {"bound_ms": 70.0, "lookahead_ms": 70.0, "measured_ms": 70.0}
    assert bounded.lookahead(network, 70.0, "causal") == expected
    with pytest.raises(ConfigError, match="sees 70 ms ahead, and may see 60 ms"):
        bounded.lookahead(network, 60.0, "causal")
    with monkeypatch.context() as patch:
        patch.setattr(network, "lookahead", lambda: 3)
        with pytest.raises(ConfigError, match="says that it sees 30 ms ahead, and sees 70 ms"):
            bounded.lookahead(network, 70.0, "causal")
    monkeypatch.setattr(bounded, "streamed", otherwise)
    with pytest.raises(ConfigError, match="gives other outputs in chunks"):
        bounded.lookahead(network, 70.0, "causal")


def test_a_document_is_written_only_within_the_bound(tmp_path: Path) -> None:
    genotype, listed = tmp_path / "genotype.yaml", tmp_path / "encoders.yaml"
    load_genotype(CAUSAL).save(genotype)
    out, ahead = tmp_path / "causal.yaml", tmp_path / "causal.json"
    words = ["--encoders", listed, "--name", "causal", "--genotype", genotype, "--bins", 8]
    words += ["--output", out, "--lookahead", ahead]
    for bound, status in ((60, 1), (70, 0)):
        listed.write_text(f"causal: {{role: searched, search: blocks, lookahead_ms: {bound}}}\n")
        assert bounded.main(list(map(str, words))) == status
        assert out.is_file() == ahead.is_file() == (status == 0)
    assert json.loads(ahead.read_text())["lookahead_ms"] == 70


@pytest.mark.slow
def test_what_was_trained_streams(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test, out = str(tone_corpus(tmp_path / "test", 3)), tmp_path / "out.json"
    encoder = Encoder(title="causal", options={"genotype": CAUSAL})
    tiny_training(tmp_path, encoder, Path(test), Path(test), Limit(epochs=1)).run(tmp_path)
    words = ["--model", str(tmp_path), "--test", test, "--count", "3", "--output", str(out)]
    assert streamed.main(words) == 0
    found = json.loads(out.read_text())
    assert found["utterances"] == found["same_texts"] == 3 and 0 <= found["furthest"] < 1e-4
    with pytest.raises(DataError, match="has no utterance"):
        streamed.compare(tmp_path, test, 0)
    monkeypatch.setattr(streamed, "streamed", otherwise)
    with pytest.raises(DataError, match="in chunks are .* away"):
        streamed.compare(tmp_path, test, 1)
    with pytest.raises(CheckpointError, match="is missing"):
        streamed.compare(tmp_path / "nowhere", test, 1)


def test_chunks_are_as_long_as_the_bound() -> None:
    network = causal()
    network.eval()
    assert [chunk_of(network, frames) for frames in (0, 3, 4, 19)] == [network.period, 4, 4, 16]
    x = torch.randn(1, 45, 8)
    pieces = list(peers.streamed(network, x, 19))
    assert len(pieces) == 3
    whole, _ = network(x, torch.tensor([45]))
    torch.testing.assert_close(torch.cat(pieces, 1), whole, rtol=1e-4, atol=1e-4)


# -- what it says -----------------------------------------------------------------------------


def test_the_goal_asks_for_fewer_errors_than_each_toolkit() -> None:
    many = [
        row("blocks_190ms", "searched", [1, 2] * 30),
        row("nemo_190ms", "narrowed", [2, 2] * 30),
        row("espnet_190ms_hop", "narrowed", [3, 3] * 30),
        row("espnet_190ms", "narrowed", [4, 3] * 30),
    ]
    group = collect.Group("one", 190.0, "One", many, verdicts(many, 1, [own.name for own in many]))
    duels = collect.against_toolkits(group.verdicts[0])
    assert [duel.second.name for duel in duels] == ["nemo_190ms", "espnet_190ms_hop"]
    said = "\n".join(collect.goal_parts([group]))
    assert "met in **1 of 1** cases" in said and "- One: met." in said
    close = [*many[:1], row("nemo_190ms", "narrowed", [2, 1] * 30), *many[2:]]
    other = collect.Group(
        "one", 190.0, "One", close, verdicts(close, 1, [own.name for own in close])
    )
    said = "\n".join(collect.goal_parts([group, other]))
    assert "met in **1 of 2** cases" in said and "not met" in said
    part = collect.Group("one", 190.0, "One", many[:2], verdicts(many[:2], 1, ["blocks_190ms"]))
    assert collect.goal_parts([part]) == []  # without one of the toolkits


def test_folders_of_a_run_are_called_as_by_default() -> None:
    options = {"expdir": "/a/real/exp1", "datadir": "/b/data2", "downloads": "/b/d", "debs": ""}
    options["command"] = "recipes/streaming/run.sh --expdir=/link --datadir /b/data2 --debs /c"
    said = portable(options["command"], names := elsewhere(options))
    assert said == "recipes/streaming/run.sh --expdir=exp --datadir data --debs debs"
    assert portable("/a/real/exp1/search", names) == "exp/search"
    assert portable(str(RECIPE / "conf"), names) == "recipes/streaming/conf"


def test_it_says_what_was_trained_and_how_it_was_tuned() -> None:
    many, found = [row("blocks_190ms", "searched", [1])], plan("--seconds", "7", "--extend", "1")
    group = collect.Group("one", 190.0, "One", many, verdicts(many, 1, ["blocks_190ms"]))
    said = " ".join(collect.limits([group], found).split())
    assert "Networks of 0.20 to 0.20 M parameters, trained for 7 CPU seconds" in said
    said = collect.trained_sentence(found)
    assert "(peak rates 0.004, 0.008, 0.016, and up to 1 beyond an end with the best)" in said
    assert said.endswith("with 3 seeds for 7 CPU seconds on one thread.")
    said = collect.trained_sentence(plan("--small"))
    assert "at the peak rate 0.008, which was not tuned, with 2 seeds" in said
