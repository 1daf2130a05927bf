"""How well a search's cheap scores of genotypes rank what these come to in the end.

Whatever a search has of the same genotype twice is compared: errors early in a training and at its
end, errors with shared weights and after a training of their own, sizes and errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from nas_encoder.common.ranks import Tau, kendall
from nas_encoder.search.config.sections import TrainingConfig
from nas_encoder.search.config.supernet import FinalistsConfig
from nas_encoder.search.records import TrialRecord

_ALL = 6  # points of a course up to which all are compared; of a longer one some
_SOME = (0.125, 0.25, 0.5, 0.75)


@dataclass(frozen=True)
class Agreement:
    """A cheap score against final errors.

    Attributes:
        score: What it is; a lower one is better.
        tau: Kendall's tau; None where nothing can be ranked.
        why: The reason for that.
    """

    score: str
    tau: Tau | None
    why: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return everything as plain values."""
        known = {"why": self.why} if self.tau is None else self.tau.to_dict()
        return {"score": self.score, **known}


def course_of(training: TrainingConfig, finalists: FinalistsConfig | None = None) -> list[str]:
    """Return when the errors of a training are from: ``10 s``, or ``2 epochs``."""
    limit = training if finalists is None else finalists
    if limit.seconds is not None:
        return [f"{share * limit.seconds:g} s" for share in training.evaluate_at]
    count = limit.epochs or 0  # of a table, all that it has
    return [_epochs(number) for number in range(1, count + 1)]


def agreements(
    trials: Sequence[TrialRecord], course: Sequence[str], supernet: bool = False
) -> list[Agreement]:
    """Compare all cheap scores of the trials with their final errors; nothing without these.

    A genotype counts once. Trials without a final error, which were pruned or not trained alone, do
    not count.

    Args:
        trials: Finished trials.
        course: What :func:`course_of` returns of the trainings that ended in final errors; of a
            table, it may be empty.
        supernet: Whether errors of the trials are those with shared weights.
    """
    complete = {trial.genotype: trial for trial in reversed(trials) if trial.complete}
    judged = [trial for trial in complete.values() if trial.trained or not supernet]
    length = max((len(trial.trained or trial.errors) for trial in judged), default=0)
    judged = [trial for trial in judged if len(trial.trained or trial.errors) == length]
    courses = [trial.trained or trial.errors for trial in judged]
    finals, found = [own[-1] for own in courses], []
    if not judged:
        return []
    if supernet:
        errors = [trial.error for trial in judged]
        found.append(_compare("error with shared weights", errors, finals))
    for place in _places(length):
        name = course[place] if place < len(course) else _epochs(place + 1)
        found.append(_compare(f"error after {name}", [own[place] for own in courses], finals))
    for name, title in (("parameters", "parameters"), ("macs", "multiply-adds")):
        sizes = [getattr(trial, name) for trial in judged]
        if all(size is not None for size in sizes):
            found.append(_compare(f"more {title}", [-size for size in sizes], finals))
    return found


def why_none(trials: Sequence[TrialRecord]) -> str:
    """Return why :func:`agreements` is empty."""
    if not any(trial.complete for trial in trials):
        return "no trial is complete"
    return (
        "no genotype was trained alone: 'supernet.finalists' trains the best of the supernet and "
        "shows how well its scores rank them"
    )


def _compare(score: str, cheap: Sequence[float], finals: Sequence[float]) -> Agreement:
    tau = kendall(cheap, finals)
    if tau is not None:
        return Agreement(score, tau)
    if len(finals) < 2:
        return Agreement(score, None, "fewer than two genotypes have both")
    alike = "scores" if len(set(cheap)) == 1 else "final errors"
    return Agreement(score, None, f"the {alike} of all {len(finals)} genotypes are the same")


def _epochs(number: int) -> str:
    return f"{number} epoch" + ("s" if number > 1 else "")


def _places(length: int) -> Iterator[int]:
    """Yield which errors of a course are compared with its last."""
    if length <= _ALL:
        yield from range(length - 1)
    else:
        yield from dict.fromkeys(max(0, round(share * length) - 1) for share in _SOME)
