"""A small search of block encoders with a supernet."""

from __future__ import annotations

from typing import Any

from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.spaces import get_space

SPACE = get_space("blocks")
CHOICES: dict[str, Any] = {
    "front end": "depthwise 16 channels, 4x",
    "schedule": "1 2 1",
    "stream": "False none",
    "width": [32, 48],
    "depth": [1, 2],
    "first feed-forward": "none",
    "mixing": ["memory -5+5", "convolution 7"],
    "second mixing": "none",
    "last feed-forward": ["none", "feed-forward 2"],
}
QUICK: dict[str, Any] = {
    "name": "quick",
    "strategy": "evolution",
    "space": "blocks",
    "features": {"num_mel_bins": 16},
    "training": {"epochs": 2, "lr": 0.003},
    "batch": {"max_utterances": 3},
    "trainer": {"accelerator": "cpu", "checkpoint_minutes": 0},
    "trials": {"count": 4},
    "evolution": {"population": 2, "sample": 2},
    "supernet": {"drawn": 1, "recalibration": 2},
    "choices": CHOICES,
}


def config(**changes: Any) -> TrialsConfig:
    return TrialsConfig.from_dict({**QUICK, **changes})


def names(config: TrialsConfig) -> dict[str, tuple[str, ...]]:
    return dict(config.choices)
