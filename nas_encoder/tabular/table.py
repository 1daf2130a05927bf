"""A table of trained architectures in memory, and its queries.

The queries are those of the published code of NAS-Bench-ASR: the validation error is the best or
the last one up to an epoch, the test error is that of the checkpoint with the best validation
error, latencies are by device. Errors are phone (or token) error rates, from 0; the published names
``val_acc`` and ``test_acc`` are kept although they return errors.
"""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from nas_encoder.errors import DataError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces import get_space

Architecture = Genotype | Sequence[Sequence[int]] | str
MEAN = "mean"
AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    MEAN: statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


def model_hash(architecture: Architecture, space: str = "nasbench_asr") -> str:
    """Return the key of an architecture in a table.

    Args:
        architecture: A genotype; a vector of ``space``, as published (``[[1, 0], [1, 0, 0],
            [1, 0, 0, 0]]``); or the key itself. Genotypes of ``nasbench_asr`` have the published
            hash, those of other spaces their own.
        space: Space of a vector.
    """
    if isinstance(architecture, str):
        return architecture
    if isinstance(architecture, Genotype):
        return get_space(architecture.space).key(architecture)
    try:
        return _key_of_vector(space, tuple(map(tuple, architecture)))
    except TypeError:  # no list of lists of numbers: the space says what is wrong with it
        get_space(space).from_vector(architecture)
        raise


@lru_cache(maxsize=16384)  # a search by trials asks for the same ones again and again
def _key_of_vector(name: str, vector: tuple[tuple[int, ...], ...]) -> str:
    space = get_space(name)
    return space.key(space.from_vector(vector))


@dataclass(frozen=True)
class Training:
    """One training of one architecture."""

    val: tuple[float, ...]  # validation error after each epoch
    test: float  # of the checkpoint with the best validation error
    more: Mapping[str, Any] = field(default_factory=dict)  # such as seconds and commit


