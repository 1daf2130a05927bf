"""The entries of the table of strategies; imports neither torch nor the strategies' code."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from nas_encoder.tables import STRATEGIES

COSTS = (
    *("latency_ms", "macs", "parameters", "memory_mb", "train_seconds", "infeasible"),
    "lookahead_ms",
)
ERROR = "error"
GRADIENT, TRIALS = "gradient", "trials"


@dataclass(frozen=True)
class Strategy:
    """What a configuration may ask of a strategy, and the address of its code."""

    kind: str  # ``gradient`` or ``trials``
    # ``module:attribute``. With gradients, a class with the methods of
    # :class:`~nas_encoder.search.gradient.strategies.base.Strategy`; by trials, a function from
    # (configuration, space, seed) to an Optuna sampler.
    target: str
    second_order: bool = False  # with gradients: whether it supports ``order: second``
    paths: int = 1  # with gradients: the largest ``paths`` it supports
    # By trials: the smallest and the largest number of objectives.
    objectives: tuple[int, int] = (1, 1 + len(COSTS))
    prunes: bool = False  # by trials: whether it always prunes trials
    # By trials: whether no trial depends on how many are to follow. Otherwise a study that is made
    # longer differs from one that was as long from the start.
    open_ended: bool = True

    def load(self) -> Any:
        """Import the code."""
        module, _, attribute = self.target.partition(":")
        return getattr(import_module(module), attribute)


def strategies(kind: str) -> dict[str, Strategy]:
    """Return the strategies of a kind by name."""
    return {name: found for name, found in STRATEGIES.items() if found.kind == kind}


_GRADIENT = "nas_encoder.search.gradient.strategies"
PDARTS = Strategy(GRADIENT, f"{_GRADIENT}.pdarts:PDarts")
DARTS = Strategy(GRADIENT, f"{_GRADIENT}.darts:Darts", second_order=True)
STNAS = Strategy(GRADIENT, f"{_GRADIENT}.stnas:STNas", paths=2)

_TRIALS = "nas_encoder.search.trials.samplers"
RANDOM = Strategy(TRIALS, f"{_TRIALS}:random_search")
EVOLUTION = Strategy(TRIALS, f"{_TRIALS}:evolution", objectives=(1, 1))
HYPERBAND = Strategy(TRIALS, f"{_TRIALS}:random_search", objectives=(1, 1), prunes=True)
NSGA2 = Strategy(TRIALS, f"{_TRIALS}:nsga2", objectives=(2, 1 + len(COSTS)))
TPE = Strategy(TRIALS, f"{_TRIALS}:tpe")
