"""The configuration of a search, read and checked as a whole before anything is built."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import yaml

from nas_encoder.data import FeatureConfig, SpecAugmentConfig
from nas_encoder.errors import ConfigError
from nas_encoder.genotype.schema import NAME
from nas_encoder.genotype.validation import Problems, show
from nas_encoder.network.config import EncoderConfig
from nas_encoder.search.budgets import ObjectiveConfig
from nas_encoder.spaces import get_space, list_spaces

OPTIMIZERS = ("sgd", "adam")
PRECISIONS = ("32-true", "bf16-mixed")  # 16-mixed would need a loss scale in both steps
DATA_USES = ("half", "valid")
TOKEN_KINDS = ("char", "word", "phone", "syllable")


@dataclass(frozen=True)
class StageConfig:
    """One stage of a progressive search (Chen et al. 2019, section 3.2).

    Attributes:
        layers: L, cells of the supernet, at least 3: of 2, both are reductions, and the normal
            cell would be pruned by chance.
        channels: C, initial channels.
        operations: Candidates that are alive on each edge.
        epochs: Of the stage.
        warmup_epochs: Of these, the first in which the weights alone are trained.
        dropout: Probability behind the regularized operations when the stage begins.
    """

    layers: int = 5
    channels: int = 16
    operations: int = 8
    epochs: int = 15
    warmup_epochs: int = 6
    dropout: float = 0.1


@dataclass(frozen=True)
class WeightsConfig:
    """Optimizer of the network's weights; its rate follows a cosine down to ``min_lr``.

    The defaults are those of He et al. 2020, section 4.3.
    """

    optimizer: str = "sgd"
    lr: float = 0.01
    min_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip: float = 5.0


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


@dataclass(frozen=True)
class NetworkConfig:
    """What the supernet shares with an evaluation network; see EncoderConfig."""

    output_size: int = 512
    stem_stride: tuple[int, int] = (1, 1)
    hidden_sizes: tuple[int, ...] = ()
    deltas: bool = True


@dataclass(frozen=True)
class BatchConfig:
    """Batches: at most this many utterances and this many padded frames."""

    max_utterances: int = 4
    max_frames: int | None = None
    longest_utterance: int = 1024
    shortest_utterance: int = 16
    workers: int = 0


@dataclass(frozen=True)
class TrainerConfig:
    """How to run.

    Attributes:
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        precision: Lightning's names; see :data:`PRECISIONS`.
        deterministic: Refuse operations that have no deterministic implementation.
        checkpoint_minutes: Longest time between two checkpoints, beside one an epoch.
        score_utterances: Validation utterances whose token error rate is measured each epoch.
    """

    accelerator: str = "auto"
    precision: str = "32-true"
    deterministic: bool = True
    checkpoint_minutes: float = 10.0
    score_utterances: int = 256


@dataclass(frozen=True)
class SearchConfig:
    """Everything that defines a search but its data and its seed.

    Attributes:
        name: Of the genotype that is found.
        tokens: A kind that is collected from the training texts, or a token list's path.
        architecture_data: ``half``: a random half of the training data is kept from the
            weights and moves the architecture (He et al. 2020, section 4.3). ``valid``: the
            weights get all training data, the validation data move the architecture.
        train_utterances: Search on a random part of the training data, of so many utterances
            (a proxy data set); null for all of it.
    """

    strategy: str = "pdarts"
    space: str = "asr_revised"
    name: str = "searched"
    tokens: str = "char"
    architecture_data: str = "half"
    train_utterances: int | None = None
    features: FeatureConfig = field(default_factory=FeatureConfig)
    augment: SpecAugmentConfig | None = None
    network: NetworkConfig = field(default_factory=NetworkConfig)
    stages: tuple[StageConfig, ...] = (StageConfig(),)
    weights: WeightsConfig = field(default_factory=WeightsConfig)
    architecture: ArchitectureConfig = field(default_factory=ArchitectureConfig)
    regularization: RegularizationConfig = field(default_factory=RegularizationConfig)
    batch: BatchConfig = field(default_factory=BatchConfig)
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML types."""
        plain: dict[str, Any] = _listed(asdict(self))
        return plain

    @classmethod
    def from_dict(cls, document: object, subject: str = "search config") -> SearchConfig:
        """Read plain YAML types.

        Raises:
            ConfigError: Something is unknown, missing or breaks its rule; all are listed.
        """
        problems = Problems()
        if not isinstance(document, Mapping):
            raise ConfigError(subject, [f"must be a mapping, got {show(document)}"])
        problems.mapping(document, "", (), [f.name for f in fields(cls)])
        values = {name: document[name] for name in _SCALARS if name in document}
        for name, section in _SECTIONS.items():
            if document.get(name) is not None:
                values[name] = _section(section, document[name], name, problems)
        if "stages" in document:
            listed = problems.sequence(document["stages"], "stages", 1, 16) or []
            values["stages"] = tuple(
                _section(StageConfig, stage, f"stages[{i}]", problems)
                for i, stage in enumerate(listed)
            )
        config = cls(**values)
        config._check(problems)
        if problems:
            raise ConfigError(subject, problems.lines)
        return config

    def _check(self, problems: Problems) -> None:
        from nas_encoder.search.gradient import STRATEGIES

        problems.choice(self.strategy, "strategy", "strategy", STRATEGIES)
        space = problems.choice(self.space, "space", "search space", list_spaces())
        if not (isinstance(self.name, str) and NAME.match(self.name)):
            problems.add(
                "name",
                "must be a genotype's name (letters, digits and _ . + -, beginning with a letter "
                f"or digit), got {show(self.name)}",
            )
        if self.train_utterances is not None:
            problems.integer(self.train_utterances, "train_utterances", 2, 10**9)
        if not isinstance(self.tokens, str) or not self.tokens:
            problems.add(
                "tokens", f"must be one of {', '.join(TOKEN_KINDS)} or a path, got {self.tokens!r}"
            )
        problems.choice(
            self.architecture_data, "architecture_data", "data for the architecture", DATA_USES
        )
        problems.lines.extend(self.features.problems())
        problems.lines.extend(f"objective.{line}" for line in self.objective.problems())
        if self.augment is not None:
            self._check_augment(self.augment, problems)
        known = get_space(space).operations if space else ()
        self._check_stages(known, problems)
        self._check_optimizers(problems)
        dropped = problems.sequence(
            self.regularization.operations, "regularization.operations", 0, 64
        )
        for place, operation in enumerate(dropped or () if known else ()):
            problems.choice(operation, f"regularization.operations[{place}]", "operation", known)
        _number(self.regularization.decay, "regularization.decay", 0, 100, problems)
        limits = self.regularization.at_most
        names = known or (limits if isinstance(limits, Mapping) else ())
        for operation, count in (
            problems.mapping(limits, "regularization.at_most", (), names) or {}
        ).items():
            problems.integer(count, f"regularization.at_most.{operation}", 0, 8)
        if known and isinstance(limits, Mapping) and not set(known) - {"none", *limits}:
            problems.add(
                "regularization.at_most",
                "must leave an operation without limit, so that a genotype can always be derived",
            )
        _bounds(
            self.batch,
            "batch",
            {
                "max_utterances": (1, 4096),
                "longest_utterance": (4, 10**7),
                "shortest_utterance": (1, 10**6),
                "workers": (0, 256),
            },
            problems,
        )
        if self.batch.max_frames is not None:
            problems.integer(self.batch.max_frames, "batch.max_frames", 1, 10**9)
        shortest, longest = self.batch.shortest_utterance, self.batch.longest_utterance
        if isinstance(shortest, int) and isinstance(longest, int) and shortest > longest:
            problems.add(
                "batch.shortest_utterance",
                f"must be at most batch.longest_utterance ({longest}), got {shortest}",
            )
        problems.choice(
            self.trainer.accelerator, "trainer.accelerator", "accelerator", ("auto", "cpu", "cuda")
        )
        problems.choice(self.trainer.precision, "trainer.precision", "precision", PRECISIONS)
        if not isinstance(self.trainer.deterministic, bool):
            problems.add("trainer.deterministic", "must be true or false")
        _number(self.trainer.checkpoint_minutes, "trainer.checkpoint_minutes", 0, 10**5, problems)
        _bounds(self.trainer, "trainer", {"score_utterances": (1, 10**7)}, problems)

    def _check_augment(self, augment: SpecAugmentConfig, problems: Problems) -> None:
        before = len(problems.lines)
        for item in fields(augment):
            value, where = getattr(augment, item.name), f"augment.{item.name}"
            if isinstance(item.default, int):
                problems.integer(value, where, 0, 10**6)
            else:
                _number(value, where, 0, 1, problems)
        if len(problems.lines) == before and isinstance(self.features.num_mel_bins, int):
            for line in augment.problems(self.features.num_mel_bins):
                problems.lines.append(line.replace("spec_augment.", "augment.", 1))

    def _check_stages(self, known: Sequence[str], problems: Problems) -> None:
        alive = len(known) or 10**3
        for index, stage in enumerate(self.stages):
            where = f"stages[{index}]"
            for line in self.encoder_config(stage).problems():
                if line.startswith(("layers:", "channels:")):
                    problems.lines.append(f"{where}.{line}")
                elif not index and not line.startswith("input_size:"):  # features has that one
                    problems.lines.append(f"network.{line}")
            if stage.layers == 2:
                problems.add(f"{where}.layers", "must be at least 3: of 2, both are reductions")
            problems.integer(stage.operations, f"{where}.operations", 2, alive)
            if isinstance(stage.operations, int):
                alive = min(alive, stage.operations)
            problems.integer(stage.epochs, f"{where}.epochs", 1, 10**5)
            if isinstance(stage.epochs, int):
                problems.integer(
                    stage.warmup_epochs,
                    f"{where}.warmup_epochs",
                    0,
                    stage.epochs - 1,
                    " (at least one epoch has to move the architecture)",
                )
            _number(stage.dropout, f"{where}.dropout", 0, 0.99, problems)
        if self.stages and known and self.stages[0].operations != len(known):
            problems.add(
                "stages[0].operations",
                f"must be {len(known)}, all operations of the space '{self.space}', got "
                f"{show(self.stages[0].operations)}",
            )

    def _check_optimizers(self, problems: Problems) -> None:
        weights, architecture = self.weights, self.architecture
        problems.choice(weights.optimizer, "weights.optimizer", "optimizer", OPTIMIZERS)
        for name in ("lr", "min_lr", "weight_decay", "grad_clip"):
            _number(getattr(weights, name), f"weights.{name}", 0, 1e6, problems)
        _number(weights.momentum, "weights.momentum", 0, 0.9999, problems)
        for name in ("lr", "weight_decay"):
            _number(getattr(architecture, name), f"architecture.{name}", 0, 1e6, problems)
        betas = problems.sequence(architecture.betas, "architecture.betas", 2, 2)
        for place, beta in enumerate(betas or ()):
            _number(beta, f"architecture.betas[{place}]", 0, 0.999999, problems)

    def encoder_config(self, stage: StageConfig) -> EncoderConfig:
        """Return the options that a stage's supernet shares with an evaluation network."""
        return EncoderConfig(
            input_size=self.features.num_mel_bins,
            channels=stage.channels,
            layers=stage.layers,
            output_size=self.network.output_size,
            stem_stride=self.network.stem_stride,
            hidden_sizes=self.network.hidden_sizes,
            deltas=self.network.deltas,
        )


