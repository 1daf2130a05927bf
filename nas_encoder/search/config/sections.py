"""The sections of a search configuration; :mod:`nas_encoder.search.config.gradient` checks them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from nas_encoder.training.config import StopConfig

PHASES = ("warmup", "search", "retrain")


@dataclass(frozen=True)
class StageConfig:
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

    phase: str = "search"
    layers: int = 5
    channels: int = 16
    operations: int = 8
    epochs: int = 15
    warmup_epochs: int = 6
    dropout: float = 0.1
    stop: StopConfig | None = None


@dataclass(frozen=True)
class ArchitectureConfig:
    """Adam for the architecture parameters; the defaults are those of Chen et al. 2019."""

    lr: float = 6e-4
    betas: tuple[float, float] = (0.5, 0.999)
    weight_decay: float = 1e-3


@dataclass(frozen=True)
class RegularizationConfig:
    """Search space regularization (He et al. 2020, section 3.2 and 4.3).

    Attributes:
        operations: Operations that dropout follows.
        decay: Rate of its exponential decay over the epochs after the warm-up.
        at_most: Operation -> how many of it the final normal cell may keep.
    """

    operations: tuple[str, ...] = ("dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3")
    decay: float = 0.2
    at_most: Mapping[str, int] = field(default_factory=lambda: {"avg_pool_3x3": 2})

    def within(self, known: Sequence[str]) -> RegularizationConfig:
        """Return what of it concerns the operations ``known``."""
        return RegularizationConfig(
            tuple(op for op in self.operations if op in known),
            self.decay,
            {op: count for op, count in self.at_most.items() if op in known},
        )


@dataclass(frozen=True)
class NetworkConfig:
    """What the supernet shares with an evaluation network.

    Attributes:
        output_size: D, features of an output frame.
        stem_stride: In time and frequency; of cells with edges alone, as ``hidden_sizes``.
        hidden_sizes: See :class:`~nas_encoder.spaces.cells.config.EncoderConfig`.
        deltas: Whether delta and delta-delta stand beside the features.
        lstm_size: Of NAS-Bench-ASR alone, as ``block_cells``: width of the LSTM, 0 for none.
        block_cells: Cells of each of its four blocks; empty to spread a stage's layers over them
            as in the paper, 3 to 4 to 5 to 6.
    """

    output_size: int = 512
    stem_stride: tuple[int, int] = (1, 1)
    hidden_sizes: tuple[int, ...] = ()
    deltas: bool = True
    lstm_size: int = 0
    block_cells: tuple[int, ...] = ()


@dataclass(frozen=True)
class SelectionConfig:
    """How the best of several seeds is chosen: each derived network is trained from scratch.

    Its optimizer is that of the weights (Liu et al. 2019, section 3.1, and Chen et al. 2019 choose
    so, after a short training).

    Attributes:
        epochs: Of that training.
        layers: Of the network; null for those of the last stage.
        channels: Likewise.
        dropout: Of its encoder.
    """

    epochs: int = 15
    layers: int | None = None
    channels: int | None = None
    dropout: float = 0.0
