"""Encoders to compare against that neither ESPnet nor NeMo has: one file and one line each.

Every class takes a config object (its ``Config``), and its modules have the interface of the
NAS encoder: ``forward(x, lengths)``, ``forward_taps(x, lengths, condition)``, ``output_size``,
``subsampling_factor``, ``min_length``.
"""

from __future__ import annotations

from nas_encoder.baselines.dfsmn_san import DFSMNSAN
from nas_encoder.baselines.dfsmn_san_config import DFSMN_SAN_CONFIGS, DFSMNSANConfig
from nas_encoder.registry import Registry

BASELINES: Registry[type[DFSMNSAN]] = Registry("baseline encoder")
BASELINES.add("dfsmn_san", DFSMNSAN)

__all__ = ["BASELINES", "DFSMNSAN", "DFSMNSANConfig", "DFSMN_SAN_CONFIGS"]
