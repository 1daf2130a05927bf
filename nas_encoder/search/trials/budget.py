"""Budgets of trials: genotypes outside are not trained."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import COUNTED, TrialBudgets, readable
from nas_encoder.search.strategies import ERROR
from nas_encoder.search.trials.members import TrialSpace

ATTEMPTS = 200  # draws for one trial
MOST = 1000  # refused genotypes in a row, after which the search gives up
_MEASURED = 10  # a genotype that was refused only after measuring counts as so many


class Budget:
    """Decides which genotypes may be trained.

    Args:
        limits: The bounds.
        costs: Returns costs of a genotype, the given quantities among them.

    Attributes:
        refused: Number of refused genotypes since the last one that was not.
        redrawn: Number of refused draws of an :class:`Affordable` space since it was set to 0.
    """

    def __init__(
        self,
        limits: TrialBudgets,
        costs: Callable[[Genotype, Collection[str]], Mapping[str, float]],
    ) -> None:
        self.limits, self._costs = limits, costs
        self.refused = self.redrawn = 0
        self._seen: dict[str, float] = {}  # of each broken bound the cost closest to it

    def excess(self, genotype: Genotype) -> dict[str, float]:
        """Return the broken bounds, empty if there are none; see :meth:`TrialBudgets.excess`.

        What must be measured is measured only where nothing cheaper refuses the genotype.
        """
        limited = self.limits.limited
        counted = [name for name in limited if name in COUNTED]
        costs = self._costs(genotype, counted)
        found = self.limits.excess({name: costs[name] for name in counted})
        weight = 1
        if not found and len(limited) > len(counted):
            costs, weight = self._costs(genotype, limited), _MEASURED
            found = self.limits.excess(costs)
        self.refused = self.refused + weight if found else 0
        for name, own in found.items():
            best = self._seen.get(name)
            if best is None or own < self.limits.excess({name: best})[name]:
                self._seen[name] = costs[name]
        if not found:
            self._seen.clear()
        return found

    def names(self, objectives: Sequence[str]) -> list[str]:
        """Return the quantities that objectives and bounds need."""
        minimized = [name for name in objectives if name != ERROR]
        return list(dict.fromkeys([*minimized, *self.limits.limited]))

    def broken(self, costs: Mapping[str, float]) -> list[str]:
        """Return a line for each bound that costs break."""
        return [
            f"costs {readable(name, costs[name])} ({name}), the budget is {self.limits.told(name)}"
            for name in self.limits.excess(costs)
        ]

    def require_hope(self) -> None:
        """Give up where too many genotypes in a row were refused.

        Raises:
            ConfigError: That is so; each bound that was broken is named.
        """
        if self.refused < MOST:
            return
        lines = []
        for name, cost in self._seen.items():
            most = self.limits.budgets.get(name)
            extreme = "cheapest" if most is not None and cost > most else "most expensive"
            lines.append(
                f"{name}: the budget is {self.limits.told(name)}, the {extreme} network seen has "
                f"{readable(name, cost)}; change the budget or the sizes in 'network', or name "
                "genotypes within the budgets in trials.initial"
            )
        head = f"after {MOST} genotypes in a row (or fewer, measured) none is within the budgets"
        raise ConfigError("objective", [head, *lines])

    def require_one(self, space: TrialSpace, seed: int) -> None:
        """Draw from a space until a genotype is within the budgets.

        Raises:
            ConfigError: There was none among many.
        """
        rng = random.Random(seed)
        while self.excess(space.sample(rng)):
            self.require_hope()


class Affordable:
    """The genotypes of a space within budgets, as a space with its choices."""

    def __init__(self, whole: TrialSpace, budget: Budget) -> None:
        self.bounds, self.encode, self.decode = whole.bounds, whole.encode, whole.decode
        self.whole, self.budget = whole, budget

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a genotype; after many in vain the last one drawn, which is not within."""
        return self._first(lambda attempt: self.whole.sample(rng))

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Return a mutation; after many in vain one of several mutations, then as above."""
        parent = genotype

        def draw(attempt: int) -> Genotype:
            nonlocal parent
            child = self.whole.mutate(parent, rng)
            if attempt % 20 == 19:  # a budget can leave no neighbour
                parent = child if attempt % 100 != 99 else genotype
            return child

        return self._first(draw)

    def _first(self, draw: Callable[[int], Genotype]) -> Genotype:
        for attempt in range(ATTEMPTS):
            found = draw(attempt)
            if attempt == ATTEMPTS - 1 or not self.budget.excess(found):
                break
            self.budget.redrawn += 1
        return found
