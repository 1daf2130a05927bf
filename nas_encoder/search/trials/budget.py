"""Budgets of trials: genotypes outside are not trained."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Mapping, Sequence

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.budgets import COUNTED, KNOWN, TrialBudgets, readable
from nas_encoder.search.strategies import ERROR
from nas_encoder.search.trials.members import TrialSpace

ATTEMPTS = 200  # mutations for one trial
MOST = 1000  # refused genotypes in a row, after which the search gives up
_DRAWS = 20  # before mutations lead to a genotype within
_STEPS = 3  # of the walk within, for each choice of the space
_FAR = 1e3
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
        limited, weight = self.limits.limited, 1
        found = self.known_excess(genotype)
        if not found and set(limited) - set(KNOWN):
            weight = _MEASURED
            found = self.limits.excess(self._costs(genotype, limited))
        costs = self._costs(genotype, list(found))  # known by now
        self.refused = self.refused + weight if found else 0
        for name, own in found.items():
            best = self._seen.get(name)
            if best is None or own < self.limits.excess({name: best})[name]:
                self._seen[name] = costs[name]
        if not found:
            self._seen.clear()
        return found

    def known_excess(self, genotype: Genotype) -> dict[str, float]:
        """Return the same of what is not measured, without taking note of it.

        What a built network tells only where nothing that is counted refuses the genotype.
        """
        for names in (COUNTED, set(KNOWN) - set(COUNTED)):
            own = [name for name in self.limits.limited if name in names]
            costs = self._costs(genotype, own) if own else {}
            if found := self.limits.excess({name: costs[name] for name in own}):
                return found
        return {}

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


class Affordable:
    """The genotypes of a space within budgets, as a space with its choices."""

    def __init__(self, whole: TrialSpace, budget: Budget) -> None:
        self.bounds, self.encode, self.decode = whole.bounds, whole.encode, whole.decode
        self.whole, self.budget = whole, budget

    def sample(self, rng: random.Random) -> Genotype:
        """Draw a genotype; after many attempts in vain return one that is not within.

        Uniformly, if the budgets leave enough of the space that one of a few draws is within. Else
        mutations that do not increase the excess lead there, and a random walk of mutations that
        stay within leads away from where it entered: where mutations are symmetric and all that is
        within is connected, each genotype would be equally likely after enough of them.
        """
        best, least = None, float("inf")
        for _ in range(_DRAWS):
            found = self.whole.sample(rng)
            excess = self.budget.excess(found)
            if not excess:
                return found
            self.budget.redrawn += 1
            if best is None or _total(excess) < least:
                best, least = found, _total(excess)
        assert best is not None
        for _ in range(ATTEMPTS):
            found = self.whole.mutate(best, rng)
            excess = self.budget.excess(found)
            if not excess:
                return self._walked(found, rng)
            self.budget.redrawn += 1
            if _total(excess) <= least:
                best, least = found, _total(excess)
        return best

    def _walked(self, start: Genotype, rng: random.Random) -> Genotype:
        """Walk from a genotype within; what must be measured is measured only at the end."""
        found = start
        for _ in range(_STEPS * len(self.bounds)):
            child = self.whole.mutate(found, rng)
            if not self.budget.known_excess(child):
                found = child
        return start if self.budget.excess(found) else found

    def mutate(self, genotype: Genotype, rng: random.Random) -> Genotype:
        """Return a mutation; if many are not within, one of several mutations, then any."""
        parent = genotype
        for attempt in range(1, ATTEMPTS + 1):
            found = self.whole.mutate(parent, rng)
            if attempt == ATTEMPTS or not self.budget.excess(found):
                break
            self.budget.redrawn += 1
            if attempt % 20 == 0:  # a budget can leave no neighbour
                parent = genotype if attempt % 100 == 0 else found
        return found

    def require_one(self, seed: int) -> None:
        """Draw until a genotype is within the budgets.

        Raises:
            ConfigError: There was none among many.
        """
        rng = random.Random(seed)
        while self.budget.excess(self.sample(rng)):
            self.budget.require_hope()
        self.budget.redrawn = 0


def _total(excess: Mapping[str, float]) -> float:
    """Return a sum that is less the closer a genotype is to the budgets.

    Excess of what takes longer to determine is known only where nothing else is exceeded.
    """
    if excess.keys() & set(COUNTED):
        return sum(excess.values()) + 2 * _FAR
    return sum(excess.values()) + (_FAR if excess.keys() & set(KNOWN) else 0.0)
