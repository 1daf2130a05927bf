"""Costs of block encoders, as sums over pieces: counted, or measured and read from a table."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces.blocks.architecture import BlockArchitecture
from nas_encoder.spaces.blocks.choices import SLOTS
from nas_encoder.spaces.blocks.config import BlocksConfig
from nas_encoder.spaces.blocks.parts import Parallel
from nas_encoder.spaces.blocks.pieces import BlockLatencies as LatencyTable
from nas_encoder.spaces.blocks.pieces import BlockPieces, Piece
from nas_encoder.spaces.blocks.space import BlockSpace

_UNKNOWN = 1e12  # of a piece that is not measured, while the cheapest encoder is looked for


class BlockCosts:
    """The costs of encoders for an utterance of T ``frames``.

    Args:
        space: The space of blocks.
        config: Options of the encoders.
        frames: T.
        table: A file of latencies; None for none.

    Raises:
        ConfigError: The table is not of these encoders.
    """

    def __init__(
        self, space: BlockSpace, config: BlocksConfig, frames: int, table: str | None = None
    ) -> None:
        self.space, self.config, self.frames = space, config, frames
        self.quantities = ["parameters", "macs"]
        self._pieces = BlockPieces(config, frames, space)
        self._costs: dict[Piece, dict[str, float]] = {}
        self._path, self._table = table, None
        if table is not None:
            self._table = LatencyTable.load(table)
            self._table.require(self._pieces, (), f"objective.table {table}", self._command())
            self.quantities.append("latency_ms")

    def of(self, architecture: BlockArchitecture) -> dict[str, float]:
        """Return the costs of an architecture's network, by quantity.

        Raises:
            ConfigError: Pieces of it are not in the table of latencies.
        """
        found = self._counted(architecture)
        if self._table is not None:
            found["latency_ms"] = self._latency(architecture, self._table)
        return found

    def cheapest(self, name: str) -> float:
        """Return the cost of the cheapest network of the space; of latencies, of those measured.

        It has one block a stage and one module a block; all else is chosen one after the other,
        the stages' widths and modules alike.

        Raises:
            ConfigError: Of no network all pieces are in the table.
        """
        slots = [slot for slot in SLOTS if slot != "mixing"]
        chosen = {kind: 0 for kind in self.space.kinds}
        chosen |= {slot: self.space.table[slot].index(None) for slot in slots}
        least = 0.0
        for kind in ("width", "mixing", "schedule", "front end", "norms"):
            costs = [
                self._simple({**chosen, kind: place}, name)
                for place in range(len(self.space.table[kind]))
            ]
            least = min(costs)
            chosen[kind] = costs.index(least)
        if least >= _UNKNOWN:
            rule = "of no network of the space all pieces are measured"
            raise ConfigError(f"objective.table {self._path}", [rule, self._remedy()])
        return least

    def _simple(self, chosen: Mapping[str, int], name: str) -> float:
        """Return the cost of the network with equal choices in all stages."""
        vector = [chosen[kind] for kind, own in self.space.kinds.items() for _ in own.names]
        architecture = self.space.architecture_of(vector)
        if name != "latency_ms":
            return self._counted(architecture)[name]
        assert self._table is not None
        pieces = self._pieces.pieces_of(architecture)
        known = [piece for piece in pieces if piece in self._table.milliseconds]
        return self._table.predict(known) + _UNKNOWN * (len(pieces) - len(known))

    def _counted(self, architecture: BlockArchitecture) -> dict[str, float]:
        """Return the sums over pieces, which are counted once each."""
        total = {"parameters": 0.0, "macs": 0.0}
        for piece in self._pieces.pieces_of(architecture, exact=True):
            if piece not in self._costs:
                self._costs[piece] = self._pieces.count(piece)
            for name in total:
                total[name] += self._costs[piece][name]
        found = architecture.scaled(self.config.channels, self.config.layers)
        for stage in found.blocks():
            if stage.norm == "after":  # one norm, not one for each branch
                both = sum(isinstance(module, Parallel) for module in stage.modules)
                total["parameters"] -= 2 * stage.width * both
        if self.config.conditioning:
            last = found.stages[-1].width
            total["parameters"] += last * (1 + (self.config.output_size or last))
        return total

    def _latency(self, architecture: BlockArchitecture, table: LatencyTable) -> float:
        pieces = self._pieces.pieces_of(architecture)
        if missing := [piece for piece in dict.fromkeys(pieces) if piece not in table.milliseconds]:
            rule = f"{len(missing)} pieces of a network are not measured, for example {missing[0]}"
            raise ConfigError(f"objective.table {self._path}", [rule, self._remedy()])
        return table.predict(pieces)

    def _remedy(self) -> str:
        return (
            f"measure all of the space with: {self._command()}; --widths, --rates, --modules and "
            "--fronts measure a part of it, --also GENOTYPE what is not made of its choices; what "
            "the file holds already is kept"
        )

    def _command(self) -> str:
        words: list[Any] = ["nas-encoder", "bench", "--operations", "--space", self.space.name]
        words += ["--input-size", self.config.input_size, "--frames", self.frames]
        if self.config.output_size is not None:
            words += ["--output-size", self.config.output_size]
        words += ["--checks", 12]
        return shlex.join(map(str, [*words, "--output", self._path or "latency.yaml"]))


def build(space: BlockSpace, options: BlocksConfig, frames: int) -> BlockCosts:
    """Return the costs of networks of these options."""
    return BlockCosts(space, options, frames)


def build_with_latency(
    space: BlockSpace, options: BlocksConfig, frames: int, table: str | None
) -> BlockCosts:
    """Return the same with latencies.

    Raises:
        ConfigError: There is no table, or it is not of these networks.
    """
    if table is None:
        command = BlockCosts(space, options, frames)._command()
        rule = f"needs objective.table, a file of measured latencies; make one with: {command}"
        raise ConfigError("objective.latency_ms", [rule])
    return BlockCosts(space, options, frames, table)


def pieces(
    space: BlockSpace,
    options: BlocksConfig,
    frames: int,
    only: Mapping[str, Sequence[Any]] = MappingProxyType({}),
    also: Sequence[Genotype] = (),
) -> BlockPieces:
    """Return the pieces of the encoders; see :class:`.pieces.BlockPieces`.

    Raises:
        ConfigError: A restriction leaves nothing, or ``options`` give all encoders another width,
            so that those of the space's choices are none of theirs.
    """
    if options.channels is not None:
        rule = f"must be null: the genotypes' own widths are measured, got {options.channels}"
        raise ConfigError("bench", [f"channels: {rule}"])
    return BlockPieces(options, frames, space, only, also)
