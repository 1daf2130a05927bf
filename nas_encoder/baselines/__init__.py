"""Encoders to compare against that neither ESPnet nor NeMo has.

One file each and a line in :mod:`nas_encoder.tables`; both toolkits' classes are made from that
line. A baseline is a :class:`~nas_encoder.network.tapped.TappedEncoder` that is built from its
``Config``, a dataclass with a default for every option, among them ``input_size``,
``output_size`` and ``taps``. ``Config.from_mapping(options)`` checks plain values and raises a
ConfigError that names all problems.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nas_encoder.baselines.dfsmn_san import DFSMNSAN
from nas_encoder.baselines.dfsmn_san_config import DFSMN_SAN_CONFIGS, DFSMNSANConfig
from nas_encoder.network.tapped import TappedEncoder
from nas_encoder.registry import Registry
from nas_encoder.tables import BASELINES as _TABLE

BASELINES: Registry[type[TappedEncoder]] = _TABLE


def build_baseline(name: str, options: Mapping[str, Any]) -> TappedEncoder:
    """Build a baseline from plain options.

    Raises:
        RegistryError: There is none of that name.
        ConfigError: An option is unknown or has a bad value; all of them are named.
    """
    encoder: Any = BASELINES[name]
    network: TappedEncoder = encoder(encoder.Config.from_mapping(options))
    return network


__all__ = [
    "BASELINES",
    "DFSMNSAN",
    "DFSMN_SAN_CONFIGS",
    "DFSMNSANConfig",
    "build_baseline",
]
