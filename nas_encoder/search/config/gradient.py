"""The configuration of a search, read and checked as a whole before anything is built."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import yaml

from nas_encoder.common.problems import Problems, show
from nas_encoder.data import FeatureConfig, SpecAugmentConfig
from nas_encoder.errors import ConfigError
from nas_encoder.genotype.genotype import NAME
from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.search.config.checks import (
    EXPONENT,
    check_integers,
    check_number,
    check_seeds,
    check_stop,
    check_tokens,
    plain_types,
    read_section,
    read_stage,
    tupled,
)
from nas_encoder.search.config.networks import check_network, network_of, searchable_spaces
from nas_encoder.search.config.sections import (
    PHASES,
    ArchitectureConfig,
    NetworkConfig,
    RegularizationConfig,
    SelectionConfig,
    StageConfig,
)
from nas_encoder.search.strategies import STRATEGIES as TRIAL_STRATEGIES
from nas_encoder.spaces import get_space
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.space import CellSpace
from nas_encoder.spaces.nasbench_asr.config import NasBenchConfig
from nas_encoder.spaces.tdnn_chain.config import ChainConfig
from nas_encoder.training.config import BatchConfig, TrainerConfig, WeightsConfig

OPTIMIZERS = ("sgd", "adam")
PRECISIONS = ("32-true", "bf16-mixed")  # 16-mixed would need a loss scale in both steps
DATA_USES = ("half", "valid")
TOKEN_KINDS = ("char", "word", "phone", "syllable", "bpe")
ORDERS = ("first", "second")
EDGES = ("operations", "learned", "drawn")
__all__ = [
    "EXPONENT",
    "TOKEN_KINDS",
    "ArchitectureConfig",
    "SearchConfig",
    "StageConfig",
    "dump",
    "searchable_spaces",
]


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
        order: Of the architecture's gradient (Liu et al. 2019, section 2.3): ``first``, or for
            the strategy ``darts`` with SGD ``second``, through one step of the weights.
        seeds: Search with each of them in turn; the best derived network by validation is the
            result. Empty for the one seed of the command line.
        selection: How that is measured: on the derived networks, trained from scratch; null: by
            what the last stage of each search ends with.
        bpe_size: With ``tokens: bpe``, the number of pieces that are learned.
        token_kind: How texts are cut where ``tokens`` is a path (``syllable`` turns hanzi to
            pinyin); null to guess it from the list.
        edges: How a node of a cell comes by its two inputs. ``operations``: by the edges' best
            operations when a genotype is derived, as published; until then it has all of them.
            ``learned``: edges have parameters of their own, by which they are weighed; see
            :mod:`nas_encoder.network.choices.edges`. ``drawn``: the same, and each step draws
            two for a node (the strategy ``stnas`` always does); see
            :mod:`nas_encoder.search.gradient.strategies.drawn`.
        paths: For the strategy ``stnas``: with 1, an architecture step compares the path that is
            active with all others; with 2, with one other that is drawn (edges with all others).
    """

    strategy: str = "pdarts"
    space: str = "asr_revised"
    name: str = "searched"
    tokens: str = "char"
    architecture_data: str = "half"
    train_utterances: int | None = None
    token_kind: str | None = None
    bpe_size: int | None = None
    seeds: tuple[int, ...] = ()
    order: str = "first"
    paths: int = 1
    edges: str = "operations"
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
    selection: SelectionConfig | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain YAML types."""
        plain: dict[str, Any] = plain_types(asdict(self))
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
        values = {name: tupled(document[name]) for name in _SCALARS if name in document}
        for name, kind in _SECTIONS.items():
            if document.get(name) is not None:
                values[name] = read_section(kind, document[name], name, problems)
        if "stages" in document:
            listed = problems.sequence(document["stages"], "stages", 1, 16) or []
            values["stages"] = tuple(
                read_stage(stage, f"stages[{i}]", problems) for i, stage in enumerate(listed)
            )
        if document.get("space") in searchable_spaces():
            # What is not given is the default, as far as it concerns this space.
            own = RegularizationConfig().within(get_space(document["space"]).operations)
            given = document.get("regularization")
            if isinstance(given, Mapping):
                left = {"operations": own.operations, "at_most": own.at_most}
                left = {name: value for name, value in left.items() if name not in given}
                values["regularization"] = replace(values["regularization"], **left)
            elif given is None:
                values["regularization"] = own
        config = cls(**values)
        config._check(problems)
        if problems:
            raise ConfigError(subject, problems.lines)
        return config

    def _check(self, problems: Problems) -> None:
        from nas_encoder.search.gradient import STRATEGIES

        # Those of trials have a configuration of their own, but a typing error can mean them.
        known_strategies = [*STRATEGIES, *TRIAL_STRATEGIES]
        strategy = problems.choice(self.strategy, "strategy", "strategy", known_strategies)
        if strategy in TRIAL_STRATEGIES:
            problems.add("strategy", f"'{strategy}' searches by trials, not with gradients")
        self._check_strategy(strategy, problems)
        space = problems.choice(self.space, "space", "search space", searchable_spaces())
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
        check_tokens(self, TOKEN_KINDS, problems)
        check_seeds(self, problems)
        problems.choice(
            self.architecture_data, "architecture_data", "data for the architecture", DATA_USES
        )
        problems.lines.extend(self.features.problems())
        problems.lines.extend(f"objective.{line}" for line in self.objective.problems())
        if self.augment is not None:
            self._check_augment(self.augment, problems)
        known = get_space(space).operations if space else ()
        edges = problems.choice(self.edges, "edges", "way to choose edges", EDGES)
        if self.order == "second" and edges == "drawn":
            problems.add("edges", "'drawn' is for first-order gradients, order is 'second'")
        if self.learns_edges and edges and space:
            if not isinstance(get_space(space), CellSpace):
                problems.add("edges", f"'{edges}' is for spaces of cells with edges, not '{space}'")
            known = tuple(op for op in known if op != "none")  # edges that are left out say it
        self._check_stages(known, problems)
        self._check_optimizers(problems)
        self._check_regularization(space, known, problems)
        check_integers(
            self.batch,
            "batch",
            {
                "max_utterances": (1, 4096),
                "longest_utterance": (4, 10**7),
                "shortest_utterance": (1, 10**6),
                "workers": (0, 256),
                "accumulate": (1, 10**4),
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
        if not isinstance(self.trainer.sync_batchnorm, bool):
            problems.add("trainer.sync_batchnorm", "must be true or false")
        if not isinstance(self.trainer.deterministic, bool):
            problems.add("trainer.deterministic", "must be true or false")
        check_number(
            self.trainer.checkpoint_minutes, "trainer.checkpoint_minutes", 0, 10**5, problems
        )
        bounds = {"score_utterances": (1, 10**7), "devices": (1, 1024)}
        check_integers(self.trainer, "trainer", bounds, problems)

    def _check_regularization(
        self, space: str | None, known: Sequence[str], problems: Problems
    ) -> None:
        section = self.regularization
        check_number(section.decay, "regularization.decay", 0, 100, problems)
        if space is not None and not isinstance(get_space(space), CellSpace):
            for name in ("operations", "at_most"):
                if getattr(section, name):
                    problems.add(
                        f"regularization.{name}",
                        f"is for spaces of cells with edges, must be empty for '{space}' (a "
                        "stage's dropout is behind all of its layers)",
                    )
            return
        dropped = problems.sequence(section.operations, "regularization.operations", 0, 64)
        for place, operation in enumerate(dropped or () if known else ()):
            problems.choice(operation, f"regularization.operations[{place}]", "operation", known)
        limits = section.at_most
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

    def _check_strategy(self, strategy: str | None, problems: Problems) -> None:
        problems.choice(self.order, "order", "order", ORDERS)
        if self.order == "second" and strategy not in (None, "darts"):
            problems.add("order", f"'second' is for the strategy 'darts', not for '{strategy}'")
        elif self.order == "second" and self.weights.optimizer == "adam":
            problems.add("order", "'second' needs weights.optimizer sgd: it unrolls a step of it")
        elif self.order == "second" and self.batch.accumulate != 1:
            problems.add("batch.accumulate", "must be 1 with order 'second'")
        paths = problems.integer(self.paths, "paths", 1, 2)
        if paths == 2 and strategy not in (None, "stnas"):
            problems.add("paths", f"2 is for the strategy 'stnas', not for '{strategy}'")

    def _check_augment(self, augment: SpecAugmentConfig, problems: Problems) -> None:
        before = len(problems.lines)
        for item in fields(augment):
            value, where = getattr(augment, item.name), f"augment.{item.name}"
            if isinstance(item.default, int):
                problems.integer(value, where, 0, 10**6)
            else:
                check_number(value, where, 0, 1, problems)
        if len(problems.lines) == before and isinstance(self.features.num_mel_bins, int):
            for line in augment.problems(self.features.num_mel_bins):
                problems.lines.append(line.replace("spec_augment.", "augment.", 1))

    def _check_stages(self, known: Sequence[str], problems: Problems) -> None:
        alive = len(known) or 10**3
        for index, stage in enumerate(self.stages):
            where = f"stages[{index}]"
            problems.choice(stage.phase, f"{where}.phase", "phase", PHASES)
            check_network(self, index, problems)
            if stage.phase != "retrain":
                most = alive if index or not known else 10**3  # the first has all, see below
                problems.integer(stage.operations, f"{where}.operations", 2, most)
                if isinstance(stage.operations, int):
                    alive = min(alive, stage.operations)
            problems.integer(stage.epochs, f"{where}.epochs", 1, 10**5)
            if isinstance(stage.epochs, int) and stage.phase == "search":
                problems.integer(
                    stage.warmup_epochs,
                    f"{where}.warmup_epochs",
                    0,
                    stage.epochs - 1,
                    " (at least one epoch has to move the architecture)",
                )
            else:
                problems.integer(stage.warmup_epochs, f"{where}.warmup_epochs", 0, 10**5)
            check_number(stage.dropout, f"{where}.dropout", 0, 0.99, problems)
            if stage.stop is not None:
                check_stop(stage.stop, f"{where}.stop", problems)
        if self.stages and known and self.stages[0].operations != len(known):
            problems.add(
                "stages[0].operations",
                f"must be {len(known)}, all operations of the space '{self.space}'"
                f"{_WITHOUT_NONE if self.learns_edges else ''}, got "
                f"{show(self.stages[0].operations)}",
            )
        self._check_phases(problems)

    def _check_phases(self, problems: Problems) -> None:
        phases = [stage.phase for stage in self.stages]
        if self.stages and "search" not in phases:
            problems.add("stages", "none of them has the phase 'search'")
        for index, stage in enumerate(self.stages):
            following = self.stages[index + 1] if index + 1 < len(self.stages) else None
            if stage.phase == "warmup" and (
                following is None
                or following.phase != "search"
                or any(
                    getattr(stage, name) != getattr(following, name)
                    for name in ("layers", "channels", "operations")
                )
            ):
                problems.add(
                    f"stages[{index}].phase",
                    "'warmup' must be followed by a stage of phase 'search' with the same layers, "
                    "channels and operations, which goes on with its weights",
                )
            if stage.phase == "retrain" and following is not None:
                problems.add(f"stages[{index}].phase", "'retrain' must be the last stage")

    def _check_optimizers(self, problems: Problems) -> None:
        weights, architecture = self.weights, self.architecture
        problems.choice(weights.optimizer, "weights.optimizer", "optimizer", OPTIMIZERS)
        for name in ("lr", "min_lr", "weight_decay", "grad_clip"):
            check_number(getattr(weights, name), f"weights.{name}", 0, 1e6, problems)
        check_number(weights.momentum, "weights.momentum", 0, 0.9999, problems)
        for name in ("lr", "weight_decay"):
            check_number(getattr(architecture, name), f"architecture.{name}", 0, 1e6, problems)
        betas = problems.sequence(architecture.betas, "architecture.betas", 2, 2)
        for place, beta in enumerate(betas or ()):
            check_number(beta, f"architecture.betas[{place}]", 0, 0.999999, problems)

    @property
    def learns_edges(self) -> bool:
        """Whether edges have parameters of their own."""
        return self.edges in ("learned", "drawn")

    def encoder_config(self, stage: StageConfig) -> EncoderConfig | ChainConfig | NasBenchConfig:
        """Return the options that a stage's supernet shares with an evaluation network."""
        return network_of(self, stage)


_WITHOUT_NONE = " without 'none' (edges are learned)"
_SCALARS = (
    "strategy",
    "space",
    "name",
    "tokens",
    "architecture_data",
    "train_utterances",
    "token_kind",
    "bpe_size",
    "seeds",
    "order",
    "paths",
    "edges",
)
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
    "selection": SelectionConfig,
}


def dump(config: SearchConfig) -> str:
    """Return the YAML text of a configuration."""
    text: str = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None)
    return text
