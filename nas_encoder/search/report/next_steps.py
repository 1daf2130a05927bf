"""What to run after a search, as commands to copy."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Step = tuple[str, str]  # purpose, command


def search_command(path: Path, run: Mapping[str, Any], output: object, *options: str) -> str:
    """Return the command that repeats a run folder's search into another folder."""
    words = ["nas-encoder", "search", "--config", f"{path}/config.yaml"]
    for name in ("train", "valid"):
        if run.get(name) is not None:
            words += [f"--{name}", str(run[name])]
    return shlex.join([*words, "--output", str(output), *options])


def resume_command(path: Path, run: Mapping[str, Any], *options: str) -> str:
    """Return the command that resumes the search in a run folder."""
    seed = ["--seed", str(run["seed"])] if "seed" in run else []
    return search_command(path, run, path, *seed, "--resume", *options)


def show_step(path: Path) -> Step:
    """Return the step that shows the result of a search."""
    return (
        "Look at the genotype and at what the network costs:",
        f"nas-encoder show {shlex.quote(str(path))}/genotype.yaml --plot cells.svg",
    )


def train_step(path: Path, options: Mapping[str, Any]) -> Step:
    """Return the step that trains the result of a search, with these options of its network."""
    lines = "".join(f"\n    {name}: {json.dumps(value)}" for name, value in options.items())
    return (
        "Train it: in the training config of an ESPnet2 recipe,",
        f"encoder: nas\nencoder_conf:\n    genotype: {path}/genotype.yaml{lines}",
    )


def inherit_step(path: Path) -> Step:
    """Return the step that begins this training with weights of a supernet."""
    return (
        "or begin with the supernet's weights (the same features and their normalization):",
        f"--asr_args '--init_param {path}/inherited.pt:encoder:encoder.network'",
    )
