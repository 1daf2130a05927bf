"""The configuration of a search by trials, checked as a whole before anything runs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from nas_encoder.common.fields import choice, network_options, option, section, text, tuple_of
from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import ConfigError
from nas_encoder.network.budgets import TrialBudgets
from nas_encoder.registry import Names
from nas_encoder.search.config.sections import (
    SEEDS,
    EvolutionConfig,
    LookupConfig,
    MeasureConfig,
    Named,
    PruningConfig,
    StudyConfig,
    TrainingConfig,
)
from nas_encoder.search.config.supernet import (
    FinalistsConfig,
    SupernetConfig,
    candidates,
    check_candidates,
)
from nas_encoder.search.strategies import COSTS, ERROR, TRIALS, strategies
from nas_encoder.spaces import get_space
from nas_encoder.tables import SPACES, STRATEGIES
from nas_encoder.training.config import DataConfig, TrainerConfig


def _strategies() -> Names:
    return STRATEGIES.names(lambda strategy: strategy.kind == TRIALS)


@dataclass(frozen=True)
class TrialsConfig(DataConfig, Named):
    """Everything that defines a search by trials except its data and its seed.

    Attributes:
        strategy: ``random``; ``evolution``: regularized evolution (Real et al. 2019);
            ``hyperband``: random trials, pruned; ``nsga2`` (Deb et al. 2002); ``tpe`` (Bergstra
            et al. 2011; Ozaki et al. 2022 where there are several objectives).
        space: Any registered space.
        network: Options of :func:`~nas_encoder.network.build_encoder` for the trials' networks,
            without ``input_size``.
        objectives: Quantities to minimize: ``error``, the lowest validation token error rate of
            any epoch so far, in % (with ``training.seconds``, that at the end); and ``latency_ms``,
            ``macs``, ``parameters``, ``memory_mb``, ``train_seconds``, ``infeasible`` or
            ``lookahead_ms`` (see :class:`~nas_encoder.network.budgets.TrialBudgets`).
        objective: Budgets: genotypes outside are not trained and do not count as trials.
        pruning: Null for none, except that ``hyperband`` always prunes.
        seeds: Search with each in turn; the genotype with the lowest error is the result. Empty for
            the one seed of the command line.
        table: Table to look errors up in instead of training, without data; null to train.
        choices: Kind of choice -> the candidates that are searched; all of those kinds that are not
            named. Only for spaces whose choices are those of their kinds.
        supernet: Trains shared weights by the section ``training`` and scores trials with them,
            instead of a training for each; null for none.
    """

    strategy: str = option("random", choice("strategy of trials", _strategies))
    objectives: tuple[str, ...] = option((ERROR,), tuple_of(text(), 1, 1 + len(COSTS), once="one"))
    network: Mapping[str, Any] = option(dict, network_options)
    training: TrainingConfig = option(TrainingConfig, section(TrainingConfig))
    trainer: TrainerConfig = option(TrainerConfig, section(TrainerConfig))
    trials: StudyConfig = option(StudyConfig, section(StudyConfig))
    evolution: EvolutionConfig = option(EvolutionConfig, section(EvolutionConfig))
    pruning: PruningConfig | None = option(None, section(PruningConfig))
    measure: MeasureConfig = option(MeasureConfig, section(MeasureConfig))
    objective: TrialBudgets = option(TrialBudgets, section(TrialBudgets))
    table: LookupConfig | None = option(None, section(LookupConfig))
    choices: Mapping[str, tuple[str, ...]] = option(dict, candidates)
    supernet: SupernetConfig | None = option(None, section(SupernetConfig))
    seeds: tuple[int, ...] = option((), SEEDS)

    @property
    def costs(self) -> list[str]:
        """The quantities that objectives and budgets need of a trial."""
        minimized = [name for name in self.objectives if name != ERROR]
        return list(dict.fromkeys([*minimized, *self.objective.limited]))

    @property
    def study_name(self) -> str:
        """The name of the study in the storage."""
        return self.trials.study or self.name

    def of_one_seed(self, seed: int, shared: bool) -> TrialsConfig:
        """Return the configuration of one seed's search; ``shared``: all use one storage."""
        study = f"{self.study_name}-seed{seed}" if shared else self.trials.study
        return replace(self, seeds=(), trials=replace(self.trials, study=study))

    def of_finalists(self, finalists: FinalistsConfig) -> TrialsConfig:
        """Return the configuration by which the best of a supernet are trained alone."""
        epochs, seconds = finalists.epochs, finalists.seconds
        own = replace(self.training, epochs=epochs, seconds=seconds)
        return replace(self, supernet=None, training=own)

    def identity(self) -> dict[str, Any]:
        """Return what all workers of a study must have in common."""
        document = self.to_dict()
        for part, names in _OWN.items():
            for name in names:
                (document.get(part) or {}).pop(name, None)
        return document

    def identity_of(self, earlier: Mapping[str, Any]) -> dict[str, Any]:
        """Return an identity that an earlier version recorded, with newer settings' defaults."""
        own = self.to_dict()
        document = copy.deepcopy(dict(earlier))
        for part, names in _OWN.items():
            if isinstance(document.get(part), dict):
                document[part] |= {name: (own[part] or {}).get(name) for name in names}
        try:
            return self.from_dict(document).identity()
        except ConfigError:  # its settings are no longer known: compare it unchanged
            return dict(earlier)

    @classmethod
    def prepared(cls, document: Mapping[str, Any]) -> Mapping[str, Any]:
        """Enable pruning where the strategy always prunes; set its rungs where time is limited."""
        strategy = strategies(TRIALS).get(str(document.get("strategy")))
        found, training = {**document}, document.get("training")
        if strategy is not None and strategy.prunes and document.get("pruning") is None:
            found["pruning"] = {}
        pruning = found.get("pruning")
        if (
            isinstance(pruning, Mapping)
            and isinstance(training, Mapping)
            and training.get("seconds") is not None
            and "evaluate_at" not in training
        ):
            factor = pruning.get("factor", PruningConfig.factor)
            if isinstance(factor, int) and factor > 1:  # else it is refused later
                rungs = [factor**-2, 1 / factor, 1.0]
                found["training"] = {**training, "evaluate_at": rungs}
        return found

    def conflicts(self, found: Problems) -> None:
        """Check the sections against each other."""
        super().conflicts(found)
        self._check_objectives(found)
        self._check_supernet(found)
        epochs, devices = self.training.epochs, self.trainer.devices
        seconds = self.training.seconds
        if epochs is None and seconds is None and self.table is None:
            rule = "must be an integer where there is neither a table nor training.seconds"
            found.conflict("training.epochs", rule, "table", "training.seconds")
        if seconds is not None and self.table is not None:
            rule = "must be null: the trainings of a table are counted in epochs"
            found.conflict("training.seconds", rule, "table")
        if seconds is not None and self.pruning is not None:
            self._check_rungs(self.pruning, found)
        if self.trials.seconds is not None and (seconds is None or self.supernet is not None):
            rule = "is for trials whose training.seconds are given"
            found.conflict("trials.seconds", rule, "training.seconds", "supernet")
        if self.table is not None and self.objective.table is not None:
            rule = "is for networks that are trained; a table of trainings has its own latencies"
            found.conflict("objective.table", rule, "table")
        if self.pruning is not None and epochs is not None and self.pruning.min_epochs > epochs:
            rule = f"must be in 1..{epochs}, got {self.pruning.min_epochs}"
            found.conflict("pruning.min_epochs", rule, "training.epochs")
        if devices != 1:
            why = "(a worker has one; for more devices start the command once for each)"
            found.conflict("trainer.devices", f"must be 1, got {devices} {why}")

    def _check_rungs(self, pruning: PruningConfig, found: Problems) -> None:
        shares, factor = self.training.evaluate_at, pruning.factor
        rungs = [factor ** (place - len(shares) + 1) for place in range(len(shares))]
        if any(abs(share / rung - 1) > 0.01 for share, rung in zip(shares, rungs, strict=True)):
            shown = ", ".join(f"{rung:.3g}" for rung in rungs)
            rule = (
                f"must be the rungs of pruning, each pruning.factor times the one before: {shown}"
            )
            found.conflict("training.evaluate_at", rule, "pruning.factor")
        if pruning.min_epochs != 1:
            rule = "must be 1 with training.seconds, whose first rung is training.evaluate_at's"
            found.conflict("pruning.min_epochs", rule, "training.seconds")

    def _check_supernet(self, found: Problems) -> None:
        if not found.sound("space"):
            return
        space = get_space(self.space)
        check_candidates(self.choices, space, found.under("choices"))
        if self.choices and self.table is not None:
            found.conflict("choices", "must be empty where errors are looked up in a table")
        if self.supernet is None:
            return
        if not space.has("oneshot"):
            able = SPACES.names(lambda other: other.has("oneshot"))
            rule = f"is for spaces whose networks can share weights ({', '.join(able)})"
            found.conflict("supernet", f"{rule}, not for '{self.space}'", "space")
        if self.table is not None:
            found.conflict("supernet", "must be null where errors are looked up in a table")
        if self.pruning is not None:
            rule = "must be null: a trial is scored at once with the supernet's weights"
            found.conflict("pruning", rule, "strategy")
        finalists, count = self.supernet.finalists, self.trials.count
        if finalists is not None and len(self.objectives) > 1:
            rule = "must be null with several objectives, where no single genotype is the result"
            found.conflict("supernet.finalists", rule, "objectives")
        elif finalists is not None and finalists.count > count:
            rule = f"must be at most trials.count, {count}, got {finalists.count}"
            found.conflict("supernet.finalists.count", rule, "trials")

    def _check_objectives(self, found: Problems) -> None:
        names = self.objectives
        for place, name in enumerate(names):
            found.choice(name, f"objectives[{place}]", "objective", (ERROR, *COSTS))
        if ERROR not in names:
            found.add("objectives", f"must hold '{ERROR}', got {show(list(names))}")
        least, most = STRATEGIES[self.strategy].objectives
        words = {1: "one", 2: "two"}
        if len(names) > most:
            able = ", ".join(
                name for name, it in strategies(TRIALS).items() if it.objectives[1] > 1
            )
            rule = f"'{self.strategy}' has {words.get(most, most)}; several are for {able}"
            found.add("objectives", f"{rule}, got {show(list(names))}")
        elif len(names) > 1 and self.pruning is not None:
            found.add(
                "pruning",
                "needs a single objective: with several, trials cannot be ranked for pruning",
            )
        if len(names) < least:
            rule = f"'{self.strategy}' needs at least {words.get(least, least)}"
            found.conflict("objectives", f"{rule}, got {show(list(names))}", "strategy")


# Settings that may differ between the workers of a study.
_OWN = {
    "trials": ("count", "seconds", "storage", "heartbeat", "retries"),
    "batch": ("workers",),
    "trainer": ("accelerator",),
    "table": ("source",),
}
