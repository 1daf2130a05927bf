"""The lines of ``metrics.jsonl``: epochs of a gradient search, trials of a study.

E edges of a cell, blocks of a chain, or nodes or skips.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from operator import le
from typing import Any, ClassVar, TypeVar

from nas_encoder.common.problems import Problems, show
from nas_encoder.errors import CheckpointError, NasEncoderError
from nas_encoder.search.strategies import COSTS, ERROR

R = TypeVar("R", bound="Record")

_TYPES: dict[str, tuple[type | tuple[type, ...], str]] = {
    "int": (int, "an integer"),
    "float": ((int, float), "a number"),
    "str": (str, "a string"),
    "Mapping": (Mapping, "a mapping"),
    "Sequence": ((list, tuple), "a list"),
}


@dataclass(frozen=True)
class Record:
    """A line of ``metrics.jsonl``; its fields are the line's keys."""

    left_out: ClassVar[tuple[str, ...]] = ()  # fields omitted from a row where None

    @classmethod
    def from_row(cls: type[R], row: object, where: str = "metrics.jsonl") -> R:
        """Read a row; fields with a default may be missing, as in rows of earlier versions.

        Args:
            row: A mapping, as read from JSON.
            where: Source of the row, for the error.

        Raises:
            CheckpointError: A key is missing, unknown or of a wrong type; all are named.
        """
        problems, known = Problems(), {field.name: field for field in fields(cls)}
        optional = [name for name, field in known.items() if field.default is not MISSING]
        required = [name for name in known if name not in optional]
        found = problems.mapping(row, "", required, optional) or {}
        for name in known.keys() & found.keys():
            declared, value = str(known[name].type), found[name]
            kind, words = _TYPES[declared.partition("[")[0].partition(" ")[0]]
            if not isinstance(value, kind) and not (value is None and declared.endswith("None")):
                problems.add(name, f"must be {words}, got {show(value)}")
        if problems:
            raise CheckpointError(where, problems.lines)
        return cls(**found)

    def to_row(self) -> dict[str, Any]:
        """Return the row, in plain types."""
        return {
            name: value
            for name, value in vars(self).items()
            if value is not None or name not in self.left_out
        }


@dataclass(frozen=True)
class Cost:
    """One cost of a network."""

    derived: float  # the network of the genotype
    expected: float  # mean over networks drawn from the probabilities
    budget: float | None = None

    @property
    def exceeded(self) -> bool:
        """Whether the genotype costs more than its budget."""
        return self.budget is not None and self.derived > self.budget


@dataclass(frozen=True, kw_only=True)
class EpochRecord(Record):
    """An epoch of a gradient search; kinds are those of choices: a kind of cell, blocks, nodes."""

    stage: int  # counted from 1, like epochs
    epoch: int  # within the stage
    phase: str = "search"  # or warmup or retrain
    steps: int  # of the weights
    train_loss: float  # mean over the steps, per token
    architecture_loss: float | None  # on the architecture's data; None where it did not move
    penalty: float | None = None  # mean penalty of the budgets in that loss
    valid_loss: float  # per token
    valid_utterance_loss: float | None = None  # mean per utterance
    valid_ter: float  # token error rate in %
    dropout: float  # after regularized operations
    entropy: Mapping[str, float]  # kind -> mean over its edges, in nats
    uniform_entropy: Mapping[str, float]  # of a uniform choice
    seconds: float
    # Kind -> edge -> operation -> probability.
    probabilities: Mapping[str, Sequence[Mapping[str, float]]]
    # Kind -> edge -> probability that its node takes it; None if not learned.
    edges: Mapping[str, Sequence[float]] | None = None
    # Kind -> entropy of the choice of edges, relative to a uniform one.
    edge_entropy: Mapping[str, float] | None = None
    costs: Mapping[str, Cost] | None = None  # by quantity; None if unknown
    genotype: str  # hash of the genotype derived from the probabilities

    left_out: ClassVar[tuple[str, ...]] = ("edges", "edge_entropy", "costs")

    @classmethod
    def from_row(cls, row: object, where: str = "metrics.jsonl") -> EpochRecord:
        """Read a row, including those of earlier versions; see :meth:`Record.from_row`."""
        if isinstance(row, Mapping):
            row = dict(row)
            uniform, kinds = row.get("uniform_entropy"), row.get("entropy")
            if isinstance(uniform, float) and isinstance(kinds, Mapping):
                row["uniform_entropy"] = dict.fromkeys(kinds, uniform)
            if isinstance(row.get("costs"), Mapping):
                try:
                    row["costs"] = {name: Cost(**cost) for name, cost in row["costs"].items()}
                except TypeError as error:
                    raise CheckpointError(where, [f"costs: {error}"]) from None
        return super().from_row(row, where)

    def to_row(self) -> dict[str, Any]:
        """Return the row, in plain types."""
        row = super().to_row()
        for name, cost in (self.costs or {}).items():
            known = {key: value for key, value in vars(cost).items() if value is not None}
            row["costs"] = {**row["costs"], name: known}
        return row

    @property
    def searching(self) -> bool:
        """Whether operations are chosen, rather than weights warmed up or retrained."""
        return self.phase == "search"

    @property
    def place(self) -> tuple[int, int]:
        """Stage and epoch."""
        return self.stage, self.epoch

    def relative_entropy(self, kind: str) -> float | None:
        """Return the entropy relative to a uniform choice; None where there is no choice."""
        uniform = self.uniform_entropy[kind]
        return self.entropy[kind] / uniform if uniform else None

    def taken(self, kind: str) -> Sequence[float]:
        """Return the probability that each edge is taken, (E,); 1 where edges are not learned."""
        return [1.0] * len(self.probabilities[kind]) if self.edges is None else self.edges[kind]

    def shares(self, kind: str, operations: Iterable[str]) -> dict[str, float]:
        """Return each operation's mean probability over edges, weighted by how they are taken."""
        edges, taken = self.probabilities[kind], self.taken(kind)
        return {
            op: sum(t * edge.get(op, 0.0) for t, edge in zip(taken, edges, strict=True))
            / sum(taken)
            for op in operations
        }


