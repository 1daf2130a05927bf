"""Baseline encoders that neither ESPnet nor NeMo has.

Each has one file and one line in :mod:`nas_encoder.tables`, from which both toolkits' classes are
made. A baseline is a :class:`~nas_encoder.network.tapped.TappedEncoder` built from its ``Config``,
a :class:`~nas_encoder.common.fields.Declared` dataclass that includes the options ``input_size``,
``output_size`` and ``taps``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_encoder.baselines.dfsmn_san import DFSMN_SAN_CONFIGS, DFSMNSAN, DFSMNSANConfig
from nas_encoder.network.tapped import TappedEncoder
from nas_encoder.registry import Registry
from nas_encoder.tables import BASELINES as _TABLE

BASELINES: Registry[type[TappedEncoder]] = _TABLE


def build_baseline(
    name: str, options: Mapping[str, Any], words: Mapping[str, str] | None = None
) -> TappedEncoder:
    """Build a baseline from plain options.

    Args:
        name: Name in the table.
        options: Options of its ``Config``.
        words: The user's names of options, where they differ.

    Raises:
        RegistryError: No baseline has that name.
        ConfigError: An option is unknown or has a bad value; all of them are named.
    """
    encoder: Any = BASELINES[name]
    network: TappedEncoder = encoder(encoder.Config.from_dict(options, name, words))
    return network


__all__ = [
    "BASELINES",
    "DFSMNSAN",
    "DFSMN_SAN_CONFIGS",
    "DFSMNSANConfig",
    "build_baseline",
]