class Table:
    """Trained architectures with their errors, latencies and sizes.

    Args:
        space: Name of the search space.
        trainings: By target number of epochs and seed, then by key.
        latencies: Seconds of one batch, by device, then by key.
        static: ``params``, ``macs``, ``flops`` ... by key.
        genotypes: Documents by key; the published files have none.
        about: Origin of the numbers.
        rng: Draws a seed for queries without one.
    """

    def __init__(
        self,
        space: str,
        trainings: Mapping[tuple[int, int], Mapping[str, Training]],
        latencies: Mapping[str, Mapping[str, float]] | None = None,
        static: Mapping[str, Mapping[str, Any]] | None = None,
        genotypes: Mapping[str, Mapping[str, Any]] | None = None,
        about: Mapping[str, Any] | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.space = space
        self.trainings = {key: dict(trainings[key]) for key in sorted(trainings)}
        self.latencies = {device: dict(rows) for device, rows in (latencies or {}).items()}
        self.static = {key: dict(row) for key, row in (static or {}).items()}
        self.genotypes = dict(genotypes or {})
        self.about = dict(about or {})
        self.rng = rng or random.Random(0)
        self._seeds: dict[int, list[int]] = {}
        for epochs, seed in self.trainings:
            self._seeds.setdefault(epochs, []).append(seed)

    # -- what there is ------------------------------------------------------------------------

    @property
    def targets(self) -> list[int]:
        """Target numbers of epochs, ascending."""
        return list(self._seeds)

    @property
    def devices(self) -> list[str]:
        """Devices with latencies."""
        return list(self.latencies)

    def seeds(self, target: int | None = None) -> list[int]:
        """Return the seeds of a number of target epochs (default: the largest)."""
        return list(self._seeds.get(self._target(target), []))

    def hashes(self) -> list[str]:
        """Return the keys of all trained architectures."""
        return list(dict.fromkeys(key for rows in self.trainings.values() for key in rows))

    def __len__(self) -> int:
        return len(self.hashes())

    def __contains__(self, architecture: object) -> bool:
        key = model_hash(architecture)  # type: ignore[arg-type]
        return any(key in rows for rows in self.trainings.values())

    def genotype(self, architecture: Architecture) -> Genotype:
        """Return the genotype of a key.

        Raises:
            DataError: The table has no document of it.
        """
        key = model_hash(architecture)
        if key not in self.genotypes:
            raise DataError("table", [f"no genotype of {key} is recorded"])
        return Genotype.from_dict(self.genotypes[key], key)

    # -- questions ----------------------------------------------------------------------------

    def val_acc(
        self,
        architecture: Architecture,
        epoch: int | None = None,
        best: bool = True,
        seed: int | str | None = None,
        target: int | None = None,
    ) -> float | None:
        """Return a validation error.

        Args:
            architecture: See :func:`model_hash`.
            epoch: Last epoch that counts, from 1; None for all.
            best: True for the lowest error up to that epoch, False for that epoch's.
            seed: Seed of the training; ``mean``, ``median``, ``min`` or ``max`` over all seeds;
                None for a random one, as in the published code.
            target: Target epochs of the training; None for the largest.

        Returns:
            The error; None if the table lacks the architecture.

        Raises:
            DataError: There is no such seed, target or epoch.
        """

        def value(training: Training) -> float:
            vals = training.val
            last = len(vals) if epoch is None else epoch
            if not 1 <= last <= len(vals):
                raise DataError("table", [f"epoch: must be in 1..{len(vals)}, got {last}"])
            return min(vals[:last]) if best else vals[last - 1]

        return self._over_seeds(model_hash(architecture), seed, target, value)

    def test_acc(
        self, architecture: Architecture, seed: int | str | None = None, target: int | None = None
    ) -> float | None:
        """Return the test error; arguments, result and errors as :meth:`val_acc`."""
        return self._over_seeds(model_hash(architecture), seed, target, lambda found: found.test)

    def latency(
        self, architecture: Architecture, device: str | None = None
    ) -> dict[str, float] | float | None:
        """Return the latency in seconds on a device, or by device if None is given.

        Returns:
            The latency; None if the table lacks the architecture.

        Raises:
            DataError: There are no latencies, or none of that device.
        """
        key = model_hash(architecture)
        if not self.latencies:
            raise DataError("table", ["no latencies are recorded"])
        if device is not None:
            if device not in self.latencies:
                known = ", ".join(self.latencies)
                raise DataError("table", [f"device: no '{device}' here; known: {known}"])
            return self.latencies[device].get(key)
        found = {name: rows[key] for name, rows in self.latencies.items() if key in rows}
        return found or None

    def info(self, architecture: Architecture) -> dict[str, Any] | None:
        """Return what is known without training, such as ``params``.

        Raises:
            DataError: The table has no such information of any architecture.
        """
        if not self.static:
            raise DataError("table", ["no static information is recorded"])
        found = self.static.get(model_hash(architecture))
        return None if found is None else dict(found)

    def params(self, architecture: Architecture) -> int | None:
        """Return the number of parameters; None if the table lacks it."""
        found = self.info(architecture)
        return None if found is None else int(found["params"])

    def full_info(
        self, architecture: Architecture, seed: int | None = None, target: int | None = None
    ) -> dict[str, Any] | None:
        """Return everything about one training of an architecture in one dict.

        Args:
            architecture: See :func:`model_hash`.
            seed: Seed of the training; None for a random one.
            target: As in :meth:`val_acc`.

        Returns:
            ``model_hash``, ``seed``, ``target_epochs``, ``val_per``, ``test_per``, ``latency`` by
            device and ``info`` where known, and the other recorded values; None if the table lacks
            the architecture.
        """
        key = model_hash(architecture)
        found = self._found(key, target)
        if not found:
            return None
        chosen = self._seed(found, seed)
        training = found[chosen]
        result: dict[str, Any] = {
            "model_hash": key,
            "seed": chosen,
            "target_epochs": self._target(target),
            "val_per": list(training.val),
            "test_per": training.test,
            **training.more,
        }
        latency = {name: rows[key] for name, rows in self.latencies.items() if key in rows}
        if latency:
            result["latency"] = latency
        if key in self.static:
            result["info"] = dict(self.static[key])
        return result

    def ranking(
        self, seed: int | str = MEAN, target: int | None = None
    ) -> Iterator[tuple[str, float]]:
        """Yield (key, validation error), the lowest error first."""
        scored = {key: self.val_acc(key, seed=seed, target=target) for key in self.hashes()}
        known = [(key, error) for key, error in scored.items() if error is not None]
        yield from sorted(known, key=lambda pair: (pair[1], pair[0]))

    # -- parts --------------------------------------------------------------------------------

    def _target(self, target: int | None) -> int:
        if target is None:
            return max(self._seeds, default=0)
        if target not in self._seeds:
            raise DataError("table", [f"target: must be one of {self.targets}, got {target}"])
        return target

    def _found(self, key: str, target: int | None) -> dict[int, Training]:
        epochs = self._target(target)
        return {
            seed: self.trainings[epochs, seed][key]
            for seed in self._seeds.get(epochs, ())
            if key in self.trainings[epochs, seed]
        }

    def _seed(self, found: Mapping[int, Training], seed: int | None) -> int:
        if seed is None:
            return self.rng.choice(list(found))
        if seed not in found:
            raise DataError("table", [f"seed: must be one of {list(found)}, got {seed}"])
        return seed

    def _over_seeds(
        self,
        key: str,
        seed: int | str | None,
        target: int | None,
        value: Callable[[Training], float],
    ) -> float | None:
        found = self._found(key, target)
        if not found:
            return None
        if isinstance(seed, str):
            if seed not in AGGREGATES:
                known = ", ".join(AGGREGATES)
                raise DataError("table", [f"seed: a number or one of {known}, got '{seed}'"])
            return AGGREGATES[seed]([value(training) for training in found.values()])
        return value(found[self._seed(found, seed)])
