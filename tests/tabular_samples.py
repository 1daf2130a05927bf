"""A table that is built in seconds, for the tests of building and of its parts."""

from __future__ import annotations

from typing import Any

from nas_encoder.tabular import Table
from nas_encoder.tabular.config import TableConfig

QUICK: dict[str, Any] = {
    "name": "quick",
    "architectures": {"count": 3, "seed": 2},
    "network": {"channels": 6, "output_size": 12, "block_cells": [0, 0, 0, 1], "dropout": 0.1},
    "features": {"num_mel_bins": 12},
    "tokens": "char",
    "beam": 2,
    "recipe": {
        "epochs": [1, 2],
        "seeds": [3, 4],
        "batch": 4,
        "lr": 0.01,
        "warm_up": [1.0, 0.1],
        "l2": 0.0001,
    },
    "latency": {"frames": 40, "repeats": 2},
    "device": "cpu",
}


def config(**changes: Any) -> TableConfig:
    return TableConfig.from_dict({**QUICK, **changes})


def numbers(table: Table) -> dict[Any, Any]:
    """Return what must not depend on when, where and in how many parts a table was built."""
    return {
        (group, key): (training.val, training.test)
        for group, rows in table.trainings.items()
        for key, training in rows.items()
    }
