"""The sections of a search configuration besides those of :mod:`nas_encoder.training.config`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nas_encoder.common.fields import (
    Declared,
    choice,
    genotype_source,
    integer,
    mapping_of,
    number,
    option,
    section,
    text,
    tuple_of,
)
from nas_encoder.common.problems import Problems, show
from nas_encoder.genotype.genotype import NAME
from nas_encoder.tables import SPACES, STRATEGIES
from nas_encoder.training.config import OPTIMIZERS, StopConfig, TrainerConfig, WeightsConfig

PHASES = ("warmup", "search", "retrain")
EDGES = ("operations", "learned", "drawn")
PRUNERS = ("hyperband", "asha")
SEEDS = tuple_of(integer(0, 10**9), 0, 1000, once="a seed")


@dataclass(frozen=True)
class Named(Declared):
    """The first fields of every search configuration.

    Attributes:
        strategy: One of :data:`~nas_encoder.tables.STRATEGIES`.
        space: One of :data:`~nas_encoder.tables.SPACES`.
        name: Name of the resulting genotype.
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
        phase: ``search``; ``warmup``: only the weights, which the next stage inherits (a sampling
            strategy draws paths uniformly); ``retrain``: only the derived network, from scratch, on
            all training data.
        layers: L, number of cells of the supernet, at least 3: with 2, both are reductions, and the
            normal cell would be pruned by chance. In a chain, the number of blocks; in
            NAS-Bench-ASR, the cells of all blocks together.
        channels: C, initial channels; in a chain, its width; in NAS-Bench-ASR, the filters of the
            first block.
        operations: Number of candidates per edge (ignored in phase ``retrain``).
        epochs: Maximum number of epochs.
        warmup_epochs: How many of the first epochs train only the weights.
        dropout: Initial dropout after the regularized operations; in a chain or NAS-Bench-ASR,
            after every layer; in phase ``retrain`` that of the encoder.
        stop: Early stopping; null for none.
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
    """Search space regularization (He et al. 2020, sections 3.2 and 4.3).

    Attributes:
        operations: Operations followed by dropout.
        decay: Rate of the dropout's exponential decay over the epochs after the warm-up.
        at_most: Operation -> how often the final normal cell may have it.
    """

    operations: tuple[str, ...] = option(
        ("dil_conv_3x3", "dil_conv_5x5", "avg_pool_3x3"), tuple_of(text(), 0, 64)
    )
    decay: float = option(0.2, number(0, 100))
    at_most: Mapping[str, int] = option(lambda: {"avg_pool_3x3": 2}, mapping_of(integer(0, 8)))

    def within(self, known: Sequence[str]) -> RegularizationConfig:
        """Return the part that concerns the operations ``known``."""
        return RegularizationConfig(
            tuple(op for op in self.operations if op in known),
            self.decay,
            {op: count for op, count in self.at_most.items() if op in known},
        )


@dataclass(frozen=True)
class StrategyConfig(Named):
    """The configuration of a gradient strategy.

    Attributes:
        order: Order of the architecture's gradient (Liu et al. 2019, section 2.3): ``first``, or
            for the strategy ``darts`` with SGD ``second``, through one step of the weights.
        paths: For the strategy ``stnas``: with 1, an architecture step compares the active path
            with all others; with 2, with one other drawn at random (edges with all others).
        edges: How a node of a cell gets its two inputs. ``operations``: by the edges' best
            operations at derivation, as published; until then it has all edges. ``learned``: edges
            are weighted by parameters of their own; see :mod:`nas_encoder.network.choices.edges`.
            ``drawn``: the same, and each step draws two per node (the strategy ``stnas`` always
            does); see :mod:`nas_encoder.search.gradient.strategies.drawn`.
        stages: The stages, in order.
        regularization: Regularization of the space.
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
    """Training of a gradient search.

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
    """How to choose the best of several seeds: by their derived networks, trained from scratch.

    The optimizer is that of the weights (Liu et al. 2019, section 3.1, and Chen et al. 2019 do so
    after a short training).

    Attributes:
        epochs: Epochs of the training.
        layers: Layers of the network; null for those of the last stage.
        channels: Channels of the network; null likewise.
        dropout: Dropout of the encoder.
    """

    epochs: int = option(15, integer(1, 10**5))
    layers: int | None = option(None, integer(3, 65536))
    channels: int | None = option(None, integer(1, 65536))
    dropout: float = option(0.0, number(0, 0.99))


# -- trials -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class StudyConfig(Declared):
    """The Optuna study that the trials belong to.

    Attributes:
        count: Trials to finish (pruned ones included), over all workers; a study can be resumed
            with more.
        seconds: With ``training.seconds``, the training time of all trials together after which
            none begins any more, be there ``count`` or not: what pruning saves goes into more
            trials. A study can be resumed with more. Null: no limit.
        storage: Optuna storage URL; null for an SQLite file in the run folder. Prefer
            ``--storage``, which is recorded nowhere, for a URL with a password.
        study: Name of the study in the storage; null for the configuration's name.
        heartbeat: Seconds between two heartbeats of a worker. After four times as long without
            one, its trial is given to another worker.
        retries: How often to rerun a trial whose worker died, before another trial replaces it.
        initial: The first trials: names of shipped genotypes or known encoders, files, or
            mappings such as ``{known: conformer, width: 64}``. The result is the best trial, so
            never worse than the best of these.
    """

    count: int = option(50, integer(1, 10**7))
    seconds: float | None = option(None, number(0, 1e9, above=True))
    storage: str | None = option(None, text("a text or null"))
    study: str | None = option(None, text("a text or null"))
    heartbeat: int = option(30, integer(1, 86400))
    retries: int = option(3, integer(0, 1000))
    initial: tuple[str | Mapping[str, Any], ...] = option(
        (), tuple_of(genotype_source, 0, 10**4, once="a genotype")
    )

    def conflicts(self, found: Problems) -> None:
        """Check that the first trials are not more than all."""
        if len(self.initial) > self.count:
            rule = f"must be at least {len(self.initial)}, the number of trials.initial"
            found.conflict("count", f"{rule}, got {self.count}", "initial")

    @property
    def grace(self) -> int:
        """Seconds without a heartbeat after which a worker is considered dead."""
        return 4 * self.heartbeat


