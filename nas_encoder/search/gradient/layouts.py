"""What a gradient search has to know about a family of spaces: its supernets and derivation.

Everything else in this folder takes kinds of cells and edges as they come.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from typing import Any, Protocol

from torch import nn

from nas_encoder.errors import NasEncoderError
from nas_encoder.network.choices.parameters import (
    BLOCKS,
    KINDS,
    NO_EDGES,
    NODES,
    SKIPS,
    Alive,
    EdgeProbabilities,
    Probabilities,
)
from nas_encoder.search.gradient.derive import derive_cell, derive_chain, derive_nodes, prune
from nas_encoder.spaces import SearchSpace
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.space import CellSpace
from nas_encoder.spaces.cells.supernet.mixed import Supernet
from nas_encoder.spaces.cells.supernet.sampled import SampledSupernet
from nas_encoder.spaces.nasbench_asr.architecture import ZERO, SkipArchitecture
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig
from nas_encoder.spaces.nasbench_asr.space import NasBenchSpace
from nas_encoder.spaces.nasbench_asr.supernet import SkipSupernet
from nas_encoder.spaces.tdnn_chain.config import ChainConfig
from nas_encoder.spaces.tdnn_chain.space import ChainSpace
from nas_encoder.spaces.tdnn_chain.supernet import ChainSupernet

Limits = Mapping[str, int]
Config = EncoderConfig | ChainConfig | NasBenchConfig


class Layout(Protocol):
    """A family of spaces."""

    def mixed(
        self, alive: Alive, config: Config, vocabulary: int, regularized: Container[str]
    ) -> nn.Module:
        """Build a supernet whose ``weights`` are those of mixtures."""

    def sampled(
        self, alive: Alive, config: Config, vocabulary: int, regularized: Container[str]
    ) -> nn.Module:
        """Build a supernet whose ``weights`` are paths that are drawn."""

    def prune(self, probabilities: Probabilities, keep: int, limits: Limits) -> Alive:
        """Keep the most probable operations of each edge."""

    def derive(
        self, probabilities: Probabilities, limits: Limits, edges: EdgeProbabilities = NO_EDGES
    ) -> Any:
        """Return the architecture that the probabilities stand for."""


class CellLayout:
    """The 2-D cell spaces."""

    def __init__(self, space: CellSpace) -> None:
        self.nodes = space.nodes

    def mixed(
        self, alive: Alive, config: Config, vocabulary: int, regularized: Container[str]
    ) -> nn.Module:
        """Build a supernet whose ``weights`` are those of mixtures."""
        assert isinstance(config, EncoderConfig)
        return Supernet(alive, config, self.nodes, vocabulary, regularized)

    def sampled(
        self, alive: Alive, config: Config, vocabulary: int, regularized: Container[str]
    ) -> nn.Module:
        """Build a supernet whose ``weights`` are paths that are drawn."""
        assert isinstance(config, EncoderConfig)
        return SampledSupernet(alive, config, self.nodes, vocabulary, regularized)

    def prune(self, probabilities: Probabilities, keep: int, limits: Limits) -> Alive:
        """Keep the most probable operations of each edge; the limits hold for the normal cell."""
        return {
            kind: prune(probabilities[kind], keep, limits if kind == "normal" else ())
            for kind in KINDS
        }

    def derive(
        self, probabilities: Probabilities, limits: Limits, edges: EdgeProbabilities = NO_EDGES
    ) -> CellArchitecture:
        """Derive both cells; the limits hold for the normal cell."""
        return CellArchitecture(
            derive_cell(probabilities["normal"], self.nodes, limits, edges.get("normal")),
            derive_cell(probabilities["reduction"], self.nodes, edges=edges.get("reduction")),
        )


class ChainLayout:
    """The chain spaces; limits and regularized operations are the cells' alone."""

    def mixed(
        self, alive: Alive, config: Config, vocabulary: int, regularized: Container[str]
    ) -> nn.Module:
        """Build a supernet whose ``weights`` are those of mixtures."""
        assert isinstance(config, ChainConfig)
        return ChainSupernet(alive, config, vocabulary)

    def sampled(
        self, alive: Alive, config: Config, vocabulary: int, regularized: Container[str]
    ) -> nn.Module:
        """Build a supernet whose ``weights`` are paths that are drawn: the same one."""
        return self.mixed(alive, config, vocabulary, regularized)

    def prune(self, probabilities: Probabilities, keep: int, limits: Limits) -> Alive:
        """Keep the most probable operations of each block."""
        return {BLOCKS: prune(probabilities[BLOCKS], keep)}

    def derive(
        self, probabilities: Probabilities, limits: Limits, edges: EdgeProbabilities = NO_EDGES
    ) -> Any:
        """Derive the chain of each block's most probable operation."""
        return derive_chain(probabilities[BLOCKS])


class SkipLayout:
    """NAS-Bench-ASR's space; limits and regularized operations are the other cells' alone."""

    def mixed(
        self, alive: Alive, config: Config, vocabulary: int, regularized: Container[str]
    ) -> nn.Module:
        """Build a supernet whose ``weights`` are those of mixtures."""
        assert isinstance(config, NasBenchConfig)
        return SkipSupernet(alive, config, vocabulary)

    def sampled(
        self, alive: Alive, config: Config, vocabulary: int, regularized: Container[str]
    ) -> nn.Module:
        """Build a supernet whose ``weights`` are paths that are drawn: the same one."""
        return self.mixed(alive, config, vocabulary, regularized)

    def prune(self, probabilities: Probabilities, keep: int, limits: Limits) -> Alive:
        """Keep the most probable operations of each node; skips stay open to the end."""
        return {
            NODES: prune(probabilities[NODES], keep, (ZERO,)),
            SKIPS: tuple(tuple(skip) for skip in probabilities[SKIPS]),
        }

    def derive(
        self, probabilities: Probabilities, limits: Limits, edges: EdgeProbabilities = NO_EDGES
    ) -> SkipArchitecture:
        """Derive the cell of the most probable operations and skips."""
        return derive_nodes(probabilities[NODES], probabilities[SKIPS])


def layout_of(space: SearchSpace) -> Layout:
    """Return the layout of a space.

    Raises:
        NasEncoderError: It cannot be searched with gradients.
    """
    if isinstance(space, CellSpace):
        return CellLayout(space)
    if isinstance(space, ChainSpace):
        return ChainLayout()
    if isinstance(space, NasBenchSpace):
        return SkipLayout()
    raise NasEncoderError(f"the space '{space.name}' cannot be searched with gradients")
