"""The section ``supernet`` of searches by trials, and the part of a space that is searched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nas_encoder.common.fields import Declared, integer, number, option, section
from nas_encoder.common.problems import Problems, is_number, show
from nas_encoder.spaces.base import SearchSpace


@dataclass(frozen=True)
class FinalistsConfig(Declared):
    """Trainings at the end of a search with a supernet, each of a genotype alone, from scratch.

    The genotype with the lowest error then is the result. All other settings of these trainings are
    those of the section ``training``.

    Attributes:
        count: How many genotypes: those with the lowest errors with shared weights.
        epochs: Epochs of each training.
        seconds: Time of each in place of ``epochs``, as ``training.seconds``.
    """

    count: int = option(8, integer(1, 10**4))
    epochs: int | None = option(None, integer(1, 10**5))
    seconds: float | None = option(None, number(0, 1e7, above=True))

    def conflicts(self, found: Problems) -> None:
        """Check that either epochs or the time is given."""
        if (self.epochs is None) == (self.seconds is None):
            found.conflict("epochs", "give either this or 'seconds', and not both", "seconds")


@dataclass(frozen=True)
class SupernetConfig(Declared):
    """One set of weights, trained once for all networks that are searched; scores trials.

    The section ``training`` says how it is trained. A trial takes its slice of the weights.

    Attributes:
        drawn: Networks drawn at random in each training step, besides the biggest and the smallest
            (the sandwich rule, Yu and Huang 2019; n = 2 there).
        distillation: Share of the loss of all but the biggest that is the distance of their
            outputs to the biggest's in the same step (in-place distillation); the rest is CTC.
        recalibration: Batches of training data for the statistics of a trial's batch norms.
        finalists: Trains the best alone in the end, to choose among them; null for none.
    """

    drawn: int = option(2, integer(0, 64))
    distillation: float = option(1.0, number(0, 1))
    recalibration: int = option(8, integer(1, 10**4))
    finalists: FinalistsConfig | None = option(None, section(FinalistsConfig))


def candidates(value: Any, path: str, problems: Problems) -> Mapping[str, tuple[str, ...]] | None:
    """Read the candidates of some kinds of choices; numbers may be written as such."""
    if problems.mapping(value, path, (), value if isinstance(value, Mapping) else ()) is None:
        return None
    found = {}
    for kind, given in value.items():
        listed = given if isinstance(given, (list, tuple)) else [given]
        if problems.sequence(list(listed), f"{path}.{kind}", 1, 10**4) is None:
            continue
        names = [str(name) if is_number(name) else name for name in listed]
        if wrong := [name for name in names if not isinstance(name, str)]:
            problems.add(f"{path}.{kind}", f"must be names of candidates, got {show(wrong[0])}")
        elif len(set(names)) < len(names):
            problems.add(f"{path}.{kind}", "lists a candidate twice")
        else:
            found[str(kind)] = tuple(names)
    return found


def check_candidates(
    choices: Mapping[str, tuple[str, ...]], space: SearchSpace, found: Problems
) -> None:
    """Report kinds and candidates that a space does not have."""
    if not choices:
        return
    whole = [len(kind.operations) for kind in space.kinds.values() for _ in kind.names]
    if whole != space.bounds:
        found.add("", f"must be empty: those of the space '{space.name}' cannot be limited")
        return
    found.mapping(choices, "", (), space.kinds)
    for kind in choices.keys() & space.kinds.keys():
        for place, name in enumerate(choices[kind]):
            found.choice(name, f"{kind}[{place}]", "candidate", space.kinds[kind].operations)
