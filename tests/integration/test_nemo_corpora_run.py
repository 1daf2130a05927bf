"""The NeMo recipes of the public corpora, run whole on a few utterances with the real NeMo."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

import pytest
import yaml
from mini_recipe import check_done, run_recipe, run_whole

pytestmark = [pytest.mark.nemo, pytest.mark.slow]
# Corpus -> what its tiny run trains and of which class, its test sets, the units of its errors.
RUNS = {
    "aishell": (
        {"conformer_ctc": "EncDecCTCModel", "nas_rnnt": "EncDecRNNTModel"},
        ["dev", "test"],
        {"CER"},
    ),
    "librispeech": (
        {
            "fastconformer_ctc": "EncDecCTCModelBPE",
            "dfsmn_san_hybrid": "EncDecHybridRNNTCTCBPEModel",
        },
        ["dev", "test-clean", "test-other"],
        {"WER", "CER"},
    ),
    "timit": ({"blocks_ctc": "EncDecCTCModelBPE"}, ["dev", "test"], {"PER"}),
}
SPACES = {"nas": "asr_revised", "blocks": "blocks"}  # of those that are searched
HEADS = {"ctc": ["ctc"], "rnnt": ["rnnt"], "hybrid": ["ctc", "rnnt"]}


@pytest.mark.parametrize("corpus", RUNS)
def test_every_stage(corpus: str, nemo_jobs: Path, tmp_path: Path) -> None:
    recipe, folder = f"{corpus}/nemo", tmp_path / "two words"
    encoders, splits, units = RUNS[corpus]
    options, _ = run_whole(recipe, nemo_jobs, folder)
    exp = folder / "expdir"
    document = json.loads((exp / "results" / "results.json").read_text(encoding="utf-8"))
    rows = document["rows"]
    assert {(row["encoder"], row["dataset"], row["unit"]) for row in rows} == {
        (name, f"{head}_greedy/{split}", unit)
        for name in encoders
        for head in HEADS[name.rpartition("_")[2]]
        for split in splits
        for unit in units
    }
    assert all(row["units"] > (100 if row["unit"] == "PER" else 4) for row in rows)
    assert document["prepared"]["counts"]["source"] == "synthetic"
    for name, kind in encoders.items():
        facts = document["encoders"][name]
        assert facts["class"] == kind
        assert facts["config"] in (f"{corpus}_{name}", f"{corpus}_100_{name}")
        check_averaged(exp / "averaged" / f"{name}.nemo", name, bpe="BPE" in kind)
    check_done(recipe, nemo_jobs, options)


def check_averaged(path: Path, name: str, bpe: bool) -> None:
    """The averaged model stands alone: it holds the tokenizer and a searched one's genotype."""
    with tarfile.open(path) as archive:
        names = {Path(name).name.partition("_")[2]: name for name in archive.getnames()}
        assert ("tokenizer.model" in names) == bpe
        stream = archive.extractfile("./model_config.yaml")
        assert stream is not None
        config = yaml.safe_load(stream.read())
    if (space := SPACES.get(name.partition("_")[0])) is not None:
        assert config["encoder"]["genotype"]["space"] == space


def test_help_and_refusals(nemo_jobs: Path, tmp_path: Path) -> None:
    shown = run_recipe("librispeech/nemo", nemo_jobs, "--help")
    assert shown.returncode == 0
    for word in ("--stage", "--stop_stage", "--nj", "--ngpu", "--manifests", "core hours", "GB"):
        assert word in shown.stdout
    where = ["--expdir", str(tmp_path / "exp"), "--datadir", str(tmp_path / "data")]
    options = ["--manifests", "here", "--token_type", "syllable"]
    refused = run_recipe("aishell/nemo", nemo_jobs, *where, *options)
    assert refused.returncode == 1
    assert "hold hanzi" in refused.stderr
