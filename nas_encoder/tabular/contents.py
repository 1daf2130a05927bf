"""What a table of trained architectures holds, and what it says of itself."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

from nas_encoder.errors import DataError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces import get_space

T = TypeVar("T", bound="Contents")
Architecture = Genotype | Sequence[Sequence[int]] | str


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


class Contents:
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
        self._keys = set(self.hashes())

    # -- what there is ------------------------------------------------------------------------

    @property
    def targets(self) -> list[int]:
        """Target numbers of epochs, ascending."""
        return list(self._seeds)

    @property
    def epochs(self) -> int:
        """The largest target number of epochs."""
        return self._target(None)

    @property
    def devices(self) -> list[str]:
        """Devices with latencies."""
        return list(self.latencies)

    @property
    def seeds(self) -> list[int]:
        """Seeds of the trainings with the largest target; :meth:`seeds_of` has those of another."""
        return self.seeds_of(None)

    def seeds_of(self, target: int | None) -> list[int]:
        """Return the seeds of a number of target epochs (None: the largest)."""
        return list(self._seeds.get(self._target(target), []))

    @property
    def version(self) -> int:
        """Version of the published files, or of this package's tables."""
        return int(self.about.get("version", self.about.get("schema", 1)))

    @property
    def search_space(self) -> list[Any]:
        """Number of options of each choice, nested as in an architecture's vector."""
        return list(self._layout["shape"])

    @property
    def ops(self) -> list[str]:
        """Operations of the space."""
        return list(self._layout["ops"])

    @property
    def nodes(self) -> int:
        """Nodes of a cell.

        Raises:
            DataError: The space has none.
        """
        if "nodes" not in self._layout:
            raise DataError("table", [f"nodes: the space '{self.space}' has no such number"])
        return int(self._layout["nodes"])

    @property
    def columns(self) -> list[str]:
        """Names of the values of a training, as in ``full_info(..., return_dict=False)``."""
        if self.trainings:
            rows = next(iter(self.trainings.values()))
            more = next(iter(rows.values())).more if rows else ()
            return ["model_hash", "val_per", "test_per", *more]
        return ["model_hash", *(["latency"] if self.latencies else self._static_columns)]

    @property
    def bench_info(self: T) -> T | None:
        """The latencies alone; None without any."""
        return self._part(latencies=self.latencies) if self.latencies else None

    @property
    def static_info(self: T) -> T | None:
        """What is known without training, alone; None if nothing is."""
        return self._part(static=self.static) if self.static else None

    def hashes(self) -> list[str]:
        """Return the keys of all trained architectures (of a part: of all it knows)."""
        groups = (self.trainings or self.latencies or {None: self.static}).values()
        return list(dict.fromkeys(key for rows in groups for key in rows))

    def __len__(self) -> int:
        return len(self.hashes())

    def __contains__(self, architecture: object) -> bool:
        return model_hash(architecture) in self._keys  # type: ignore[arg-type]

    def genotype(self, architecture: Architecture) -> Genotype:
        """Return the genotype of a key.

        Raises:
            DataError: The table has no document of it.
        """
        key = model_hash(architecture)
        if key not in self.genotypes:
            raise DataError("table", [f"no genotype of {key} is recorded"])
        return Genotype.from_dict(self.genotypes[key], key)

    # -- parts --------------------------------------------------------------------------------

    @property
    def _layout(self) -> Mapping[str, Any]:
        """Shape, operations and, of cells, nodes: of the published files, or the space's own."""
        return self.about.get("search_space") or get_space(self.space).layout

    @property
    def _static_columns(self) -> list[str]:
        return list(next(iter(self.static.values()), ()))

    def _part(self: T, **values: Any) -> T:
        return type(self)(self.space, {}, about=self.about, **values)

    def _target(self, target: int | None) -> int:
        if target is None:
            return max(self._seeds, default=0)
        if target not in self._seeds:
            raise DataError("table", [f"target: must be one of {self.targets}, got {target}"])
        return target
