"""Interfaces of the modules of a space's folder that import torch; see :mod:`.base`.

B batch, T frames, F frequency bins, D output features, S subsampling factor, E choices of a kind, n
candidates of a choice.
"""

from __future__ import annotations

import random
from collections.abc import Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from nas_encoder.common.choices import Candidates
from nas_encoder.genotype import Genotype

if TYPE_CHECKING:
    from torch import Tensor, nn

    from nas_encoder.common.receptive_field import ReceptiveField
    from nas_encoder.spaces.picture import Graph


class NetworkModule(Protocol):
    """``network.py`` of a space."""

    def build(self, genotype: Genotype, options: Any) -> nn.Module:
        """Build the :class:`~nas_encoder.network.tapped.TappedEncoder` of a genotype.

        ``options`` are checked, and of the space's type ``options``.
        """

    def receptive_field(self, architecture: Any, options: Any) -> ReceptiveField:
        """Return the receptive field of an output frame in time.

        Raises:
            ConfigError: It has no bound.
        """


class SupernetModule(Protocol):
    """``supernet.py`` of a space."""

    def build(
        self,
        space: Any,
        candidates: Candidates,
        options: Any,
        regularized: Container[str],
        sampled: bool,
    ) -> nn.Module:
        """Build a supernet.

        Args:
            space: The space of the folder.
            candidates: Candidates of each choice.
            options: Checked options.
            regularized: Operations followed by dropout; all, if the space has no ``LIMITS``.
            sampled: Whether it is given drawn paths
                (:class:`~nas_encoder.network.choices.straight_through.Paths`) rather than the
                weights of mixtures.

        Returns:
            An encoder, ``forward(x (B, T, F), lengths (B,), choices by kind, dropout) -> (y (B,
            ceil(T / S), D), ceil(lengths / S))``, with ``output_size``.
        """


class OneShot(Protocol):
    """Networks that share one set of weights, as a module.

    Attributes:
        output_size: The largest D.
    """

    output_size: int

    def __call__(
        self,
        x: Tensor,
        lengths: Tensor,
        genotype: Genotype,
        statistics: Mapping[str, Tensor] | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Encode (B, T, F) of lengths (B,) with the network of a genotype.

        ``statistics`` are its buffers, None for fresh ones; training mode changes them in place.
        """

    def output_size_of(self, genotype: Genotype) -> int:
        """Return D of a network."""

    def draws(self, rng: random.Random, count: int) -> list[Genotype]:
        """Draw the networks of a training step: the biggest, the smallest, ``count`` others."""

    def recalibrate(
        self, genotype: Genotype, batches: Iterable[tuple[Tensor, Tensor]]
    ) -> dict[str, Tensor]:
        """Return a network's buffers with the statistics of batches (features, lengths)."""

    def inherit(
        self, genotype: Genotype, statistics: Mapping[str, Tensor] | None = None
    ) -> dict[str, Tensor]:
        """Return a copy of a network, a ``state_dict`` with its names."""


class OneShotModule(Protocol):
    """``oneshot.py`` of a space whose networks can share one set of weights."""

    def build(self, space: Any, choices: Mapping[str, Sequence[str]], options: Any) -> OneShot:
        """Build the shared weights, an ``nn.Module``.

        Args:
            space: The space of the folder.
            choices: Kind of choice -> its candidates; those not named have all.
            options: Checked options of the networks.

        Raises:
            ConfigError: Such networks cannot share weights; all problems are listed.
        """


class Costs(Protocol):
    """The costs of a space's networks of one size, by quantity (``parameters``, ``macs``, ...)."""

    quantities: list[str]

    def of(self, architecture: Any) -> dict[str, float]:
        """Return the costs of an architecture's network."""

    def cheapest(self, name: str) -> float:
        """Return the cost of the cheapest network of the space that a search can find."""

    def expected(
        self,
        weights: Mapping[str, Tensor],
        candidates: Candidates,
        edges: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Return the expected costs as differentiable functions of the probabilities.

        If every choice is certain, they are those of that network.

        Args:
            weights: (E, n) probabilities for each kind; each choice's sum is 1.
            candidates: The candidates that they belong to.
            edges: For each kind (E,), the probabilities that a node takes an edge, if learned.
        """


class CostsModule(Protocol):
    """``costs.py`` of a space."""

    LatencyTable: Any
    """The file of measured pieces, only of spaces with ``LATENCY``; see
    :class:`~nas_encoder.spaces.latency_table.LatencyTable`."""

    def build(self, space: Any, options: Any, frames: int) -> Costs:
        """Return the costs of networks of one size, for an utterance of T ``frames``."""

    def build_with_latency(self, space: Any, options: Any, frames: int, table: str | None) -> Costs:
        """Return the same with latencies; only for spaces with ``LATENCY``.

        Raises:
            ConfigError: ``table`` does not hold the latencies of exactly these networks. Where
                tables may be restricted, ``of`` raises it for what is not measured.
        """

    def pieces(
        self,
        space: Any,
        options: Any,
        frames: int,
        only: Mapping[str, Sequence[Any]] = ...,
        also: Sequence[Genotype] = ...,
    ) -> Any:
        """Return the parts of all networks of one size, to be measured.

        Only for spaces with ``LATENCY``; see :class:`~nas_encoder.spaces.cells.pieces.CellNetwork`.

        Args:
            space: The space.
            options: Checked options of its networks.
            frames: T, length of the utterance.
            only: Restrictions to a part of the space, by name.
            also: Other genotypes to be measured.

        Raises:
            ConfigError: The space has no such restriction, or it leaves nothing.
        """


class ScalingModule(Protocol):
    """``scaling.py`` of a space whose genotypes hold sizes of their own."""

    def scale(
        self, genotype: Genotype, parameters: int, options: Any, blocks: int | None = None
    ) -> tuple[Genotype, dict[str, int]]:
        """Return a genotype at another size, by a rule that the module states.

        Args:
            genotype: Of the space.
            parameters: Of its network.
            options: Checked options of the network.
            blocks: In all, instead of the rule's number.

        Returns:
            The scaled genotype, and the options that build the old one at that size.

        Raises:
            ConfigError: There is none of that size.
        """


class PictureModule(Protocol):
    """``picture.py`` of a space."""

    def graphs(self, architecture: Any) -> list[tuple[str, Graph]]:
        """Return the graphs of an architecture, each with its title, in drawing order."""
