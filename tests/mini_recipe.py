"""Runs a recipe as its user does, and checks what all demos leave behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools.experiments.equal_time import SAME

RECIPES = Path(__file__).resolve().parents[1] / "recipes"


def run_recipe(
    recipe: str, jobs: Path, *options: str, timeout: float = 1200
) -> subprocess.CompletedProcess[str]:
    """Run ``recipes/RECIPE/run.sh``.

    Args:
        recipe: The folder.
        jobs: That of `python` and `nas-encoder` for its jobs (:mod:`python_server`).
        *options: Words.
        timeout: Seconds.
    """
    path = [str(jobs), str(Path(sys.executable).parent), os.environ["PATH"]]
    return subprocess.run(
        ["bash", str(RECIPES / recipe / "run.sh"), *options],
        env={**os.environ, "PATH": os.pathsep.join(path), "VIRTUAL_ENV": sys.prefix},
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


def run_whole(recipe: str, jobs: Path, folder: Path, *options: str) -> tuple[list[str], str]:
    """Run all stages of a recipe in a folder; return its options and what it printed.

    It must end with the page of results.
    """
    words = ["--tiny", "true", "--nj", "1", *options]
    for name in ("expdir", "datadir", "downloads"):
        words += [f"--{name}", str(folder / name)]
    done = run_recipe(recipe, jobs, *words)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    page = folder / "expdir" / "results" / "RESULTS.md"
    assert page.read_text(encoding="utf-8") in done.stdout
    return words, done.stdout


def check_done(recipe: str, jobs: Path, options: Sequence[str]) -> None:
    """The same command again has nothing to do."""
    again = run_recipe(recipe, jobs, *options)
    assert again.returncode == 0 and "Nothing to be done" in again.stderr, again.stderr


def check_documents(exp: Path, printed: str) -> None:
    """The recipe ends with the tables."""
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


def check_numbers(exp: Path, names: Sequence[str]) -> dict[str, Any]:
    """What the document holds is what was trained, one epoch of eight utterances' test.

    Args:
        exp: The experiments.
        names: The encoders, the searched one first.

    Returns:
        The document.
    """
    text = (exp / "results" / "results.json").read_text(encoding="utf-8")
    document: dict[str, Any] = json.loads(text)
    epochs, time = document["comparisons"]
    assert [system["name"] for system in epochs["systems"]] == list(names)
    for system in epochs["systems"] + time["systems"]:
        assert 0 < system["cer"]["low"] <= system["cer"]["estimate"] <= system["cer"]["high"]
        assert system["cer_errors"]["utterances"] == 8
        assert system["rtf"] > 0 and system["macs_10s"] > 1e6
        assert system["peak_memory_mib"] > 100
        assert system["training_seconds"] > 0  # the training's lines could be read
    sizes = [system["encoder_parameters"] for system in epochs["systems"]]
    assert max(sizes) / min(sizes) <= 1.05
    assert all(system["epochs"] == 1 for system in epochs["systems"])
    # The budget is what the slowest took.
    budget = max(system["training_seconds"] for system in epochs["systems"])
    for before, after in zip(epochs["systems"], time["systems"], strict=True):
        if before["training_seconds"] >= (1 - SAME) * budget:
            assert after == before
        else:
            assert after["epochs"] > before["epochs"]
            assert after["training_seconds"] > before["training_seconds"]
    assert document["facts"]["seed"] == 1
    assert document["facts"]["corpus"].startswith("synthetic")
    assert "--tiny true" in document["facts"]["command"]
    return document
