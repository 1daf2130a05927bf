"""What a trial is worth: by training, or by a table. Nothing here knows of studies."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.search.tabular import Table, load_table, model_hash
from nas_encoder.search.trial_names import ERROR
from nas_encoder.search.trials.config import TrialsConfig
from nas_encoder.spaces import SearchSpace, get_space

logger = logging.getLogger(__name__)


class Evaluator(Protocol):
    """Finds out how good an architecture is.

    Attributes:
        epochs: Of a whole evaluation.
    """

    epochs: int

    def identity(self) -> dict[str, Any]:
        """Return what must be the same in all workers of a study, in plain types."""

    def nearest(self, genotype: Genotype) -> Genotype:
        """Return what is evaluated in the place of a genotype; where possible, itself."""

    def errors(self, genotype: Genotype) -> Iterator[float]:
        """Yield, after each epoch, the lowest error so far in %."""

    def costs(self, genotype: Genotype) -> dict[str, float]:
        """Return the costs that are objectives, or known without effort."""


class TableEvaluator:
    """Looks errors up.

    A table may hold a part of its space only. Then each genotype stands for the member of the
    table that differs from it in the fewest choices.

    Args:
        config: Its space and its table.
        seed: Of the search; chooses the trainings that are looked up.
        table: Instead of reading the one that is named.

    Raises:
        ConfigError: The table is of another space, or does not know what is an objective.
        DataError: It cannot be read.
    """

    def __init__(self, config: TrialsConfig, seed: int, table: Table | None = None) -> None:
        lookup = config.table
        assert lookup is not None
        self.table = load_table(lookup.source) if table is None else table
        self.space: SearchSpace = get_space(config.space)
        self.target, self.device = lookup.target, lookup.device
        problems = self._problems(config)
        if problems:
            raise ConfigError(f"table {lookup.source}", problems)
        seeds = self.table.seeds(self.target)
        self.seed = lookup.seed if lookup.seed is not None else seeds[seed % len(seeds)]
        rows = self.table.trainings[self._target, self.seed]
        recorded = min(len(training.val) for training in rows.values())
        self.epochs = min(recorded, config.training.epochs or recorded)
        self.keys = set(rows)
        self._members: list[tuple[list[int], Genotype]] | None = None
        self._nearest: dict[tuple[int, ...], Genotype] = {}

    @property
    def _target(self) -> int:
        return max(self.table.targets) if self.target is None else self.target

    def _problems(self, config: TrialsConfig) -> list[str]:
        table, problems = self.table, []
        if table.space != config.space:
            return [f"is of the space '{table.space}', the search of '{config.space}'"]
        if self.target is not None and self.target not in table.targets:
            problems.append(f"table.target: must be one of {table.targets}, got {self.target}")
        elif not table.targets:
            problems.append("holds no trainings")
        else:
            assert config.table is not None
            seed, seeds = config.table.seed, table.seeds(self.target)
            if seed is not None and seed not in seeds:
                problems.append(f"table.seed: must be one of {seeds}, got {seed}")
        if "latency_ms" in config.objectives:
            if self.device is None and len(table.devices) == 1:
                self.device = table.devices[0]
            elif self.device not in table.devices:
                problems.append(
                    f"table.device: must be one of {table.devices}, got {self.device!r}"
                )
        for name, column in _STATIC.items():
            if name in config.objectives and not all(column in r for r in table.static.values()):
                problems.append(f"objectives: it does not know '{name}' of every architecture")
            elif name in config.objectives and not table.static:
                problems.append(f"objectives: it does not know '{name}'")
        return problems

    def identity(self) -> dict[str, Any]:
        """Return the table's size, epochs and seed."""
        return {"table": {"keys": len(self.keys), "epochs": self.epochs, "seed": self.seed}}

    def members(self) -> list[tuple[list[int], Genotype]]:
        """Return the vectors and genotypes of all architectures in the table, in a fixed order."""
        if self._members is None:
            known = {key: self.table.genotypes.get(key) for key in sorted(self.keys)}
            if all(document is not None for document in known.values()):
                found = [Genotype.from_dict(document, key) for key, document in known.items()]
            elif hasattr(self.space, "enumerate"):
                # The published files hold hashes alone.
                found = [g for g in self.space.enumerate() if model_hash(g) in self.keys]
            else:
                raise ConfigError("table", ["holds no genotypes, and its space cannot be listed"])
            self._members = [(self.space.encode(genotype), genotype) for genotype in found]
            logger.info("%d architectures in the table of '%s'", len(found), self.space.name)
        return self._members

    def nearest(self, genotype: Genotype) -> Genotype:
        """Return the genotype where the table has it, else its nearest member."""
        if model_hash(genotype) in self.keys:
            return genotype
        vector = tuple(self.space.encode(genotype))
        if vector not in self._nearest:
            self._nearest[vector] = min(
                self.members(),
                key=lambda member: sum(a != b for a, b in zip(member[0], vector, strict=True)),
            )[1]
        return self._nearest[vector]

    def errors(self, genotype: Genotype) -> Iterator[float]:
        """Yield the lowest validation error up to each epoch, in %."""
        training = self.table.trainings[self._target, self.seed][model_hash(genotype)]
        best = float("inf")
        for error in training.val[: self.epochs]:
            best = min(best, 100.0 * error)
            yield best

    def costs(self, genotype: Genotype) -> dict[str, float]:
        """Return what the table knows."""
        key = model_hash(genotype)
        static: Mapping[str, Any] = self.table.static.get(key, {})
        found = {name: float(static[col]) for name, col in _STATIC.items() if col in static}
        latency = self.table.latencies.get(self.device or "", {})
        if key in latency:
            found["latency_ms"] = 1000.0 * latency[key]
        return found


_STATIC = {"parameters": "params", "macs": "macs"}


def values_of(config: TrialsConfig, error: float, costs: Mapping[str, float]) -> list[float]:
    """Return the objectives' values in their order."""
    return [error if name == ERROR else costs[name] for name in config.objectives]