@dataclass(frozen=True, kw_only=True)
class TrialRecord(Record):
    """A finished trial."""

    trial: int  # rank in the order of finishing, from 1
    number: int  # Optuna's
    state: str  # complete or pruned
    error: float  # the last of ``errors``, in %
    latency_ms: float | None = None  # of the encoder, like the other costs; None: not measured
    macs: float | None = None
    parameters: float | None = None
    memory_mb: float | None = None
    train_seconds: float | None = None
    infeasible: float | None = None
    lookahead_ms: float | None = None
    epochs: int  # complete ones
    seconds: float  # measuring, training and scoring
    genotype: str  # hash
    vector: Sequence[int]  # choices, as its space encodes them
    objectives: Sequence[str]  # minimized by the search: ``error`` or a cost
    # The lowest error so far after each epoch; or after shares of a time, the last at its end.
    errors: Sequence[float]
    finished: str | None  # ISO 8601
    training_seconds: float | None = None  # of a training whose time is limited
    # Proposals outside the budgets that were not trained before it; None: none.
    refused: int | None = None
    initial: str | None = None  # the name of the given point that it is; None: it is none
    # Of a search with a supernet, ``errors`` of its genotype's own training, and that one's time.
    trained: Sequence[float] | None = None
    trained_seconds: float | None = None

    left_out: ClassVar[tuple[str, ...]] = (
        *COSTS,
        *("training_seconds", "refused", "initial", "trained", "trained_seconds"),
    )

    @property
    def complete(self) -> bool:
        """Whether the training was finished."""
        return self.state == "complete"

    @property
    def final(self) -> float:
        """The error to judge its genotype by: that of its own training, where there was one."""
        return self.trained[-1] if self.trained else self.error

    @property
    def costs(self) -> dict[str, float]:
        """The known costs."""
        found = {name: getattr(self, name) for name in COSTS}
        return {name: value for name, value in found.items() if value is not None}

    def value(self, objective: str) -> float:
        """Return the value of an objective."""
        found: float = getattr(self, objective)
        return found


def front_of(trials: Iterable[TrialRecord]) -> list[TrialRecord]:
    """Return the Pareto front of the complete trials, by ascending error.

    It holds the trials that no other one dominates (nowhere worse and somewhere better); of trials
    with equal values, the first.
    """
    front: list[tuple[tuple[float, ...], TrialRecord]] = []
    candidates = [(tuple(map(t.value, t.objectives)), t) for t in trials if t.complete]
    # In this order only earlier trials can dominate one.
    for values, trial in sorted(candidates, key=lambda candidate: candidate[0]):
        if not any(all(map(le, kept, values)) for kept, _ in front):
            front.append((values, trial))
    return [trial for _, trial in sorted(front, key=lambda member: (member[1].error, member[0]))]


def training_time(trials: Iterable[tuple[str, bool, float]]) -> float:
    """Return the seconds that trials trained together.

    Args:
        trials: Of each the genotype, whether its training was finished, and its seconds. A finished
            one that comes again was not trained again.
    """
    total, known = 0.0, set()
    for genotype, complete, seconds in trials:
        if complete and genotype in known:
            continue
        if complete:
            known.add(genotype)
        total += seconds
    return total


def best_of(trials: Iterable[TrialRecord]) -> TrialRecord:
    """Return the complete trial with the lowest error; on a tie the cheapest, then the first.

    Where genotypes of a supernet were trained alone, one of these.

    Raises:
        NasEncoderError: No trial is complete.
    """
    complete = [trial for trial in trials if trial.complete]
    if not complete:
        raise NasEncoderError("no trial was completed, so there is no genotype")
    return min(
        [trial for trial in complete if trial.trained] or complete,
        key=lambda trial: (
            trial.final,
            *(trial.value(name) for name in trial.objectives if name != ERROR),
            trial.trial,
        ),
    )
