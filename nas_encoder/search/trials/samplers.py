"""Choosing the next trial: Optuna's samplers and pruners, and regularized evolution.

Every choice of a space (see :meth:`~nas_encoder.spaces.base.SearchSpace.encode`) is a categorical
parameter of the study, so a trial's parameters are the vector of a genotype.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, NSGAIISampler, TPESampler
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from nas_encoder.common.seeding import derive_seed
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.sections import PruningConfig
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.trials.budget import Affordable
from nas_encoder.search.trials.members import TrialSpace
from nas_encoder.search.trials.storage import INITIAL
from nas_encoder.tables import STRATEGIES

Distributions = dict[str, BaseDistribution]
_STARTUP = 10  # random trials of TPE, Optuna's own number
OUTSIDE = "outside"  # the costs of a genotype outside the budgets


def distributions(space: TrialSpace) -> Distributions:
    """Return the study's parameters: one per choice of the space, in its order."""
    width = len(str(len(space.bounds) - 1))
    return {
        f"choice{place:0{width}d}": CategoricalDistribution(tuple(range(bound)))
        for place, bound in enumerate(space.bounds)
    }


def suggest(trial: Trial, space: TrialSpace) -> list[int]:
    """Return the vector of a trial."""
    vector: list[int] = []
    if INITIAL in trial.user_attrs:
        # Optuna would not ask the sampler; NSGA-II takes only those that it was asked about into
        # its generations.
        _ = trial.relative_params
    for name, bound in zip(distributions(space), space.bounds, strict=True):
        value = trial.suggest_categorical(name, tuple(range(bound)))
        assert isinstance(value, int)
        vector.append(value)
    return vector


def is_outside(trial: FrozenTrial) -> bool:
    """Return whether a trial's genotype is outside the budgets, so that it was not trained."""
    return OUTSIDE in trial.user_attrs


def is_live(trial: FrozenTrial) -> bool:
    """Return whether a trial counts: waiting, running, complete or pruned.

    One that failed or is outside the budgets does not.
    """
    return trial.state != TrialState.FAIL and not is_outside(trial)


def rank_of(study: Study, number: int) -> int:
    """Return how many trials with a lower number count."""
    trials = study.get_trials(deepcopy=False)
    return sum(trial.number < number and is_live(trial) for trial in trials)


