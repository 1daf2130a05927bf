"""The configuration of a search by trials, read and checked as a whole before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from nas_encoder.common.problems import Problems, check_plain, show
from nas_encoder.data import FeatureConfig, SpecAugmentConfig
from nas_encoder.errors import ConfigError
from nas_encoder.genotype.genotype import NAME
from nas_encoder.search.config.checks import (
    check_integers,
    check_number,
    check_tokens,
    plain_types,
    read_section,
    tupled,
)
from nas_encoder.search.config.gradient import OPTIMIZERS, PRECISIONS, TOKEN_KINDS
from nas_encoder.search.config.trial_sections import (
    PRUNERS,
    EvolutionConfig,
    LookupConfig,
    MeasureConfig,
    PruningConfig,
    StudyConfig,
    TrainingConfig,
)
from nas_encoder.search.strategies import COSTS, ERROR, STRATEGIES
from nas_encoder.spaces import list_spaces
from nas_encoder.training.config import BatchConfig, TrainerConfig, WeightsConfig


@dataclass(frozen=True)
class TrialsConfig:
    """Everything that defines a search by trials but its data and its seed.

    Attributes:
        strategy: ``random``; ``evolution``: regularized evolution (Real et al. 2019);
            ``hyperband``: random trials, pruned; ``nsga2`` (Deb et al. 2002); ``tpe`` (Bergstra
            et al. 2011; Ozaki et al. 2022 where there are several objectives).
        space: Any registered space.
        name: Of the genotype that is found.
        tokens: A kind that is collected from the training texts, or a token list's path;
            ``token_kind`` and ``bpe_size`` belong to it, as in a gradient search.
        train_utterances: Train on so many utterances, chosen at random; null for all.
        network: Options of :func:`~nas_encoder.network.build_encoder` for the trials' networks,
            without ``input_size``.
        objectives: What is minimised: ``error``, the lowest token error rate on the validation
            data after any epoch so far, in %; and ``latency_ms``, ``macs`` or ``parameters``.
        pruning: Null for none, except that ``hyperband`` always prunes.
        table: Look errors up instead of training; then no data are needed.
    """

    strategy: str = "random"
    space: str = "asr_revised"
    name: str = "searched"
    tokens: str = "char"
    token_kind: str | None = None
    bpe_size: int | None = None
    train_utterances: int | None = None
    objectives: tuple[str, ...] = (ERROR,)
    features: FeatureConfig = field(default_factory=FeatureConfig)
    augment: SpecAugmentConfig | None = None
    network: Mapping[str, Any] = field(default_factory=dict)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    trials: StudyConfig = field(default_factory=StudyConfig)
    evolution: EvolutionConfig = field(default_factory=EvolutionConfig)
    pruning: PruningConfig | None = None
    measure: MeasureConfig = field(default_factory=MeasureConfig)
    table: LookupConfig | None = None

    @property
    def weights(self) -> WeightsConfig:
        """The optimizer of a trial's weights."""
        values = asdict(self.training)
        values.pop("epochs")
        return WeightsConfig(**values)

    @property
    def study_name(self) -> str:
        """Of the study in the storage."""
        return self.trials.study or self.name

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML types."""
        plain: dict[str, Any] = plain_types(asdict(self))
        return plain

    def identity(self) -> dict[str, Any]:
        """Return what all workers of a study must have in common."""
        document = self.to_dict()
        for section, names in _OWN.items():
            for name in names:
                (document.get(section) or {}).pop(name, None)
        return document

    def identity_of(self, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Return an identity that an earlier version recorded, with newer settings' defaults."""
        own = self.to_dict()
        document = copy.deepcopy(dict(earlier))
        for section, names in _OWN.items():
            if isinstance(document.get(section), dict):
                document[section] |= {name: (own[section] or {}).get(name) for name in names}
        try:
            return self.from_dict(document).identity()
        except ConfigError:  # its settings are no longer known: compared as it is
            return dict(earlier)

    @classmethod
    def from_dict(cls, document: object, subject: str = "search config") -> TrialsConfig:
        """Read plain YAML types.

        Raises:
            ConfigError: Something is unknown, missing or breaks its rule; all are listed.
        """
        problems = Problems()
        if not isinstance(document, Mapping):
            raise ConfigError(subject, [f"must be a mapping, got {show(document)}"])
        problems.mapping(document, "", (), [f.name for f in fields(cls)])
        values = {name: tupled(document[name]) for name in _SCALARS if name in document}
        for name, kind in _SECTIONS.items():
            if document.get(name) is not None:
                values[name] = read_section(kind, document[name], name, problems)
        if document.get("strategy") == "hyperband":
            values.setdefault("pruning", PruningConfig())
        config = cls(**values)
        config._check(problems)
        if problems:
            raise ConfigError(subject, problems.lines)
        return config

    def _check(self, problems: Problems) -> None:
        problems.choice(self.strategy, "strategy", "strategy of trials", STRATEGIES)
        problems.choice(self.space, "space", "search space", list_spaces())
        if not (isinstance(self.name, str) and NAME.match(self.name)):
            problems.add(
                "name",
                "must be a genotype's name (letters, digits and _ . + -, beginning with a letter "
                f"or digit), got {show(self.name)}",
            )
        if self.train_utterances is not None:
            problems.integer(self.train_utterances, "train_utterances", 1, 10**9)
        if not isinstance(self.tokens, str) or not self.tokens:
            problems.add(
                "tokens", f"must be one of {', '.join(TOKEN_KINDS)} or a path, got {self.tokens!r}"
            )
        check_tokens(self, TOKEN_KINDS, problems)
        self._check_objectives(problems)
        problems.lines.extend(self.features.problems())
        self._check_augment(problems)
        if problems.mapping(self.network, "network", (), self.network or ()) is not None:
            check_plain(self.network, "network", problems)
            if "input_size" in self.network:
                problems.add("network.input_size", "is features.num_mel_bins; leave it out")
        self._check_training(problems)
        self._check_study(problems)

    def _check_objectives(self, problems: Problems) -> None:
        names = problems.sequence(self.objectives, "objectives", 1, 1 + len(COSTS)) or []
        for place, name in enumerate(names):
            problems.choice(name, f"objectives[{place}]", "objective", (ERROR, *COSTS))
        if names and ERROR not in names:
            problems.add("objectives", f"must hold '{ERROR}', got {show(names)}")
        if len({show(name) for name in names}) < len(names):
            problems.add("objectives", f"lists one twice: {show(names)}")
        single = {"evolution", "hyperband"}
        if len(names) > 1 and self.strategy in single:
            problems.add(
                "objectives",
                f"'{self.strategy}' has one; several are for nsga2, tpe and random, got "
                f"{show(names)}",
            )
        elif len(names) > 1 and self.pruning is not None:
            problems.add("pruning", "needs a single objective: what would be worse is not known")
        if len(names) == 1 and self.strategy == "nsga2":
            problems.add("objectives", f"'nsga2' needs at least two, got {show(names)}")

    def _check_augment(self, problems: Problems) -> None:
        if self.augment is None:
            return
        before = len(problems.lines)
        for item in fields(self.augment):
            value, where = getattr(self.augment, item.name), f"augment.{item.name}"
            if isinstance(item.default, int):
                problems.integer(value, where, 0, 10**6)
            else:
                check_number(value, where, 0, 1, problems)
        if len(problems.lines) == before and isinstance(self.features.num_mel_bins, int):
            for line in self.augment.problems(self.features.num_mel_bins):
                problems.lines.append(line.replace("spec_augment.", "augment.", 1))

    def _check_training(self, problems: Problems) -> None:
        training = self.training
        if training.epochs is not None:
            problems.integer(training.epochs, "training.epochs", 1, 10**5)
        elif self.table is None:
            problems.add("training.epochs", "must be an integer where there is no table")
        problems.choice(training.optimizer, "training.optimizer", "optimizer", OPTIMIZERS)
        for name in ("lr", "min_lr", "weight_decay", "grad_clip"):
            check_number(getattr(training, name), f"training.{name}", 0, 1e6, problems)
        check_number(training.momentum, "training.momentum", 0, 0.9999, problems)
        bounds = {
            "max_utterances": (1, 4096),
            "longest_utterance": (4, 10**7),
            "shortest_utterance": (1, 10**6),
            "workers": (0, 256),
            "accumulate": (1, 10**4),
        }
        check_integers(self.batch, "batch", bounds, problems)
        if self.batch.max_frames is not None:
            problems.integer(self.batch.max_frames, "batch.max_frames", 1, 10**9)
        trainer = self.trainer
        problems.choice(
            trainer.accelerator, "trainer.accelerator", "accelerator", ("auto", "cpu", "cuda")
        )
        problems.choice(trainer.precision, "trainer.precision", "precision", PRECISIONS)
        problems.integer(
            trainer.devices,
            "trainer.devices",
            1,
            1,
            " (a worker has one; for more devices start the command once for each)",
        )
        if not isinstance(trainer.deterministic, bool):
            problems.add("trainer.deterministic", "must be true or false")
        problems.integer(trainer.score_utterances, "trainer.score_utterances", 1, 10**7)

    def _check_study(self, problems: Problems) -> None:
        bounds = {"count": (1, 10**7), "heartbeat": (1, 86400), "retries": (0, 1000)}
        check_integers(self.trials, "trials", bounds, problems)
        for name in ("storage", "study"):
            value = getattr(self.trials, name)
            if value is not None and not (isinstance(value, str) and value):
                problems.add(f"trials.{name}", f"must be a text or null, got {show(value)}")
        evolution = self.evolution
        problems.integer(evolution.population, "evolution.population", 2, 10**6)
        if isinstance(evolution.population, int):
            problems.integer(
                evolution.sample,
                "evolution.sample",
                1,
                max(2, evolution.population),
                " (it is drawn from the population)",
            )
        if self.pruning is not None:
            problems.choice(self.pruning.kind, "pruning.kind", "kind of pruning", PRUNERS)
            most = self.training.epochs if isinstance(self.training.epochs, int) else 10**5
            problems.integer(self.pruning.min_epochs, "pruning.min_epochs", 1, max(1, most))
            problems.integer(self.pruning.factor, "pruning.factor", 2, 1000)
        check_number(self.measure.seconds, "measure.seconds", 0.1, 3600, problems)
        measured = {"threads": (1, 1024), "repeats": (1, 10**6)}
        check_integers(self.measure, "measure", measured, problems)
        if self.table is not None:
            table = self.table
            if not (isinstance(table.source, str) and table.source):
                problems.add("table.source", f"must be a table's name or path, got {table.source}")
            if table.seed is not None:
                problems.integer(table.seed, "table.seed", 0, 2**63 - 1)
            if table.target is not None:
                problems.integer(table.target, "table.target", 1, 10**6)
            if table.device is not None and not isinstance(table.device, str):
                problems.add("table.device", f"must be a text or null, got {show(table.device)}")


# What may differ between the workers of one study.
_OWN = {
    "trials": ("storage", "heartbeat", "retries"),
    "batch": ("workers",),
    "trainer": ("accelerator",),
    "table": ("source",),
}
_SCALARS = (
    "strategy",
    "space",
    "name",
    "tokens",
    "token_kind",
    "bpe_size",
    "train_utterances",
    "objectives",
    "network",
)
_SECTIONS: dict[str, type[Any]] = {
    "features": FeatureConfig,
    "augment": SpecAugmentConfig,
    "training": TrainingConfig,
    "batch": BatchConfig,
    "trainer": TrainerConfig,
    "trials": StudyConfig,
    "evolution": EvolutionConfig,
    "pruning": PruningConfig,
    "measure": MeasureConfig,
    "table": LookupConfig,
}
