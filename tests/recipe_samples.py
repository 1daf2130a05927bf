"""Rows of tables and small trainings of the recipes that compare encoders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError
from recipes.blocks.local import train
from recipes.blocks.local.encoders import Encoder, write_spec
from recipes.blocks.local.rows import Row
from tools.results.scoring import Score


def row(name: str, role: str, errors: list[int], ms: float = 10.0, seeds: int = 1) -> Row:
    """Return an encoder whose every seed makes these errors, of 10 characters an utterance."""
    names = tuple(f"u{place}" for place in range(len(errors)))
    score = Score(names, tuple(errors), (10,) * len(errors), sum(errors), 0, 0)
    result: dict[str, Any] = {"title": name, "role": role, "seconds": 1.0, "epochs": 1.0}
    result["encoder_parameters"] = 200_000
    return Row(name, name, role, "0.002", [result] * seeds, [score] * seeds, ms)


def tiny_training(
    folder: Path, encoder: Encoder, train_data: Path, valid_data: Path, limit: train.Limit
) -> train.Training:
    """Return a training on 8 features, with a checkpoint after each step."""
    write_spec(folder / "spec.yaml", encoder, None, {})
    spec = read_yaml(folder / "spec.yaml", ConfigError)
    config = train.TrainConfig.from_dict(
        {"checkpoint_seconds": 0, "data": {"features": {"num_mel_bins": 8}}}
    )
    paths = {"train": str(train_data), "valid": str(valid_data)}
    return train.Training(config, spec, paths, 0.01, 3, limit)