class SpaceSampler(BaseSampler):
    """Random search: each trial is a genotype drawn from the space."""

    def __init__(self, space: TrialSpace, seed: int) -> None:
        self.space = space
        self._rng = random.Random(seed)
        self._distributions = distributions(space)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        """Return all parameters, which are drawn jointly."""
        return dict(self._distributions)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of the trial's genotype."""
        given = {**trial.params, **trial.system_attrs.get("fixed_params", {})}
        if not trial.state.is_finished() and given.keys() >= self._distributions.keys():
            return given  # it is to be run with these
        vector = self.space.encode(self._genotype(study))
        return dict(zip(self._distributions, vector, strict=True))

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Draw a parameter that does not belong to the space."""
        return self._rng.choice(param_distribution.choices)

    def _genotype(self, study: Study) -> Genotype:
        return self.space.sample(self._rng)


class EvolutionSampler(SpaceSampler):
    """Regularized evolution (Real, Aggarwal, Huang, Le 2019, algorithm 1).

    The population is the most recently completed trials, so the oldest one dies, not the worst. A
    trial is a mutation of the best of a random sample of the population. Until the population is
    complete, trials are random. All workers use the trials in the storage. ``population`` is P,
    ``sample`` S, drawn without replacement (the paper does not specify it).
    """

    def __init__(self, space: TrialSpace, population: int, sample: int, seed: int) -> None:
        super().__init__(space, seed)
        self.population = population
        self.sample = sample

    def _genotype(self, study: Study) -> Genotype:
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        done = [trial for trial in complete if not is_outside(trial)]
        oldest_first = sorted(done, key=lambda trial: (trial.datetime_complete, trial.number))
        alive = oldest_first[-self.population :]
        if len(alive) < self.population:
            return self.space.sample(self._rng)
        drawn = self._rng.sample(alive, self.sample)
        best = min(drawn, key=lambda found: (found.values[0], found.number))
        parent = self.space.decode([int(best.params[name]) for name in self._distributions])
        return self.space.mutate(parent, self._rng)


class RepeatableSampler(BaseSampler):
    """A fresh sampler for every trial, seeded by the search's seed and the trial's rank.

    The rank is among the trials that have not failed, so the next trial depends only on the trials
    in the storage: a killed search resumes as if it had not been killed, and two workers never draw
    the same numbers. ``make`` makes a sampler from a seed.
    """

    def __init__(self, make: Callable[[int], BaseSampler], seed: int) -> None:
        self._make = make
        self._seed = seed
        self._inner = make(seed)
        self.study: Study | None = None

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Make the sampler of the trial."""
        # Hyperband's pruner passes a part of the study, in which ranks would repeat.
        trials = (self.study or study).get_trials(deepcopy=False)
        place = sum(t.number < trial.number and t.state != TrialState.FAIL for t in trials)
        self._inner = self._make(derive_seed(self._seed, 2, place))
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        """Ask the trial's sampler."""
        return self._inner.infer_relative_search_space(study, trial)

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Ask the trial's sampler."""
        return self._inner.sample_relative(study, trial, search_space)

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Ask the trial's sampler."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tell the trial's sampler."""
        self._inner.after_trial(study, trial, state, values)


class FirstWithin(SpaceSampler):
    """Draws the first trials from the space, before another sampler takes over.

    Samplers of Optuna begin with random trials, hardly any of which may be within narrow budgets.
    ``first`` trials are drawn; the sampler is asked for each of them too, to take note of it.
    """

    def __init__(self, inner: BaseSampler, space: TrialSpace, seed: int, first: int) -> None:
        super().__init__(space, seed)
        self._inner, self._first = inner, first
        self._searched: Distributions = {}

    def _drawn(self, study: Study) -> bool:
        done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED))
        return len(done) < self._first

    def before_trial(self, study: Study, trial: FrozenTrial) -> None:
        """Tell the sampler."""
        self._inner.before_trial(study, trial)

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> Distributions:
        """Return all parameters for trials that are drawn, else ask the sampler."""
        self._searched = self._inner.infer_relative_search_space(study, trial)
        return dict(self._distributions) if self._drawn(study) else self._searched

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: Mapping[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return the parameters of a drawn genotype, or ask the sampler."""
        found = self._inner.sample_relative(study, trial, self._searched)
        return super().sample_relative(study, trial, search_space) if self._drawn(study) else found

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: Any
    ) -> Any:
        """Ask the sampler."""
        return self._inner.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(
        self,
        study: Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Tell the sampler."""
        self._inner.after_trial(study, trial, state, values)


def random_search(config: TrialsConfig, space: TrialSpace, seed: int) -> BaseSampler:
    """Return the sampler of random search."""
    return SpaceSampler(space, seed)


def evolution(config: TrialsConfig, space: TrialSpace, seed: int) -> BaseSampler:
    """Return the sampler of regularized evolution."""
    return EvolutionSampler(space, config.evolution.population, config.evolution.sample, seed)


def nsga2(config: TrialsConfig, space: TrialSpace, seed: int) -> BaseSampler:
    """Return Optuna's NSGA-II; its first generation is within the budgets."""
    size = config.evolution.population
    return _within(NSGAIISampler(population_size=size, seed=seed), space, seed, size)


def tpe(config: TrialsConfig, space: TrialSpace, seed: int) -> BaseSampler:
    """Return Optuna's TPE; running trials of other workers count as bad ones.

    The random trials before it has enough to go by are within the budgets.
    """
    found = TPESampler(n_startup_trials=_STARTUP, seed=seed, constant_liar=True)
    return _within(found, space, seed, _STARTUP)


def _within(sampler: BaseSampler, space: TrialSpace, seed: int, first: int) -> BaseSampler:
    if not isinstance(space, Affordable):
        return sampler
    return FirstWithin(sampler, space, derive_seed(seed, 3), first)


def build_sampler(config: TrialsConfig, space: TrialSpace, seed: int) -> RepeatableSampler:
    """Return the sampler of the configuration's strategy."""
    make = STRATEGIES[config.strategy].load()
    return RepeatableSampler(lambda own: make(config, space, own), seed)


def build_pruner(config: PruningConfig | None, most: int) -> BasePruner:
    """Return the pruner of a configuration (None: no pruning).

    ``most`` are the epochs, or units of time, of a trial that is not pruned.
    """
    if config is None:
        return NopPruner()
    if config.kind == "asha":
        return SuccessiveHalvingPruner(
            min_resource=config.min_epochs, reduction_factor=config.factor
        )
    return HyperbandPruner(
        min_resource=config.min_epochs, max_resource=most, reduction_factor=config.factor
    )
