"""A table of trained architectures in memory, and its queries.

The queries are those of the published code of NAS-Bench-ASR: the validation error is the best or
the last one up to an epoch, the test error is that of the checkpoint with the best validation
error, latencies are by device. Errors are phone (or token) error rates, from 0; the published names
``val_acc`` and ``test_acc`` are kept although they return errors.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from nas_encoder.errors import DataError
from nas_encoder.spaces import get_space
from nas_encoder.tabular.contents import Architecture, Contents, Training, model_hash

MEAN = "mean"
AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    MEAN: statistics.fmean,
    "median": statistics.median,
    "min": min,
    "max": max,
}


class Table(Contents):
    """Trained architectures with their errors, latencies and sizes, and the published queries."""

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
        self,
        architecture: Architecture,
        devices: str | Sequence[str] | None = None,
        return_dict: bool = False,
    ) -> Any:
        """Return the latencies on some devices (None: all), in seconds.

        Returns:
            A row ``[seconds]`` for each device, or ``{device: {"latency": seconds}}``; None if the
            table lacks one of them.

        Raises:
            DataError: There are no latencies, or none of a device.
        """
        rows = self._latencies(model_hash(architecture), devices)
        if None in rows.values():
            return None
        if return_dict:
            return {name: {"latency": value} for name, value in rows.items() if value is not None}
        return [[value] for value in rows.values() if value is not None]

    def latencies_of(self, architecture: Architecture) -> dict[str, float] | None:
        """Return the seconds on each device that has the architecture; None if no one has."""
        key = model_hash(architecture)
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
        """Return the number of parameters; None if the table lacks the architecture.

        Raises:
            DataError: The table has no numbers of parameters.
        """
        return self._static_number(architecture, "params")

    def flops(self, architecture: Architecture) -> int | None:
        """Return the number of floating point operations; None if the table lacks it.

        Raises:
            DataError: The table has no such numbers. Ours have ``macs`` in :meth:`info`, and the
                published files have them from version 2 on.
        """
        return self._static_number(architecture, "flops")

    def full_info(
        self,
        architecture: Architecture,
        seed: int | None = None,
        devices: str | Sequence[str] | bool | None = None,
        include_static_info: bool | None = None,
        return_dict: bool = True,
        target: int | None = None,
    ) -> Any:
        """Return everything about one training of an architecture.

        Args:
            architecture: See :func:`model_hash`.
            seed: Seed of the training; None for a random one.
            devices: Devices whose latencies to add; None for all that there are, False for none.
            include_static_info: Whether to add what is known without training. As in the published
                code (not in its documentation), None stands for no.
            return_dict: False for the values alone, in a list.
            target: As in :meth:`val_acc`.

        Returns:
            The values of :attr:`columns` by name (the hash after the others), ``seed``,
            ``{"latency": seconds}`` under the name of each device, and ``info``. As a list: the
            values in the order of :attr:`columns`, the seed, a list for each device, a list of
            static values. None if the table lacks the architecture.

        Raises:
            DataError: There is no such seed, target, device or information.
        """
        key = model_hash(architecture)
        return self._full(key, seed, devices, include_static_info, return_dict, target)

    def full_info_by_graph(
        self,
        graph: Any,
        seed: int | None = None,
        devices: str | Sequence[str] | bool | None = None,
        include_static_info: bool | None = None,
        return_dict: bool = True,
        target: int | None = None,
    ) -> Any:
        """Return what :meth:`full_info` does, of a graph (adjacency matrix, labels of vertices).

        The published ``get_model_graph`` makes such graphs; the pair that it returns will do too.

        Raises:
            DataError: It is no such graph, or as for :meth:`full_info`.
        """
        key_of_graph = getattr(get_space(self.space), "key_of_graph", None)
        if key_of_graph is None:
            raise DataError("table", [f"graph: the space '{self.space}' has no published graphs"])
        key = key_of_graph(graph)
        return self._full(key, seed, devices, include_static_info, return_dict, target)

    def ranking(
        self, seed: int | str = MEAN, target: int | None = None
    ) -> Iterator[tuple[str, float]]:
        """Yield (key, validation error), the lowest error first."""
        scored = {key: self.val_acc(key, seed=seed, target=target) for key in self.hashes()}
        known = [(key, error) for key, error in scored.items() if error is not None]
        yield from sorted(known, key=lambda pair: (pair[1], pair[0]))

    # -- parts --------------------------------------------------------------------------------

    def _static_number(self, architecture: Architecture, name: str) -> int | None:
        found = self.info(architecture)
        if found is not None and name not in found:
            known = ", ".join(found)
            raise DataError("table", [f"{name}: is not recorded; known without training: {known}"])
        return None if found is None else int(found[name])

    def _latencies(self, key: str, devices: str | Sequence[str] | None) -> dict[str, float | None]:
        if not self.latencies:
            raise DataError("table", ["no latencies are recorded"])
        names = [devices] if isinstance(devices, str) else devices
        unknown = [name for name in names or () if name not in self.latencies]
        if unknown:
            known = ", ".join(self.latencies)
            raise DataError(
                "table", [f"device: no '{name}' here; known: {known}" for name in unknown]
            )
        return {name: self.latencies[name].get(key) for name in names or self.latencies}

    def _full(
        self,
        key: str,
        seed: int | None,
        devices: str | Sequence[str] | bool | None,
        include_static_info: bool | None,
        return_dict: bool,
        target: int | None,
    ) -> Any:
        found = self._found(key, target)
        if not found:
            return None
        chosen = self._seed(found, seed)
        training = found[chosen]
        values = {"val_per": list(training.val), "test_per": training.test, **training.more}
        latencies: dict[str, float | None] = {}
        if not isinstance(devices, bool) and (devices is not None or self.latencies):
            latencies = self._latencies(key, devices)
        if include_static_info and not self.static:
            raise DataError("table", ["no static information is recorded"])
        static = self.static.get(key, {}) if include_static_info else None
        if return_dict:
            rows = {name: {"latency": value} for name, value in latencies.items()}
            info = {} if static is None else {"info": dict(static)}
            return {**values, "model_hash": key, "seed": chosen, **rows, **info}
        lists = [] if static is None else [list(static.values())]
        return [key, *values.values(), chosen, *([value] for value in latencies.values()), *lists]

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
