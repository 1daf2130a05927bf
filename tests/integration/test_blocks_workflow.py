"""The workflows of recipes/blocks and recipes/streaming, run whole on the same few utterances.

The numbers mean nothing at this size; what is tested is that every stage runs, that the documents
hold what the trainings left behind, and that a second run does only what is missing.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from mini_recipe import check_done, run_recipe, run_whole

from nas_encoder import load_genotype
from nas_encoder.genotype.publishing import own_paths

# ESPnet only for the process that the recipes share.
pytestmark = [pytest.mark.espnet, pytest.mark.slow]
ENCODERS = ["searched", "oneshot_search", "dfsmn_san"]
DRAWN = ["draw-1", "shared-1"]


def test_the_whole_workflows(espnet_jobs: Path, tmp_path: Path) -> None:
    options, text = run_whole("blocks", espnet_jobs, tmp_path)
    exp = tmp_path / "expdir"
    assert "**synthetic speech**" in text and "## What the numbers do not support" in text
    assert (exp / "results" / "results.png").stat().st_size > 10_000
    check_numbers(exp)
    check_second_run(exp, espnet_jobs, options)
    streaming = tmp_path / "streaming"
    streaming.mkdir()
    for name in ("datadir", "downloads"):
        (streaming / name).symlink_to(tmp_path / name)
    options, text = run_whole("streaming", espnet_jobs, streaming)
    check_streaming(streaming / "expdir", text)
    check_done("streaming", espnet_jobs, options)


def check_streaming(exp: Path, text: str) -> None:
    """What was found is within the bound, trained as the peer is, and streams as it was decoded."""
    assert "## What the numbers do not support" in text and "](results.png)" in text
    document = json.loads((exp / "results" / "results.json").read_text(encoding="utf-8"))
    assert document["tiny"] and document["origin"]["seed"] == 1
    words = document["origin"]["command"].split()
    assert not own_paths({**document, "command": words})
    assert document["options"]["expdir"] == "exp" and words[words.index("--datadir") + 1] == "data"
    (group,) = document["groups"]
    assert (group["corpus"], group["bound_ms"]) == ("timit", 190)
    rows = {row["name"]: row for row in group["rows"]}
    assert rows.keys() == {"blocks_190ms", "espnet_190ms"}
    for name, row in rows.items():
        assert 0 < row["measured_ms"] <= row["lookahead_ms"] <= row["bound_ms"] == 190
        assert row["streamed"]["utterances"] == 2 and row["streamed"]["furthest"] <= 1e-3
        assert row["streamed_ms"] > 0 and row["latency_ms"] > 0 and row["chunk_ms"] == 160
        assert 1.0 <= row["training_seconds"] < 3 and row["peak"] == "0.004"
        spec = yaml.safe_load((exp / "encoders" / "timit" / f"{name}.yaml").read_text())
        assert spec["lookahead_ms"] == 190
    assert rows["espnet_190ms"]["lookahead_ms"] == 180
    found = load_genotype(exp / "search" / "blocks_190ms" / "timit" / "genotype.yaml")
    spec = yaml.safe_load((exp / "encoders" / "timit" / "blocks_190ms.yaml").read_text())
    assert spec["options"]["genotype"] == found.to_dict()
    assert found.name == "streaming_blocks_190ms" and found.space == "streaming_blocks"
    (search,) = document["searches"]
    assert search["genotype"]["stages"] == found.to_dict()["stages"] and search["cpu_seconds"] > 1
    (duel,) = group["verdicts"][0]["duels"]
    assert (duel["first"], duel["second"]) == ("blocks_190ms", "espnet_190ms")


def check_numbers(exp: Path) -> None:
    """The document holds what was trained, decoded and measured."""
    document = json.loads((exp / "results" / "results.json").read_text(encoding="utf-8"))
    (section,) = document["sections"]
    assert (section["corpus"], section["condition"]) == ("timit", "time")
    rows = {row["name"]: row for row in section["rows"]}
    assert sorted(rows) == sorted(ENCODERS)
    latency = json.loads((exp / "latency.json").read_text(encoding="utf-8"))["ms"]
    assert set(latency) == {f"timit/{name}" for name in (*ENCODERS, *DRAWN)}
    for name, row in rows.items():
        first, chosen = (
            json.loads((exp / "chosen" / "timit" / name / f"{number}.json").read_text())
            for number in (0, 1)
        )
        assert first["next"] in (0.001, 0.008)  # the better of two rates is at an end
        assert float(row["peak"]) == chosen["peak"] and len(chosen["errors"]) == 3
        assert chosen["errors"].items() > first["errors"].items() and chosen["next"] is None
        result = exp / "models" / "timit" / "time" / name / row["peak"] / "1" / "result.json"
        trained = json.loads(result.read_text(encoding="utf-8"))
        assert row["valid_errors"] == [trained["valid_error"]]
        assert 1.0 <= row["training_seconds"] == trained["seconds"]
        assert 150_000 <= row["parameters"] <= 500_000
        assert row["latency_ms"] == latency[f"timit/{name}"]["ms"] > 0
        low, high = row["interval"]
        assert 0 < low <= row["error"] <= high
        assert row["errors"] == [pytest.approx(row["error"])]
    verdict, second = section["verdicts"]
    assert verdict["searched"] == "searched" and len(verdict["duels"]) == 2
    assert second["searched"] == "oneshot_search"
    # What the search found is what was trained.
    spec = yaml.safe_load((exp / "encoders" / "timit" / "searched.yaml").read_text())
    found = load_genotype(exp / "search" / "evolution" / "timit" / "genotype.yaml")
    assert spec["options"]["genotype"] == found.to_dict()
    assert {own["strategy"] for own in document["searches"]} == {"evolution", "random", "oneshot"}
    assert all(own["cpu_seconds"] > 1 for own in document["searches"])
    ranked, _ = document["chance"]["timit"]
    assert ranked["name"] == "searched" and len(ranked["draws"]) == 1
    check_scores(exp, document["scores"]["timit"])
    strategies = {row["strategy"]: row for row in document["strategies"]["timit"]}
    assert strategies.keys() == {"evolution", "random", "oneshot"} - {"random"}
    for row in strategies.values():
        assert len(row["alike"]) == len(row["tuned"]) == 1 and row["cpu_seconds"] > 1


def check_scores(exp: Path, found: dict[str, Any]) -> None:
    """The tables of cheap scores hold what the searches and the trainings wrote."""
    drawn, shared, everything = found["tables"]
    assert (drawn["trained"], shared["trained"], everything["trained"]) == (1, 1, 5)
    assert drawn["final"] == "test errors after 1 s"
    names = {row["score"] for row in drawn["rows"]}
    assert {"error after 0.25 s", "power law through the errors until 1 s"} <= names
    scores = json.loads((exp / "shared" / "timit" / "scores.json").read_text())
    assert "shared-1" in scores["errors"] and scores["others"] == 1
    assert found["held"] == [scores["held"], 1]
    (row,) = [row for row in shared["rows"] if row["score"] == "error with shared weights"]
    assert row["count"] == 1 and found["selections"] == []
    # The same weights give the search and the random points their scores.
    run = exp / "search" / "oneshot" / "timit"
    own = json.loads((run / "result.json").read_text())
    assert own["trained_alone"] == 1 and own["trials"] == 3


def check_second_run(exp: Path, jobs: Path, options: list[str]) -> None:
    """A second run does nothing, and what is lost is made again."""
    check_done("blocks", jobs, options)
    shutil.rmtree(exp / "results")
    third = run_recipe("blocks", jobs, *options, "--stage", "7")  # rates are known from before
    assert third.returncode == 0, third.stderr
    assert re.findall(r"^(?:local)?rule (.*):$", third.stderr, re.M) == ["results", "all"]
