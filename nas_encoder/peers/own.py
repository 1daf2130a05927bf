"""Encoders of this package: that of a genotype, and the baselines."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nas_encoder.baselines import build_baseline
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.network import build_encoder


def genotype(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build the network of a genotype.

    Args:
        options: ``genotype``, a zoo name, a path or the mapping itself, and those of
            :func:`~nas_encoder.network.build_encoder`.
        input_size: F.

    Raises:
        ConfigError: An option is missing, unknown or wrong.
        GenotypeError: The genotype cannot be loaded.
    """
    rest = dict(options)
    found = rest.pop("genotype", None)
    if found is None:
        raise ConfigError("genotype", ["genotype: is missing"])
    if not isinstance(found, Mapping):
        return build_encoder(load_genotype(found), **{**rest, "input_size": input_size})
    return build_encoder(Genotype.from_dict(found), **{**rest, "input_size": input_size})


def dfsmn_san(options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build :class:`~nas_encoder.baselines.DFSMNSAN`, of the options of its ``Config``."""
    return build_baseline("dfsmn_san", {**options, "input_size": input_size})
