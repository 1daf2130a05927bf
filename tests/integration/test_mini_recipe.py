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
from mini_recipe import check_documents, check_numbers, run_recipe

pytestmark = [pytest.mark.espnet, pytest.mark.slow]


# One test, so that workers do not share the trainings' work out among them and do it twice.
def test_the_whole_recipe(tmp_path: Path) -> None:
    options = ["--tiny", "true", "--systems", "searched cells", "--nj", "1"]
    for name in ("expdir", "datadir", "downloads"):
        options += [f"--{name}", str(tmp_path / name)]
    exp = tmp_path / "expdir"
    done = run_recipe("espnet", *options, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_documents(exp, done.stdout)
    document = check_numbers(exp, ["Searched blocks", "Searched cells"])
    assert document["notes"][2].startswith("**Equal epochs**: Searched blocks ")
    check_genotypes(exp)
    check_second_run(exp, options)


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


def check_second_run(exp: Path, options: list[str]) -> None:
    """A second run does nothing, and what is lost is made again."""
    again = run_recipe("espnet", *options)
    assert again.returncode == 0, again.stderr
    assert "Nothing to be done" in again.stderr
    shutil.rmtree(exp / "results")
    # Where the trainings at equal epochs took the same time, they stand in both tables.
    for system in ("searched", "cells"):
        (exp / "conf" / "time" / f"{system}.same").touch()
    third = run_recipe("espnet", *options, "--stage", "9")
    assert third.returncode == 0, third.stderr
    assert re.findall(r"^(?:local)?rule (.*):$", third.stderr, re.M) == ["results", "all"]
    document = json.loads((exp / "results" / "results.json").read_text(encoding="utf-8"))
    epochs, time = document["comparisons"]
    assert time["systems"] == epochs["systems"]


def test_help_and_bad_options(tmp_path: Path) -> None:
    shown = run_recipe("espnet", "--help")
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
        refused = run_recipe("espnet", *options)
        assert refused.returncode == 2
        assert message in refused.stderr
    early = run_recipe("espnet", "--stage", "6", "--expdir", str(tmp_path / "exp"))
    assert early.returncode == 1
    assert "which was not done; begin at an earlier --stage" in early.stderr
