"""A run folder of a gradient search, for tests of what is kept in one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.sealed import SEALS
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.records import EpochRecord

CONFIG = SearchConfig()
RUN: dict[str, Any] = {"seed": 1, "train": "a", "valid": None, "machine": "m", "commit": "c"}
STATE: dict[str, Any] = {
    "position": {"stage": 0, "epoch": 1},
    "network": {"weight": torch.arange(2000.0)},
    "random": {"cpu": torch.get_rng_state()},
}
EPOCH = EpochRecord(
    stage=1,
    epoch=1,
    steps=3,
    train_loss=2.0,
    architecture_loss=None,
    valid_loss=2.5,
    valid_ter=80.0,
    dropout=0.0,
    entropy={"blocks": 0.6},
    uniform_entropy={"blocks": 0.7},
    seconds=1.5,
    probabilities={"blocks": [{"a": 0.6, "b": 0.4}]},
    genotype="0123456789abcdef",
)


def begun_folder(path: Path, sealed: bool = True) -> RunFolder:
    """A folder in which a run has reached its first checkpoint.

    Without checksums it is one that an earlier version wrote.
    """
    folder = RunFolder(path)
    folder.begin(CONFIG, RUN, resume=False)
    folder.save_checkpoint(STATE)
    if not sealed:
        (path / SEALS).unlink()
    return folder