_SCALARS = ("strategy", "space", "name", "tokens", "architecture_data", "train_utterances")
_SECTIONS: dict[str, type[Any]] = {
    "features": FeatureConfig,
    "augment": SpecAugmentConfig,
    "network": NetworkConfig,
    "weights": WeightsConfig,
    "architecture": ArchitectureConfig,
    "regularization": RegularizationConfig,
    "batch": BatchConfig,
    "trainer": TrainerConfig,
    "objective": ObjectiveConfig,
}


EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")  # YAML 1.1 reads 1e-3 as text


def _section(cls: type[Any], value: object, path: str, problems: Problems) -> Any:
    names = [f.name for f in fields(cls)]
    mapping = problems.mapping(value, path, (), names)
    known = {key: _tupled(item) for key, item in (mapping or {}).items() if key in names}
    return cls(**known)


def _tupled(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _listed(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _listed(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_listed(item) for item in value]
    return value


def _number(value: object, path: str, low: float, high: float, problems: Problems) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        text = f"must be a number in {low:g}..{high:g}, got {show(value)}"
        if isinstance(value, str) and EXPONENT.fullmatch(value):
            text += " (YAML reads that as text; write 0.001 or 1.0e-3)"
        problems.add(path, text)


def _bounds(
    section: object, path: str, bounds: Mapping[str, tuple[int, int]], problems: Problems
) -> None:
    for name, (low, high) in bounds.items():
        problems.integer(getattr(section, name), f"{path}.{name}", low, high)


def dump(config: SearchConfig) -> str:
    """Return the YAML text of a configuration."""
    text: str = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None)
    return text
