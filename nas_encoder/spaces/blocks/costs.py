"""Exact costs of block encoders, counted on networks without memory."""

from __future__ import annotations

from functools import partial

import torch

from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import cost_of
from nas_encoder.network.tapped import Taps
from nas_encoder.spaces.blocks.architecture import BlockArchitecture
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.network import BlockEncoder


class BlockCosts:
    """The costs of encoders for an utterance of T ``frames``."""

    quantities = ("parameters", "macs")

    def __init__(self, config: BlocksConfig, frames: int) -> None:
        self.config, self.frames = config, frames

    def of(self, architecture: BlockArchitecture) -> dict[str, float]:
        """Return the costs of an architecture's network, by quantity."""
        with torch.device("meta"):
            genotype = Genotype("any", "blocks", architecture)
            network = BlockEncoder(genotype, self.config).eval()
            x = torch.empty(1, self.frames, self.config.input_size)
            return cost_of(network, partial(network.encode, x, None, Taps()))


def build(space: object, options: BlocksConfig, frames: int) -> BlockCosts:
    """Return the costs of networks of these options."""
    return BlockCosts(options, frames)
