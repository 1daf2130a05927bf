"""What a toolkit's configuration says about the frames that its encoder sees."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_RATES = {"k": 1000.0, "": 1.0}
_FEATURES = 64  # NeMo's default


def section(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """Return a section of a configuration; an empty one if it is missing or null."""
    found = config.get(name)
    return found if isinstance(found, Mapping) else {}


def sample_rate(toolkit: str, config: Mapping[str, Any]) -> float:
    """Return the samples per second of the speech; ESPnet writes 16000 or 16k."""
    conf = section(config, "frontend_conf" if toolkit == "espnet" else "preprocessor")
    text = str(conf.get("fs", conf.get("sample_rate", 16000))).lower().removesuffix("hz").strip()
    unit = text[-1:] if text.endswith("k") else ""
    return float(text.removesuffix("k")) * _RATES[unit]


def frame_shift(toolkit: str, config: Mapping[str, Any]) -> float:
    """Return the seconds between two frames of features."""
    if toolkit == "nemo":
        return float(section(config, "preprocessor").get("window_stride", 0.01))
    conf = section(config, "frontend_conf")
    if "window_stride" in conf:  # NeMo's features
        return float(conf["window_stride"])
    return float(conf.get("hop_length", 128)) / sample_rate(toolkit, config)


def nemo_features(config: Mapping[str, Any]) -> int:
    """Return the number of features of a frame that a NeMo model's preprocessor makes."""
    own = section(config, "encoder").get("feat_in")
    return int(own or section(config, "preprocessor").get("features", _FEATURES))
