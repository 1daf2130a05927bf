"""The configuration of a table: architectures, and how to train, score and measure them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from nas_encoder.common.fields import (
    ACCELERATORS,
    Declared,
    choice,
    integer,
    network_options,
    number,
    option,
    section,
    text,
    tuple_of,
)
from nas_encoder.common.problems import Problems, show
from nas_encoder.common.settings import read_config
from nas_encoder.data import FeatureConfig
from nas_encoder.data.phones import FOLDINGS
from nas_encoder.data.splitting import TOKEN_KINDS
from nas_encoder.tables import SPACES
from nas_encoder.training.config import BatchConfig, DataConfig, TokenConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Choice(Declared):
    """The choice of architectures.

    Attributes:
        kind: ``all`` (for a space that can be enumerated), ``sample`` or ``list``.
        count: For ``sample``: number of distinct architectures.
        seed: For ``sample``: seed of the draw.
        genotypes: For ``list``: names in the zoo or paths of YAML files.
    """

    kind: str = option("sample", choice("kind", ("all", "sample", "list")))
    count: int = option(40, integer(1, 10**7))
    seed: int = option(0, integer(0, 2**63 - 1))
    genotypes: tuple[str, ...] = option((), tuple_of(text("a name or path"), 0, 10**6))

    def conflicts(self, found: Problems) -> None:
        """Check that ``list`` comes with genotypes."""
        if bool(self.genotypes) != (self.kind == "list"):
            found.conflict("genotypes", "belongs to the kind 'list' and to no other", "kind")


@dataclass(frozen=True)
class Recipe(Declared):
    """How to train each architecture; the defaults are those of Mehrotra et al. 2021.

    Attributes:
        epochs: Target numbers of epochs, ascending. The learning rate does not depend on the
            target, so one training passes through all targets.
        seeds: Seeds of the weights, the order of the data and dropout.
        batch: Utterances per batch.
        lr: Learning rate of Adam.
        decay: Factor of the rate after each epoch from ``decay_from`` on.
        decay_from: First epoch that decays, counted from 1.
        warm_up: Maximum seconds per utterance in each warm-up epoch, before the first that counts;
            the published data had 1, 1, 2 and 2.
        grad_clip: Maximum norm of the gradient; 0 for no limit.
        l2: Weight of the squared kernels of convolutions in the loss.
    """

    epochs: tuple[int, ...] = option(
        (5, 10, 40), tuple_of(integer(1, 2**31 - 1), 1, 64, once="a number")
    )
    seeds: tuple[int, ...] = option(
        (1234, 1235, 1236), tuple_of(integer(0, 2**31 - 1), 1, 64, once="a number")
    )
    batch: int = option(64, integer(1, 10**6))
    lr: float = option(1e-4, number(0, 10))
    decay: float = option(0.9, number(0, 1))
    decay_from: int = option(5, integer(1, 10**6))
    warm_up: tuple[float, ...] = option((1.0, 1.0, 2.0, 2.0), tuple_of(number(0.01, 3600), 0, 1000))
    grad_clip: float = option(5.0, number(0, 1e9))
    l2: float = option(0.0, number(0, 1e9))

    def conflicts(self, found: Problems) -> None:
        """Check that the targets ascend."""
        if list(self.epochs) != sorted(self.epochs):
            found.conflict("epochs", f"must ascend, got {show(list(self.epochs))}")


@dataclass(frozen=True)
class Measuring(Declared):
    """How to measure a latency.

    Attributes:
        frames: Frames of the one utterance.
        threads: CPU threads.
        repeats: Timed calls, after three untimed ones.
        statistic: ``median`` of the calls, or the fastest (``min``), which is the reproducible one
            on a busy machine.
    """

    frames: int = option(300, integer(8, 10**6))
    threads: int = option(1, integer(1, 1024))
    repeats: int = option(10, integer(1, 10**6))
    statistic: str = option("median", choice("statistic", ("median", "min")))


@dataclass(frozen=True)
class TableConfig(TokenConfig):
    """The configuration of a table.

    Attributes:
        name: A label.
        space: Any registered search space.
        architectures: Architectures of the space.
        network: Options of :func:`~nas_encoder.network.build_encoder` except the input size.
        features: See :class:`~nas_encoder.data.FeatureConfig`.
        tokens: As for a search; see also the other options of its tokens.
        folding: Tokens merged in scoring: ``timit39`` or nothing.
        beam: Beam width of the decoding; 1 for greedy.
        recipe: How to train them.
        latency: How to measure their latencies.
        device: ``auto``, ``cpu`` or ``cuda``.
        note: For readers of the table.
    """

    name: str = option("table", text())
    space: str = option("nasbench_asr", choice("search space", SPACES))
    architectures: Choice = option(Choice, section(Choice))
    network: Mapping[str, Any] = option(dict, network_options)
    features: FeatureConfig = option(
        lambda: FeatureConfig(num_mel_bins=80), section(FeatureConfig, num_mel_bins=80)
    )
    tokens: str = option("phone", text(f"one of {', '.join(TOKEN_KINDS)} or a path"))
    folding: str | None = option(None, choice("folding", FOLDINGS))
    beam: int = option(12, integer(1, 1000))
    recipe: Recipe = option(Recipe, section(Recipe))
    latency: Measuring = option(Measuring, section(Measuring))
    device: str = option("auto", choice("device", ACCELERATORS))
    note: str = option("", text(pattern=".*"))

    @property
    def data(self) -> DataConfig:
        """The data configuration; no utterance is too short or too long."""
        batch = BatchConfig(self.recipe.batch, longest_utterance=10**7, shortest_utterance=1)
        own = {item.name: getattr(self, item.name) for item in fields(TokenConfig)}
        return DataConfig(**own, features=self.features, batch=batch)


def load_table_config(name_or_path: str | Path, settings: Sequence[str] = ()) -> TableConfig:
    """Read a shipped configuration or a file, with settings (``recipe.batch=16``) on top.

    Settings that change anything drop the note, which describes what was there before.

    Raises:
        ConfigError: A file, a setting or a value is wrong; all problems are listed.
    """
    before, config = (
        TableConfig.from_dict(document, f"config {path.name}")
        for document, path in (read_config("table", name_or_path, s) for s in ((), settings))
    )
    if config.note and config.note == before.note and config != before:
        logger.warning(
            "the note of %s is left out: settings change what it describes; give "
            "another with --set note=...",
            name_or_path,
        )
        return replace(config, note="")
    return config
