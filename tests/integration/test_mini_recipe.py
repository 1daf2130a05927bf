"""The demo's recipe, run whole on a few utterances with the real ESPnet.

The numbers mean nothing at this size; what is tested is that every stage runs, that the models
which are compared have equal size, that a second run does nothing, and that the documents hold
what the trainings left behind.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

pytestmark = [pytest.mark.espnet, pytest.mark.slow]

RECIPE = Path(__file__).resolve().parents[2] / "recipes" / "mini" / "espnet"


def recipe(*options: str, timeout: float = 60) -> subprocess.CompletedProcess[str]:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "VIRTUAL_ENV": sys.prefix,
    }
    return subprocess.run(
        ["bash", str(RECIPE / "run.sh"), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# One test, so that workers do not share the trainings' work out among them and do it twice.
def test_the_whole_recipe(tmp_path: Path) -> None:
    options = ["--tiny", "true", "--systems", "searched dfsmn_san", "--nj", "1"]
    for name in ("expdir", "datadir", "downloads"):
        options += [f"--{name}", str(tmp_path / name)]
    exp = tmp_path / "expdir"
    done = recipe(*options, timeout=1200)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    check_documents(exp, done.stdout)
    check_numbers(json.loads((exp / "results" / "results.json").read_text(encoding="utf-8")))
    check_genotype(exp)
    check_second_run(exp, options, done.stdout)


def check_documents(exp: Path, printed: str) -> None:
    """It ends with the tables."""
    results = exp / "results"
    assert (results / "RESULTS.md").read_text(encoding="utf-8") in printed
    assert {path.name for path in results.iterdir()} == {
        "RESULTS.md",
        "results.json",
        "results.png",
        "results.svg",
    }
    assert "## Equal epochs (synthetic corpus)" in printed
    assert "## Equal training time (synthetic corpus)" in printed


def check_numbers(document: dict[str, Any]) -> None:
    """What the document holds is what was trained."""
    epochs, time = document["comparisons"]
    assert [system["name"] for system in epochs["systems"]] == ["Searched", "DFSMN-SAN"]
    for system in epochs["systems"] + time["systems"]:
        assert 0 < system["cer"]["low"] <= system["cer"]["estimate"] <= system["cer"]["high"]
        assert system["cer_errors"]["utterances"] == 8
        assert system["rtf"] > 0 and system["macs_10s"] > 1e6
        assert system["peak_memory_mib"] > 100
    sizes = [system["encoder_parameters"] for system in epochs["systems"]]
    assert max(sizes) / min(sizes) <= 1.05
    assert all(system["epochs"] == 1 for system in epochs["systems"])
    searched, other = epochs["systems"]
    # The budget is what the searched encoder took; DFSMN-SAN is many times cheaper.
    assert time["systems"][0] == searched
    assert time["systems"][1]["epochs"] > other["epochs"]
    assert time["systems"][1]["training_seconds"] > other["training_seconds"]
    assert document["facts"]["seed"] == 1
    assert document["facts"]["corpus"].startswith("synthetic")
    assert "--tiny true" in document["facts"]["command"]


def check_genotype(exp: Path) -> None:
    """ESPnet's saved config holds the searched genotype."""
    found = yaml.safe_load((exp / "search" / "genotype.yaml").read_text(encoding="utf-8"))
    config = exp / "models" / "epochs" / "searched" / "config.yaml"
    saved = yaml.safe_load(config.read_text(encoding="utf-8"))
    assert saved["encoder"] == "nas"
    assert saved["encoder_conf"]["genotype"]["normal"] == found["normal"]
    assert saved["encoder_conf"]["genotype"]["reduction"] == found["reduction"]


def check_second_run(exp: Path, options: list[str], printed: str) -> None:
    """A second run does nothing, and what is lost is made again."""
    again = recipe(*options)
    assert again.returncode == 0, again.stderr
    assert ": started" not in again.stdout
    assert again.stdout.count(": done before") == printed.count(": started")
    shutil.rmtree(exp / "results")
    third = recipe(*options)
    assert third.returncode == 0, third.stderr
    started = [line.split()[1] for line in third.stdout.splitlines() if ": started" in line]
    assert started == ["results:"]
    assert (exp / "results" / "RESULTS.md").exists()


def test_help_and_bad_options(tmp_path: Path) -> None:
    shown = recipe("--help")
    assert shown.returncode == 0
    for word in ("--stage", "--stop_stage", "--expdir", "--seed", "--nj", "corpus", "decoding"):
        assert word in shown.stdout
    for options, message in (
        (["--nonsense", "1"], "unknown option --nonsense"),
        (["--seed"], "--seed needs a value"),
        (["--epochs", "many"], "--epochs: must be a whole number, got 'many'"),
        (["5"], "unexpected argument '5'"),
        (["--systems", "random"], "--systems: must be searched and then at least one other"),
        (["--systems", "searched conformer"], "got 'conformer'"),
    ):
        refused = recipe(*options)
        assert refused.returncode == 2
        assert message in refused.stderr
    early = recipe("--stage", "6", "--expdir", str(tmp_path / "exp"))
    assert early.returncode == 1
    assert "which was not done; begin at an earlier --stage" in early.stderr
