"""The trial strategy: an Optuna sampler that nas_encoder does not offer."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, BruteForceSampler

if TYPE_CHECKING:
    from nas_encoder.spaces import SearchSpace


def no_repeats(config: Any, space: SearchSpace, seed: int) -> BaseSampler:
    """Draw at random without drawing an architecture twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return BruteForceSampler(seed=seed)
