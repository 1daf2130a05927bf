"""Encoders of other people, and ours, behind one interface: for one trainer and for benchmarks.

Each has a line in :data:`nas_encoder.tables.PEERS`: the address of a function
``(options, input_size) -> nn.Module``. Its modules have ``forward(x (B, T, F), lengths (B,)) ->
(y (B, T', D), lengths (B,))``, ``output_size`` (D), ``subsampling_factor`` (about T / T') and
``min_length``, the fewest frames that an utterance may have. Toolkits are imported when one of
their encoders is built.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from nas_encoder.errors import ConfigError
from nas_encoder.tables import PEERS


def build_peer(name: str, options: Mapping[str, Any], input_size: int) -> nn.Module:
    """Build an encoder.

    Args:
        name: Name in the table.
        options: Its options under its authors' names; sizes must be given.
        input_size: F, features of a frame.

    Raises:
        RegistryError: There is no such encoder.
        ConfigError: An option is unknown, missing or wrong.
        MissingDependencyError: The package that has the encoder is not installed.
    """
    if not 1 <= input_size <= 4096:
        raise ConfigError(name, [f"input_size: must be in 1..4096, got {input_size}"])
    network: nn.Module = PEERS[name](options, input_size)
    return network
