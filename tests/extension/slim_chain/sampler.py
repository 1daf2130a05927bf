"""The trial strategy: a sampler of Optuna's that the package itself does not offer."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, BruteForceSampler

if TYPE_CHECKING:
    from nas_encoder.spaces import SearchSpace


def no_repeats(config: Any, space: SearchSpace, seed: int) -> BaseSampler:
    """Draw at random, and no architecture twice."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        return BruteForceSampler(seed=seed)
