"""The sections of a configuration of trials; :mod:`nas_encoder.search.config.trials` checks them.

Sections shared with gradient searches are in :mod:`nas_encoder.training.config`.
"""

from __future__ import annotations

from dataclasses import dataclass

from nas_encoder.common.fields import Declared, choice, integer, number, option, text
from nas_encoder.common.problems import Problems
from nas_encoder.training.config import OPTIMIZERS, WeightsConfig

PRUNERS = ("hyperband", "asha")


@dataclass(frozen=True)
class StudyConfig(Declared):
    """The Optuna study that the trials belong to.

    Attributes:
        count: Trials to finish (pruned ones included), over all workers.
        storage: Optuna storage URL; null for an SQLite file in the run folder. Prefer
            ``--storage``, which is recorded nowhere, for a URL with a password.
        study: Name of the study in the storage; null for the configuration's name.
        heartbeat: Seconds between two heartbeats of a worker. After four times as long without
            one, its trial is given to another worker.
        retries: How often to rerun a trial whose worker died, before another trial replaces it.
    """

    count: int = option(50, integer(1, 10**7))
    storage: str | None = option(None, text("a text or null"))
    study: str | None = option(None, text("a text or null"))
    heartbeat: int = option(30, integer(1, 86400))
    retries: int = option(3, integer(0, 1000))

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
    """Pruning: ends trials early, by their error after each epoch.

    Attributes:
        kind: ``hyperband``: brackets of successive halving, from cautious to greedy (Li et al.
            2018); ``asha``: only its greediest bracket (Li et al. 2020).
        min_epochs: Minimum number of epochs of a trial.
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
            trainings count (null: all).
    """

    epochs: int | None = option(5, integer(1, 10**5), null=True)
    optimizer: str = option("adam", choice("optimizer", OPTIMIZERS))
    lr: float = option(0.002, number(0, 1e6))
    weight_decay: float = option(0.0, number(0, 1e6))


@dataclass(frozen=True)
class MeasureConfig(Declared):
    """How to measure the costs of a trial's own encoder.

    Attributes:
        seconds: Length of the one utterance.
        threads: CPU threads, for latencies.
        repeats: Timed calls; their median is the latency.
    """

    seconds: float = option(3.0, number(0.1, 3600))
    threads: int = option(1, integer(1, 1024))
    repeats: int = option(10, integer(1, 10**6))


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
