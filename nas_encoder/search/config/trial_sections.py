"""The sections of a configuration of trials; :mod:`nas_encoder.search.config.trials` checks them.

Those that it shares with a gradient search are in :mod:`nas_encoder.search.config.sections`.
"""

from __future__ import annotations

from dataclasses import dataclass

PRUNERS = ("hyperband", "asha")


@dataclass(frozen=True)
class StudyConfig:
    """The Optuna study that the trials belong to.

    Attributes:
        count: Trials that are finished (pruned ones too) when the search ends, over all workers.
        storage: Optuna storage URL; null for an SQLite file in the run folder. An URL with a
            password is better given by ``--storage``, which is written nowhere.
        study: Name of the study in the storage; null for the configuration's name.
        heartbeat: Seconds between two signs of life of a worker. A trial of a worker that gave
            none for four times as long is given to another one.
        retries: How often a trial whose worker died is run again; after that another one takes
            its place.
    """

    count: int = 50
    storage: str | None = None
    study: str | None = None
    heartbeat: int = 30
    retries: int = 3

    @property
    def grace(self) -> int:
        """Seconds without a sign of life after which a worker is taken to be dead."""
        return 4 * self.heartbeat


@dataclass(frozen=True)
class EvolutionConfig:
    """Populations.

    Attributes:
        population: P of Real et al. 2019: the youngest P trials are alive. The defaults are
            those of their section 4.1. For ``nsga2`` the size of a generation.
        sample: S of Real et al. 2019: so many of the population are drawn, and the best of them
            is the parent.
    """

    population: int = 100
    sample: int = 25


@dataclass(frozen=True)
class PruningConfig:
    """Ending trials early, by their error after each epoch.

    Attributes:
        kind: ``hyperband``: brackets of successive halving, from cautious to greedy (Li et al.
            2018); ``asha``: its greediest bracket alone (Li et al. 2020).
        min_epochs: No trial ends before.
        factor: One of so many trials goes on beyond each rung (eta).
    """

    kind: str = "hyperband"
    min_epochs: int = 1
    factor: int = 3


@dataclass(frozen=True)
class TrainingConfig:
    """How the network of a trial is trained: its learning rate follows a cosine, as in searches.

    Attributes:
        epochs: Of a trial that is not pruned; with a table, those that count of its trainings
            (null: all).
    """

    epochs: int | None = 5
    optimizer: str = "adam"
    lr: float = 0.002
    min_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 0.0
    grad_clip: float = 5.0


@dataclass(frozen=True)
class MeasureConfig:
    """How costs are measured, of the encoder of the trial itself.

    Attributes:
        seconds: Of speech, one utterance.
        threads: Of the CPU, for latencies.
        repeats: Calls of which the median is the latency.
    """

    seconds: float = 3.0
    threads: int = 1
    repeats: int = 10


@dataclass(frozen=True)
class LookupConfig:
    """A table of trained architectures that errors are looked up in.

    Attributes:
        source: Name of a shipped table, an SQLite file of ``nas-encoder table``, or a folder
            with the published files of NAS-Bench-ASR.
        seed: Of the trainings that are looked up; null for the one that belongs to the search's
            own seed.
        target: Epochs that were the target of the training; null for the most there are.
        device: Whose latencies count, where ``latency_ms`` is an objective; null for the only one.
    """

    source: str = ""
    seed: int | None = None
    target: int | None = None
    device: str | None = None
