"""The configuration of a gradient search, checked before anything is built."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import yaml

from nas_encoder.common.fields import choice, integer, option, section
from nas_encoder.common.problems import Problems, show
from nas_encoder.network.budgets import ObjectiveConfig
from nas_encoder.search.config.sections import (
    SEEDS,
    OptimizationConfig,
    RegularizationConfig,
    SelectionConfig,
    StageConfig,
    StrategyConfig,
)
from nas_encoder.search.strategies import GRADIENT, strategies
from nas_encoder.spaces import get_space, searchable_spaces
from nas_encoder.spaces.base import LEARNED_EDGES, LIMITS
from nas_encoder.spaces.options import NetworkOptions, SearchedNetwork, tupled
from nas_encoder.tables import SPACES, STRATEGIES
from nas_encoder.training.config import DataConfig

DATA_USES = ("half", "valid")
DEFAULT_SPACE = "asr_revised"


def _network(value: Any, path: str, problems: Problems) -> SearchedNetwork:
    """Read the section ``network``: the section already read, or (space, document).

    Options of other spaces' networks may be given with the value that switches them off.
    """
    here = problems.under(path)
    if isinstance(value, SearchedNetwork):
        return type(value).read(value, here)
    space, document = value
    if isinstance(document, dict):
        own = {item.name for item in fields(space.section)}
        others = {
            item.name: item.default
            for other in SPACES.values()
            for item in fields(other.section)
            if item.name not in own
        }
        for name, off in others.items():
            given = tupled(document.get(name, off))
            if given != off:
                shown, wanted = (show(list(v) if isinstance(v, tuple) else v) for v in (given, off))
                here.add(
                    name,
                    f"must be {wanted}: networks of the space '{space.name}' have no such part, "
                    f"got {shown}",
                )
        document = {name: item for name, item in document.items() if name not in others}
    return space.section.read({} if document is None else document, here)  # type: ignore[no-any-return]


@dataclass(frozen=True)
class SearchConfig(OptimizationConfig, DataConfig, StrategyConfig):
    """Everything that defines a search except its data and its seed.

    Attributes:
        architecture_data: ``half``: a random half of the training data is withheld from the
            weights and used for the architecture (He et al. 2020, section 4.3). ``valid``: the
            weights get all training data, the architecture the validation data.
        seeds: Search with each in turn; the derived network that validates best is the result.
            Empty for the one seed of the command line.
        network: Options that the supernets share with the derived network, defined by the space.
        objective: Budgets.
        selection: How to choose the best of several seeds: by their derived networks, trained from
            scratch; null: by the final scores of their last stages.
    """

    space: str = option(DEFAULT_SPACE, choice("search space", searchable_spaces))
    train_utterances: int | None = option(None, integer(2, 10**9))
    architecture_data: str = option("half", choice("data for the architecture", DATA_USES))
    seeds: tuple[int, ...] = option((), SEEDS)
    network: SearchedNetwork = option(lambda: get_space(DEFAULT_SPACE).section(), _network)
    objective: ObjectiveConfig = option(ObjectiveConfig, section(ObjectiveConfig))
    selection: SelectionConfig | None = option(None, section(SelectionConfig))

    @classmethod
    def prepared(cls, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Tag ``network`` with its space; drop from the regularization what the space lacks."""
        name = document.get("space")
        known = isinstance(name, str) and name in searchable_spaces()
        space = get_space(name if isinstance(name, str) and known else DEFAULT_SPACE)
        document = {**document, "network": (space, document.get("network"))}
        given = document.get("regularization")
        if not known or not isinstance(given, Mapping | None):
            return document
        own = RegularizationConfig().within(space.operations)
        defaults = {"operations": own.operations, "at_most": own.at_most}
        return {**document, "regularization": {**defaults, **(given or {})}}

    def conflicts(self, found: Problems) -> None:
        """Check the sections against each other."""
        super().conflicts(found)
        self._check_strategy(found)
        if self.selection is not None and self.stages[-1].phase == "retrain":
            rule = "the last stage already trains the derived network"
            found.conflict("selection", rule, f"stages[{len(self.stages) - 1}].phase")
        candidates: Sequence[str] = ()
        if found.sound("space"):
            space = get_space(self.space)
            candidates = space.operations
            if self.learns_edges and LEARNED_EDGES not in space.features:
                rule = f"'{self.edges}' is for spaces of cells with edges, not '{self.space}'"
                found.conflict("edges", rule)
            if self.learns_edges:  # left-out edges express it
                candidates = [name for name in candidates if name != space.zero]
        self._check_stages(candidates, found)
        self._check_phases(found)
        if candidates:
            self._check_regularization(candidates, found.under("regularization"))

    def _check_strategy(self, found: Problems) -> None:
        strategy = STRATEGIES[self.strategy]
        if strategy.kind != GRADIENT:
            found.conflict("strategy", f"'{self.strategy}' searches by trials, not with gradients")
        supported: dict[str, Callable[[Any], bool]] = {
            "paths": lambda it: it.paths >= self.paths,
            "order": lambda it: it.second_order or self.order == "first",
        }
        for name, supports in supported.items():
            if not supports(strategy):
                able = [f"'{key}'" for key, it in strategies(GRADIENT).items() if supports(it)]
                rule = f"is for the strategy {' or '.join(able)}, not for '{self.strategy}'"
                found.conflict(name, f"{getattr(self, name)!r} {rule}", "strategy")
        if self.order == "first":
            return
        if self.weights.optimizer != "sgd":
            rule = "'second' needs weights.optimizer sgd: it unrolls a step of it"
            found.conflict("order", rule, "strategy")
        if self.batch.accumulate != 1:
            rule = "must be 1 with order 'second'"
            found.conflict("batch.accumulate", rule, "strategy", "order")
        if self.edges == "drawn":
            found.conflict("edges", "'drawn' is for first-order gradients, order is 'second'")

    def _check_stages(self, candidates: Sequence[str], found: Problems) -> None:
        most = len(candidates)
        for index, stage in enumerate(self.stages):
            here = found.under(f"stages[{index}]")
            options = self.encoder_config(stage)
            get_space(self.space).check_layers(
                stage.layers, self.network, f"stages[{index}].layers", found
            )
            for line in options.problems():
                if line.startswith(("layers:", "channels:")):
                    found.lines.append(f"stages[{index}].{line}")
                # The dropout is reported by the stage; features set the input size; the first
                # stage also checks what all share.
                elif not index and not line.startswith(("dropout:", "input_size:")):
                    found.lines.append(f"network.{line}")
            if stage.phase == "retrain" or not here.sound("operations"):
                continue
            if index == 0 and most and stage.operations != most:
                without = " without 'none' (edges are learned)" if self.learns_edges else ""
                here.add(
                    "operations",
                    f"must be {most}, all operations of the space '{self.space}'{without}, "
                    f"got {stage.operations}",
                )
            elif stage.operations < 2 or (most and stage.operations > most):
                here.integer(stage.operations, "operations", 2, most or 1000)
            most = min(most, stage.operations) if most else 0

    def _check_phases(self, found: Problems) -> None:
        phases = [stage.phase for stage in self.stages]
        places = [f"stages[{index}].phase" for index in range(len(phases))]
        for index, stage in enumerate(self.stages):
            following = self.stages[index + 1] if index + 1 < len(self.stages) else None
            if stage.phase == "retrain" and following is not None:
                found.conflict(places[index], "'retrain' must be the last stage")
            if stage.phase == "warmup" and (
                following is None
                or following.phase != "search"
                or any(
                    getattr(stage, name) != getattr(following, name)
                    for name in ("layers", "channels", "operations")
                )
            ):
                found.conflict(
                    places[index],
                    "'warmup' must be followed by a stage of phase 'search' with the same layers, "
                    "channels and operations, which continues with its weights",
                    f"stages[{index + 1}]",
                )
        if "search" not in phases and found.sound(*places):
            found.add("stages", "none of them has the phase 'search'")

    def _check_regularization(self, candidates: Sequence[str], found: Problems) -> None:
        given, space = self.regularization, get_space(self.space)
        if LIMITS not in space.features:
            for name in ("operations", "at_most"):
                if getattr(given, name):
                    rule = (
                        f"is for spaces of cells with edges, must be empty for '{self.space}' (a "
                        "stage's dropout is behind all of its layers)"
                    )
                    found.conflict(name, rule)
            return
        for place, operation in enumerate(given.operations):
            found.choice(operation, f"operations[{place}]", "operation", candidates)
        found.mapping(given.at_most, "at_most", (), candidates)
        if not set(candidates) - {space.zero, *given.at_most}:
            rule = "must leave an operation without limit, so that a genotype can always be derived"
            found.conflict("at_most", rule)

    def encoder_config(self, stage: StageConfig) -> NetworkOptions:
        """Return the options that a stage's supernet shares with the evaluation network."""
        return get_space(self.space).search_options(
            self.network,
            input_size=self.features.num_mel_bins,
            layers=stage.layers,
            channels=stage.channels,
            dropout=stage.dropout if stage.phase == "retrain" else 0.0,
        )

    def new_strategy(self) -> Any:
        """Return the strategy, of :mod:`nas_encoder.search.gradient.strategies`."""
        return STRATEGIES[self.strategy].load()(self, self.encoder_config)

    def of_one_seed(self) -> SearchConfig:
        """Return the configuration of a single seed's search.

        With a ``selection``, a last stage trains the derived network from scratch, so that the
        final validation scores are those of the network to compare.
        """
        stages, last, selection = self.stages, self.stages[-1], self.selection
        if selection is not None and last.phase != "retrain":
            stages += (
                StageConfig(
                    phase="retrain",
                    layers=selection.layers or last.layers,
                    channels=selection.channels or last.channels,
                    operations=last.operations,
                    epochs=selection.epochs,
                    warmup_epochs=0,
                    dropout=selection.dropout,
                ),
            )
        return replace(self, seeds=(), selection=None, stages=stages)


def dump(config: SearchConfig) -> str:
    """Return the YAML text of a configuration."""
    text: str = yaml.safe_dump(config.to_dict(), sort_keys=False, default_flow_style=None)
    return text
