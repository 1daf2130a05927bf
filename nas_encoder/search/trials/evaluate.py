"""Evaluators of trials, by training or by a table; independent of Optuna."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any, Protocol

from nas_encoder.data.fingerprint import Fingerprint
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.search.config.sections import LookupConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials.members import Members, TrialSpace
from nas_encoder.spaces import get_space
from nas_encoder.tabular import Table, load_table, model_hash

logger = logging.getLogger(__name__)


class Evaluator(Protocol):
    """Evaluates architectures.

    Attributes:
        epochs: Errors of a complete evaluation: one after each epoch, or share of the time.
        spent: What the last evaluation took where its time is limited: ``seconds`` of training and
            complete ``epochs``; else empty.
        space: The searched space.
        sets: What the data are; nothing where none are needed.
    """

    epochs: int
    spent: Mapping[str, float]
    space: TrialSpace
    sets: Mapping[str, Fingerprint]

    def identity(self) -> dict[str, Any]:
        """Return what all workers of a study must have in common, in plain types."""

    def prepare(self, folder: RunFolder) -> str:
        """Do what comes before the first trial; return what identifies its result, or nothing."""

    def finish(self, folder: RunFolder, genotype: Genotype) -> None:
        """Write what belongs to the result, if anything."""

    def nearest(self, genotype: Genotype) -> Genotype:
        """Return the genotype to evaluate in place of this one; itself if possible."""

    def errors(self, genotype: Genotype) -> Iterator[float]:
        """Yield the lowest error so far, in %, after each epoch.

        After each share of a time in place of epochs; the last one is then that at the end.
        """

    def costs(self, genotype: Genotype, names: Collection[str] = ()) -> dict[str, float]:
        """Return the costs that are cheap to determine, and the quantities ``names``."""

    def resource(self, scores: int) -> int:
        """Return what pruning counts of a trial that has so many errors."""


class Unprepared:
    """Scores of single genotypes, which need no preparation."""

    def prepare(self, folder: RunFolder) -> str:
        """Return nothing: there is none."""
        return ""

    def finish(self, folder: RunFolder, genotype: Genotype) -> None:
        """Write nothing: the genotype is all."""

    def resource(self, scores: int) -> int:
        """Return the number of errors: one for each epoch."""
        return scores


class TableEvaluator(Unprepared):
    """Looks errors up in a table.

    If the table covers only part of its space, that part is searched: its members are drawn and
    mutated, and any other genotype is replaced by the nearest member.

    Args:
        lookup: Names the table and its trainings.
        space: The searched space.
        costs: The costs that the table must provide.
        epochs: Epochs of an evaluation, if not all trained ones count.
        seed: Seed of the search; selects the trainings.
        table: The table, if it is not to be read.

    Raises:
        ConfigError: The table is of another space, or lacks a cost.
        DataError: The table cannot be read.
    """

    def __init__(
        self,
        lookup: LookupConfig,
        space: str,
        costs: Sequence[str],
        epochs: int | None,
        seed: int,
        table: Table | None = None,
    ) -> None:
        self.table = load_table(lookup.source) if table is None else table
        self.sets: Mapping[str, Fingerprint] = {}
        self.spent: Mapping[str, float] = {}
        whole = get_space(space)
        self.space: TrialSpace = whole
        self.target, self.device = lookup.target, lookup.device
        problems = self._problems(lookup, space, costs)
        if problems:
            raise ConfigError(f"table {lookup.source}", problems)
        seeds = self.table.seeds_of(self.target)
        self.seed = lookup.seed if lookup.seed is not None else seeds[seed % len(seeds)]
        rows = self.table.trainings[self._target, self.seed]
        recorded = min(len(training.val) for training in rows.values())
        self.epochs = min(recorded, epochs or recorded)
        self.keys = set(rows)
        if len(self.keys) < whole.unique_size:
            self.space = Members(whole, self._members(whole))
            logger.info("%d of the architectures of '%s'", len(self.keys), whole.name)

    @property
    def _target(self) -> int:
        return max(self.table.targets) if self.target is None else self.target

    def _problems(self, lookup: LookupConfig, space: str, costs: Sequence[str]) -> list[str]:
        table, problems = self.table, []
        if table.space != space:
            return [f"is of the space '{table.space}', the search of '{space}'"]
        if self.target is not None and self.target not in table.targets:
            problems.append(f"table.target: must be one of {table.targets}, got {self.target}")
        elif not table.targets:
            problems.append("holds no trainings")
        else:
            seed, seeds = lookup.seed, table.seeds_of(self.target)
            if seed is not None and seed not in seeds:
                problems.append(f"table.seed: must be one of {seeds}, got {seed}")
        if "latency_ms" in costs:
            if self.device is None and len(table.devices) == 1:
                self.device = table.devices[0]
            elif self.device not in table.devices:
                problems.append(
                    f"table.device: must be one of {table.devices}, got {self.device!r}"
                )
        for name in costs:
            column = _STATIC.get(name)
            known = table.static and all(column in row for row in table.static.values())
            if name != "latency_ms" and not known:
                problems.append(f"costs: it does not know '{name}' of every architecture")
        return problems

    def identity(self) -> dict[str, Any]:
        """Return the table's size, epochs and seed, and a digest of its errors."""
        rows = self.table.trainings[self._target, self.seed]
        numbers = json.dumps([(key, rows[key].val) for key in sorted(rows)]).encode()
        size = {"keys": len(self.keys), "epochs": self.epochs, "seed": self.seed}
        return {"table": {**size, "sha256": hashlib.sha256(numbers).hexdigest()}}

    def _members(self, space: TrialSpace) -> list[Genotype]:
        known = {key: self.table.genotypes.get(key) for key in sorted(self.keys)}
        if all(document is not None for document in known.values()):
            return [Genotype.from_dict(document, key) for key, document in known.items()]
        if hasattr(space, "enumerate"):  # the published files hold only hashes
            return [found for found in space.enumerate() if model_hash(found) in self.keys]
        raise ConfigError("table", ["holds no genotypes, and its space cannot be enumerated"])

    def nearest(self, genotype: Genotype) -> Genotype:
        """Return the genotype if the table has it, else its nearest member."""
        if model_hash(genotype) in self.keys:
            return genotype
        assert isinstance(self.space, Members)
        return self.space.nearest(genotype)

    def errors(self, genotype: Genotype) -> Iterator[float]:
        """Yield the lowest validation error up to each epoch, in %."""
        training = self.table.trainings[self._target, self.seed][model_hash(genotype)]
        best = float("inf")
        for error in training.val[: self.epochs]:
            best = min(best, 100.0 * error)
            yield best

    def costs(self, genotype: Genotype, names: Collection[str] = ()) -> dict[str, float]:
        """Return the costs in the table."""
        key = model_hash(genotype)
        static: Mapping[str, Any] = self.table.static.get(key, {})
        found = {name: float(static[col]) for name, col in _STATIC.items() if col in static}
        latency = self.table.latencies.get(self.device or "", {})
        if key in latency:
            found["latency_ms"] = 1000.0 * latency[key]
        return found


_STATIC = {"parameters": "params", "macs": "macs"}
