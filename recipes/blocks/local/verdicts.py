"""What the numbers support: tests of the searched encoders against peers and against chance."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from recipes.blocks.local.encoders import CHANCE, NARROWED, PEER, SEARCHED
from recipes.blocks.local.rows import Row
from tools.results.bootstrap import Interval, paired_difference
from tools.results.matched_pairs import MatchedPairs, matched_pairs
from tools.results.ranks import expected_best, rank_test

LEVEL = 0.05
GOAL = 0.20  # relative reduction of errors against the best peer as shipped


@dataclass(frozen=True)
class Duel:
    """A searched encoder against another one on the same test set, all seeds together.

    Attributes:
        first: The searched encoder.
        second: The other one.
        test: Matched pairs.
        difference: Error rate of the first minus that of the second, with its interval.
    """

    first: Row
    second: Row
    test: MatchedPairs
    difference: Interval

    @classmethod
    def of(cls, first: Row, second: Row, seed: int) -> Duel:
        """Compare two rows; the seed is that of the bootstrap."""
        one, other = first.pooled, second.pooled
        test = matched_pairs(one, other)
        return cls(first, second, test, paired_difference(one, other, seed))

    @property
    def reduction(self) -> float:
        """Relative reduction of the errors by the first; negative if it makes more."""
        other = self.second.pooled.rate
        return 1.0 - self.first.pooled.rate / other if other else 0.0

    @property
    def outcome(self) -> str:
        """``won``, ``lost`` or ``open``."""
        if self.test.p >= LEVEL:
            return "open"
        return "won" if self.test.mean < 0 else "lost"

    def sentence(self) -> str:
        """Say what the test supports, and no more."""
        low, high = 100 * self.difference.low, 100 * self.difference.high
        more = f"{abs(100 * self.reduction):.0f} % {'fewer' if self.reduction >= 0 else 'more'}"
        words = {
            "won": f"{more} errors",
            "lost": f"{more} errors",
            "open": f"no difference shown ({more} errors)",
        }
        return (
            f"{self.first.title} against {self.second.title}: {words[self.outcome]}, "
            f"{100 * self.difference.estimate:+.2f} points [{low:+.2f}, {high:+.2f}], "
            f"matched pairs p {_shown(self.test.p)}; {self.first.ms:.1f} against "
            f"{self.second.ms:.1f} ms."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "first": self.first.name,
            "second": self.second.name,
            "outcome": self.outcome,
            "relative_reduction": self.reduction,
            "test": asdict(self.test),
            "difference": asdict(self.difference),
            "latency_ms": [self.first.ms, self.second.ms],
            "text": self.sentence(),
        }


def _shown(p: float) -> str:
    return f"= {p:.2g}" if p >= 1e-6 else "< 1e-6"


def best(rows: Sequence[Row], role: str) -> Row | None:
    """Return the encoder of a role with the lowest test error."""
    return min((r for r in rows if r.role == role), key=lambda r: r.pooled.rate, default=None)


@dataclass(frozen=True)
class Verdict:
    """One corpus and condition: the first searched encoder of the list against all others.

    The best peer is chosen by its test errors, which favours the peer.
    """

    rows: Sequence[Row]
    seed: int
    name: str  # of the searched encoder

    @property
    def first(self) -> Row:
        """The searched encoder."""
        return next(row for row in self.rows if row.name == self.name)

    def duels(self) -> list[Duel]:
        """Return the comparisons with all others."""
        others = [row for row in self.rows if row.name != self.name]
        return [Duel.of(self.first, row, self.seed) for row in others]

    def against(self, role: str) -> Duel | None:
        """Return the comparison with the best of a role."""
        other = best(self.rows, role)
        return None if other is None else Duel.of(self.first, other, self.seed)

    def allowed_ms(self) -> float | None:
        """Return the latency of the fastest peer that is not shown to be worse than the best."""
        top = best(self.rows, PEER)
        if top is None:
            return None
        equal = [
            row
            for row in self.rows
            if row.role == PEER and (row is top or matched_pairs(row.pooled, top.pooled).p >= LEVEL)
        ]
        return min(row.ms for row in equal)

    def goal(self) -> dict[str, bool] | None:
        """Return which parts of the goal are met; None where there are no peers."""
        shipped, narrowed, allowed = self.against(PEER), self.against(NARROWED), self.allowed_ms()
        if shipped is None or allowed is None:
            return None
        won = shipped.outcome == "won" and shipped.reduction >= GOAL
        found = {"20 % fewer errors than the best peer": won}
        if narrowed is not None:
            found["fewer errors than the best narrowed peer"] = narrowed.outcome == "won"
        return {**found, f"at most {allowed:.1f} ms": self.first.ms <= allowed}


def verdicts(rows: Sequence[Row], seed: int, names: Sequence[str]) -> list[Verdict]:
    """Return a verdict for each searched encoder of a corpus, in the order of the list ``names``.

    The first of them is the one that the goal is about: which one makes the fewest errors on the
    test data must not decide that.
    """
    searched = sorted((r.name for r in rows if r.role == SEARCHED), key=list(names).index)
    return [Verdict(rows, seed, name) for name in searched]


def chance(rows: Sequence[Row], affordable: int) -> list[dict[str, Any]]:
    """Compare what searches found with random points, all trained alike.

    Args:
        rows: Of :meth:`~recipes.blocks.local.rows.Reader.untuned`: what searches found, with
            several seeds, and random points (``draw-...``) with one each.
        affordable: Random points that can be trained in the time of a search and a training.
    """
    draws = [error for row in rows if row.name.startswith("draw-") for error in row.errors]
    found = []
    for row in rows:
        if row.name.startswith("draw-") or not draws:
            continue
        mean = statistics.fmean(row.errors)
        found.append(
            {
                "name": row.name,
                "title": row.title,
                "searched": row.role != CHANCE,
                "errors": row.errors,
                "mean": mean,
                "draws": draws,
                "draws_mean": statistics.fmean(draws),
                "draws_best": min(draws),
                "better_than": sum(mean < error for error in draws),
                "affordable": min(affordable, len(draws)),
                "best_of_affordable": expected_best(draws, affordable),
                **rank_test(row.errors, draws),
            }
        )
    return found


def chance_sentence(found: dict[str, Any]) -> str:
    """Say what a row of :func:`chance` supports at the 5 % level."""
    count = len(found["draws"])
    place = f"its mean of {found['mean']:.2f} % is below {found['better_than']} of {count}"
    if found["p"] >= LEVEL:
        said = "no difference from random points shown"
    else:
        said = f"{'better' if found['lower'] > 0.5 else 'worse'} than random points"
    return (
        f"{found['title']}: {said} (rank test p = {found['p']:.3f}, {found['smallest_p']:.3f} at "
        f"best with {len(found['errors'])} trainings); {place} random points, whose mean is "
        f"{found['draws_mean']:.2f} % and whose best is {found['draws_best']:.2f} %; the best of "
        f"{found['affordable']}, which cost as much as a search and a training, has "
        f"{found['best_of_affordable']:.2f} % on average, chosen by the test data themselves."
    )
