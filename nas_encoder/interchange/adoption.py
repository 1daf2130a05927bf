"""Reads the toolkits' own encoders as networks of ours."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from nas_encoder.interchange.model import Encoder
from nas_encoder.tables import ADOPTED, NAS


def adoptable(toolkit: str) -> dict[str, str]:
    """Return the names of a toolkit's encoders that can be read, each with its key in the table."""
    return {name.partition(".")[2]: name for name in ADOPTED if name.startswith(f"{toolkit}.")}


def adopt(
    toolkit: str,
    name: str,
    options: Mapping[str, Any],
    input_size: Any,
    state: Mapping[str, Tensor],
    subject: str,
) -> tuple[Encoder, list[str]]:
    """Return a toolkit's encoder as one of ours, and what differs in training.

    Args:
        toolkit: ``espnet`` or ``nemo``.
        name: One of :func:`adoptable`.
        options: Its options in the toolkit's configuration.
        input_size: F, features of a frame.
        state: Its tensors, under their names in the encoder.
        subject: What is read, for errors.

    Raises:
        ConfigError: No space has such an encoder; all options to blame are listed.
        CheckpointError: The weights do not fit the options.
    """
    found = ADOPTED[adoptable(toolkit)[name]](options, subject)
    weights = {f"network.{own}": tensor for own, tensor in found.weights(state).items()}
    own = {"genotype": found.genotype.to_dict(), **found.options, "input_size": input_size}
    return Encoder(NAS, own, weights, adopted=name), list(found.notes)
