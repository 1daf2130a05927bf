"""A toolkit's own encoder, read as a network of a space (the table ``ADOPTED``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_encoder.genotype import Genotype


@dataclass(frozen=True)
class Adopted:
    """What an encoder of a toolkit is in a space.

    Attributes:
        genotype: Its architecture.
        options: Options of the space's network, but for ``input_size``, with which it has the same
            outputs.
        notes: What differs, in training only.
        weights: Renames a checkpoint's tensors of the encoder to those of the network, the names
            of both without the encoder's prefix. It raises CheckpointError if any is missing,
            left over or of another shape.
    """

    genotype: Genotype
    options: Mapping[str, Any]
    notes: Sequence[str]
    weights: Callable[[Mapping[str, Any]], dict[str, Any]]