@dataclass(frozen=True)
class EvolutionConfig(Declared):
    """Evolution; the defaults are those of Real et al. 2019, section 4.1.

    Attributes:
        population: P of Real et al. 2019: the youngest P trials form the population. For ``nsga2``
            the size of a generation.
        sample: S of Real et al. 2019: the parent is the best of S drawn from the population.
    """

    population: int = option(100, integer(2, 10**6))
    sample: int = option(25, integer(1, 10**6))

    def conflicts(self, found: Problems) -> None:
        """Check that the sample can be drawn."""
        if self.sample > self.population:
            found.conflict(
                "sample",
                f"must be in 1..{self.population}, got {self.sample} (it is drawn from the "
                "population)",
                "population",
            )


@dataclass(frozen=True)
class PruningConfig(Declared):
    """Pruning: ends trials early, by their error after each epoch, or share of a time.

    With ``training.seconds`` the rungs are the shares ``training.evaluate_at``, each ``factor``
    times the one before; by default 1 / factor^2, 1 / factor and 1.

    Attributes:
        kind: ``hyperband``: brackets of successive halving, from cautious to greedy (Li et al.
            2018); ``asha``: only its greediest bracket (Li et al. 2020).
        min_epochs: Minimum number of epochs of a trial; 1 with ``training.seconds``.
        factor: Eta: one in so many trials passes each rung.
    """

    kind: str = option("hyperband", choice("kind of pruning", PRUNERS))
    min_epochs: int = option(1, integer(1, 10**5))
    factor: int = option(3, integer(2, 1000))


@dataclass(frozen=True)
class TrainingConfig(WeightsConfig):
    """How the network of a trial is trained: its learning rate follows a cosine, as in searches.

    Attributes:
        epochs: Epochs of a trial that is not pruned; with a table, how many epochs of its
            trainings count (null: all). Null with ``seconds``.
        seconds: Time of every training, in place of ``epochs``: CPU seconds of the process if it
            trains on one CPU thread, else wall seconds; without preparing batches and scoring.
            Such a search depends on the machine, and resumes without repeating the same numbers.
        evaluate_at: Shares of ``seconds`` after which the network is scored, ascending to 1.
    """

    epochs: int | None = option(5, integer(1, 10**5), null=True)
    seconds: float | None = option(None, number(0, 1e7, above=True))
    evaluate_at: tuple[float, ...] = option(
        (0.25, 0.5, 0.75, 1.0), tuple_of(number(0, 1, above=True), 1, 100)
    )
    optimizer: str = option("adam", choice("optimizer", OPTIMIZERS))
    lr: float = option(0.002, number(0, 1e6))
    weight_decay: float = option(0.0, number(0, 1e6))

    @classmethod
    def prepared(cls, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Leave out the default epochs where the time is given."""
        if document.get("seconds") is None:
            return document
        return {"epochs": None, **document}

    def conflicts(self, found: Problems) -> None:
        """Check that either epochs or the time is given."""
        if self.seconds is not None and self.epochs is not None:
            rule = "is in place of training.epochs, which must be null then"
            found.conflict("seconds", rule, "epochs")
        shares = self.evaluate_at
        if list(shares) != sorted(set(shares)) or shares[-1] != 1:
            rule = f"must be ascending shares, the last of which is 1, got {show(list(shares))}"
            found.conflict("evaluate_at", rule)


@dataclass(frozen=True)
class MeasureConfig(Declared):
    """How to measure the costs of a trial's own encoder.

    Attributes:
        seconds: Length of the one utterance.
        threads: CPU threads, for latencies.
        repeats: Timed calls; their median is the latency.
        steps: Timed training steps, for ``train_seconds``.
    """

    seconds: float = option(3.0, number(0.1, 3600))
    threads: int = option(1, integer(1, 1024))
    repeats: int = option(10, integer(1, 10**6))
    steps: int = option(5, integer(1, 10**5))


@dataclass(frozen=True)
class LookupConfig(Declared):
    """A table of trained architectures to look errors up in.

    Attributes:
        source: Name of a shipped table, an SQLite file of ``nas-encoder table``, or a folder
            with the published files of NAS-Bench-ASR.
        seed: Seed of the trainings to look up; null for the one that belongs to the search's seed.
        target: Target epochs of the trainings to look up; null for the largest.
        device: Device of the latencies, if ``latency_ms`` is an objective; null for the only one.
    """

    source: str = option("", text("a table's name or path"))
    seed: int | None = option(None, integer(0, 2**63 - 1))
    target: int | None = option(None, integer(1, 10**6))
    device: str | None = option(None, text("a text or null", ".*"))

    def conflicts(self, found: Problems) -> None:
        """Check that there is a table."""
        if not self.source:
            found.conflict("source", "is missing; give a table's name or path")
