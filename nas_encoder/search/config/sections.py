"""The sections of a search configuration beside those of :mod:`nas_encoder.training.config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas_encoder.common.fields import (
    Declared,
    choice,
    integer,
    mapping_of,
    number,
    option,
    section,
    text,
    tuple_of,
)
from nas_encoder.common.problems import Problems
from nas_encoder.genotype.genotype import NAME
from nas_encoder.tables import SPACES, STRATEGIES
from nas_encoder.training.config import StopConfig, TrainerConfig, WeightsConfig

PHASES = ("warmup", "search", "retrain")
EDGES = ("operations", "learned", "drawn")


@dataclass(frozen=True)
class Named(Declared):
    """How every configuration of a search begins.

    Attributes:
        strategy: One of :data:`~nas_encoder.tables.STRATEGIES`.
        space: One of :data:`~nas_encoder.tables.SPACES`.
        name: Of the genotype that is found.
    """

    strategy: str = option("pdarts", choice("strategy", STRATEGIES))
    space: str = option("asr_revised", choice("search space", SPACES))
    name: str = option(
        "searched",
        text(
            "a genotype's name (letters, digits and _ . + -, beginning with a letter or digit)",
            NAME.pattern,
        ),
    )


@dataclass(frozen=True)
class StageConfig(Declared):
    """One stage of a search (progressive: Chen et al. 2019, section 3.2).

    Attributes:
        phase: ``search``; ``warmup``: the weights alone, which the following stage goes on with
            (paths of a sampling strategy are drawn uniformly); ``retrain``: the derived network
            alone, from scratch, on all training data.
        layers: L, cells of the supernet, at least 3: of 2, both are reductions, and the normal
            cell would be pruned by chance. Of a chain: its blocks. Of NAS-Bench-ASR: cells of
            all blocks together.
        channels: C, initial channels; of a chain, its width; of NAS-Bench-ASR, the filters of
            its first block.
        operations: Candidates that are alive on each edge (no meaning in phase ``retrain``).
        epochs: Of the stage, at most.
        warmup_epochs: Of these, the first in which the weights alone are trained.
        dropout: Probability behind the regularized operations when the stage begins; of a chain
            or of NAS-Bench-ASR, behind every layer; in phase ``retrain`` that of the encoder.
        stop: When it ends earlier; null for never.
    """

    phase: str = option("search", choice("phase", PHASES))
    layers: int = option(5, integer(1, 1024))
    channels: int = option(16, integer(1, 65536))
    operations: int = option(8, integer(0, 1000))
    epochs: int = option(15, integer(1, 10**5))
    warmup_epochs: int = option(6, integer(0, 10**5))
    dropout: float = option(0.1, number(0, 0.99))
    stop: StopConfig | None = option(None, section(StopConfig))

    def conflicts(self, found: Problems) -> None:
        """Check that the architecture moves in a search."""
        if self.phase == "search" and self.warmup_epochs >= self.epochs:
            found.conflict(
                "warmup_epochs",
                f"must be in 0..{self.epochs - 1}, got {self.warmup_epochs} (at least one epoch "
                "has to move the architecture)",
                "epochs",
            )


@dataclass(frozen=True)
class ArchitectureConfig(Declared):
    """Adam for the architecture parameters; the defaults are those of Chen et al. 2019."""

    lr: float = option(6e-4, number(0, 1e6))
    betas: tuple[float, float] = option((0.5, 0.999), tuple_of(number(0, 0.999999), 2, 2))
    weight_decay: float = option(1e-3, number(0, 1e6))


@dataclass(frozen=True)
class RegularizationConfig(Declared):
    """Search space regularization (He et al. 2020, section 3.2 and 4.3).

    Attributes:
        operations: Operations that dropout follows.
        decay: Rate of its exponential decay over the epochs after the warm-up.
        at_most: Operation -> how many of it the final normal cell may keep.
    """

    operations: tuple[str, ...] = option(
        ("dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3"), tuple_of(text(), 0, 64)
    )
    decay: float = option(0.2, number(0, 100))
    at_most: Mapping[str, int] = option(lambda: {"avg_pool_3x3": 2}, mapping_of(integer(0, 8)))

    def within(self, known: Sequence[str]) -> RegularizationConfig:
        """Return what of it concerns the operations ``known``."""
        return RegularizationConfig(
            tuple(op for op in self.operations if op in known),
            self.decay,
            {op: count for op, count in self.at_most.items() if op in known},
        )


@dataclass(frozen=True)
class StrategyConfig(Named):
    """What a gradient strategy decides by.

    Attributes:
        order: Of the architecture's gradient (Liu et al. 2019, section 2.3): ``first``, or for
            the strategy ``darts`` with SGD ``second``, through one step of the weights.
        paths: For the strategy ``stnas``: with 1, an architecture step compares the path that is
            active with all others; with 2, with one other that is drawn (edges with all others).
        edges: How a node of a cell comes by its two inputs. ``operations``: by the edges' best
            operations when a genotype is derived, as published; until then it has all of them.
            ``learned``: edges have parameters of their own, by which they are weighed; see
            :mod:`nas_encoder.network.choices.edges`. ``drawn``: the same, and each step draws
            two for a node (the strategy ``stnas`` always does); see
            :mod:`nas_encoder.search.gradient.strategies.drawn`.
        stages: One after the other.
        regularization: Of the space.
    """

    order: str = option("first", choice("order", ("first", "second")))
    paths: int = option(1, integer(1, 2))
    edges: str = option("operations", choice("way to choose edges", EDGES))
    stages: tuple[StageConfig, ...] = option(
        (StageConfig(),), tuple_of(section(StageConfig), 1, 16)
    )
    regularization: RegularizationConfig = option(
        RegularizationConfig, section(RegularizationConfig)
    )

    @property
    def learns_edges(self) -> bool:
        """Whether edges have parameters of their own."""
        return self.edges in ("learned", "drawn")


@dataclass(frozen=True)
class OptimizationConfig(Declared):
    """How a gradient search is trained.

    Attributes:
        weights: Optimizer of the network.
        architecture: Optimizer of the architecture parameters.
        trainer: Devices, precision, checkpoints.
    """

    weights: WeightsConfig = option(WeightsConfig, section(WeightsConfig))
    architecture: ArchitectureConfig = option(ArchitectureConfig, section(ArchitectureConfig))
    trainer: TrainerConfig = option(TrainerConfig, section(TrainerConfig))


@dataclass(frozen=True)
class SelectionConfig(Declared):
    """How the best of several seeds is chosen: each derived network is trained from scratch.

    Its optimizer is that of the weights (Liu et al. 2019, section 3.1, and Chen et al. 2019 choose
    so, after a short training).

    Attributes:
        epochs: Of that training.
        layers: Of the network; null for those of the last stage.
        channels: Likewise.
        dropout: Of its encoder.
    """

    epochs: int = option(15, integer(1, 10**5))
    layers: int | None = option(None, integer(3, 65536))
    channels: int | None = option(None, integer(1, 65536))
    dropout: float = option(0.0, number(0, 0.99))
