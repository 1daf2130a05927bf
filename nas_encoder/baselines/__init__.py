"""Baseline encoders that neither ESPnet nor NeMo has.

Each has one file and one line in :mod:`nas_encoder.tables`, from which both toolkits' classes are
made. A baseline is a :class:`~nas_encoder.network.tapped.TappedEncoder` built from its ``Config``,
a :class:`~nas_encoder.common.fields.Declared` dataclass that includes the options ``input_size``,
``output_size`` and ``taps``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from nas_encoder.baselines.dfsmn_san import DFSMN_SAN_CONFIGS, DFSMNSAN, DFSMNSANConfig
from nas_encoder.errors import ProblemsError
from nas_encoder.network.factory import try_build_encoder
from nas_encoder.network.tapped import TappedEncoder
from nas_encoder.registry import Registry
from nas_encoder.spaces.options import defaults_of, known_options
from nas_encoder.tables import BASELINES as _TABLE
from nas_encoder.tables import NAS

if TYPE_CHECKING:
    from torch import nn

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


def try_build(
    kind: str, options: Mapping[str, Any], words: Mapping[str, str]
) -> tuple[nn.Module | None, list[str]]:
    """Build an encoder of a toolkit, or return all problems of its options.

    Args:
        kind: ``nas`` or a baseline.
        options: Its options; the ``genotype`` is one of them.
        words: The user's names of options, where they differ.
    """
    if kind == NAS:
        return try_build_encoder(options, words)
    try:
        return build_baseline(kind, options, words), []
    except ProblemsError as error:
        return None, list(error.problems)


def options_of(kind: str) -> dict[str, Any]:
    """Return the options of ``nas`` (of all spaces) or of a baseline, with their defaults."""
    table: Mapping[str, Any] = BASELINES
    return known_options() if kind == NAS else defaults_of(table[kind].Config)


__all__ = [
    "BASELINES",
    "DFSMNSAN",
    "DFSMN_SAN_CONFIGS",
    "DFSMNSANConfig",
    "build_baseline",
    "options_of",
    "try_build",
]
