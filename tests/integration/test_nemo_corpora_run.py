"""A NeMo recipe of a public corpus, run whole on a few utterances with the real NeMo."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from mini_recipe import run_recipe

pytestmark = [pytest.mark.nemo, pytest.mark.slow]


def test_timit_through_every_stage(tmp_path: Path) -> None:
    exp = tmp_path / "two words"
    options = ["--tiny", "true", "--nj", "1", "--expdir", str(exp)]
    for name in ("datadir", "downloads"):
        options += [f"--{name}", str(tmp_path / name)]
    done = run_recipe("nemo", *options, timeout=1200, corpus="timit")
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert (exp / "results" / "RESULTS.md").read_text(encoding="utf-8") in done.stdout
    document = json.loads((exp / "results" / "results.json").read_text(encoding="utf-8"))
    rows = {row["dataset"]: row for row in document["rows"]}
    assert list(rows) == ["ctc_greedy/dev", "ctc_greedy/test"]
    assert all(row["unit"] == "PER" and row["units"] > 100 for row in rows.values())
    facts = document["encoders"]["blocks_ctc"]
    assert (facts["config"], facts["class"]) == ("timit_blocks_ctc", "EncDecCTCModelBPE")
    assert document["prepared"]["counts"]["source"] == "synthetic"
    # The averaged model stands alone: it holds the genotype and the tokenizer.
    with tarfile.open(exp / "averaged" / "blocks_ctc.nemo") as archive:
        names = {Path(name).name.partition("_")[2]: name for name in archive.getnames()}
        assert "tokenizer.model" in names
        stream = archive.extractfile("./model_config.yaml")
        assert stream is not None
        config = yaml.safe_load(stream.read())
    assert config["encoder"]["genotype"]["space"] == "blocks"
    again = run_recipe("nemo", *options, corpus="timit")
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stderr


def test_help_and_refusals(tmp_path: Path) -> None:
    shown = run_recipe("nemo", "--help", corpus="librispeech")
    assert shown.returncode == 0
    for word in ("--stage", "--stop_stage", "--nj", "--ngpu", "--manifests", "core hours", "GB"):
        assert word in shown.stdout
    where = ["--expdir", str(tmp_path / "exp"), "--datadir", str(tmp_path / "data")]
    options = ["--manifests", "here", "--token_type", "syllable"]
    refused = run_recipe("nemo", *where, *options, corpus="aishell")
    assert refused.returncode == 1
    assert "hold hanzi" in refused.stderr
