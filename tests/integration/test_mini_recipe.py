"""The demo's recipe, run whole on a few utterances with the real ESPnet.

The numbers mean nothing at this size; what is tested is that every stage runs, that the models
which are compared have equal size, that a second run does nothing, and that the documents hold
what the trainings left behind.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import yaml
from mini_recipe import check_documents, check_done, check_numbers, run_recipe, run_whole

pytestmark = [pytest.mark.espnet, pytest.mark.slow]
RECIPE = "mini/espnet"


# One test, so that workers do not share the trainings' work out among them and do it twice.
def test_the_whole_recipe(espnet_jobs: Path, tmp_path: Path) -> None:
    options, printed = run_whole(RECIPE, espnet_jobs, tmp_path, "--systems", "searched cells")
    exp = tmp_path / "expdir"
    check_documents(exp, printed)
    document = check_numbers(exp, ["Searched blocks", "Searched cells"])
    assert document["notes"][2].startswith("**Equal epochs**: Searched blocks ")
    check_genotypes(exp)
    check_second_run(exp, espnet_jobs, options)


def check_genotypes(exp: Path) -> None:
    """ESPnet's saved configs hold the searched genotypes."""
    for system, folder, parts in (
        ("searched", "blocks", ("front", "stages")),
        ("cells", "search", ("normal", "reduction")),
    ):
        found = yaml.safe_load((exp / folder / "genotype.yaml").read_text(encoding="utf-8"))
        config = exp / "models" / "epochs" / system / "config.yaml"
        saved = yaml.safe_load(config.read_text(encoding="utf-8"))
        assert saved["encoder"] == "nas_encoder"
        for part in parts:
            assert saved["encoder_conf"]["genotype"][part] == found[part]


def check_second_run(exp: Path, jobs: Path, options: list[str]) -> None:
    """A second run does nothing, and what is lost is made again."""
    check_done(RECIPE, jobs, options)
    shutil.rmtree(exp / "results")
    # Where the trainings at equal epochs took the same time, they stand in both tables.
    for system in ("searched", "cells"):
        (exp / "conf" / "time" / f"{system}.same").touch()
    third = run_recipe(RECIPE, jobs, *options, "--stage", "9")
    assert third.returncode == 0, third.stderr
    assert re.findall(r"^(?:local)?rule (.*):$", third.stderr, re.M) == ["results", "all"]
    document = json.loads((exp / "results" / "results.json").read_text(encoding="utf-8"))
    epochs, time = document["comparisons"]
    assert time["systems"] == epochs["systems"]


def test_help_and_bad_options(espnet_jobs: Path, tmp_path: Path) -> None:
    shown = run_recipe(RECIPE, espnet_jobs, "--help")
    assert shown.returncode == 0
    for word in ("--stage", "--stop_stage", "--expdir", "--seed", "--nj", "corpus", "decoding"):
        assert word in shown.stdout
    for options, message in (
        (["--nonsense", "1"], "unrecognized arguments: --nonsense"),
        (["--seed"], "--seed: expected one argument"),
        (["--epochs", "many"], "--epochs: must be a whole number, got 'many'"),
        (["5"], "unrecognized arguments: 5"),
        (["--systems", "random"], "--systems: must match"),
        (["--systems", "searched zipformer"], "got 'searched zipformer'"),
    ):
        refused = run_recipe(RECIPE, espnet_jobs, *options)
        assert refused.returncode == 2
        assert message in refused.stderr
    options = ["--stage", "6", "--expdir", str(tmp_path / "exp")]
    early = run_recipe(RECIPE, espnet_jobs, *options)
    assert early.returncode == 1
    assert "which was not done; begin at an earlier --stage" in early.stderr
