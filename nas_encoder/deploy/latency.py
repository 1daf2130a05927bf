"""Measured latencies of the pieces of cell networks: measuring, the table's file, reading it."""

from __future__ import annotations

import logging
import random
import statistics
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.benchmark import set_torch_threads

from nas_encoder.common.documents import differences, read_yaml, write_yaml
from nas_encoder.common.problems import Problems, show
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.timing import Call, measure
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.factory import build_encoder
from nas_encoder.spaces.cells.architecture import CellArchitecture
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.spaces.cells.pieces import CellNetwork, Piece
from nas_encoder.spaces.cells.space import CellSpace

logger = logging.getLogger(__name__)

PRECISIONS = ("32-true", "bf16-mixed")
SCHEMA = 1
_SIZE = ("input_size", "channels", "layers", "output_size", "stem_stride", "hidden_sizes", "deltas")
_PIECE = tuple(field.name for field in fields(Piece))


@dataclass(frozen=True)
class BenchSettings:
    """How latencies are measured.

    Attributes:
        device: ``cpu`` or ``cuda``.
        threads: Of a CPU.
        precision: One of :data:`PRECISIONS`.
        seconds: At least so long on each piece, after warming up.
        repeats: At least so many calls of each piece; the median counts.
        checks: Random whole networks that are measured beside the sums of their pieces.
        seed: Of weights, inputs and these networks.
    """

    device: str = "cpu"
    threads: int = 1
    precision: str = "32-true"
    seconds: float = 0.2
    repeats: int = 10
    checks: int = 4
    seed: int = 0

    def problems(self) -> list[str]:
        """Return one line for each rule that is broken, led by the field's name."""
        found = Problems()
        found.choice(self.device, "device", "device", ("cpu", "cuda"))
        if self.device == "cuda" and not torch.cuda.is_available():
            found.add("device", "this machine has no CUDA device")
        found.choice(self.precision, "precision", "precision", PRECISIONS)
        for name, low, high in (("threads", 1, 1024), ("repeats", 3, 10**6), ("checks", 0, 1000)):
            found.integer(getattr(self, name), name, low, high)
        found.integer(self.seed, "seed", 0, 2**63 - 1)
        if not 0 <= self.seconds <= 3600:
            found.add("seconds", f"must be in 0..3600, got {show(self.seconds)}")
        return found.lines


@dataclass(frozen=True)
class LatencyTable:
    """What a file of latencies holds.

    Attributes:
        milliseconds: Of each piece that was measured.
        about: The space, the network's size, the settings and the machine.
        checks: For each whole network its hash, the sum over its pieces and its own latency.
        complete: Whether everything was measured.
    """

    milliseconds: Mapping[Piece, float]
    about: Mapping[str, Any]
    checks: tuple[Mapping[str, Any], ...] = ()
    complete: bool = False

    @property
    def scale(self) -> float:
        """What a sum over pieces is multiplied by: whole networks / their sums, on average.

        Pieces lack the additions between operations, and they find a colder or warmer cache and a
        shorter or longer queue than in a network; the mean is geometric.
        """
        ratios = [check["network_ms"] / check["sum_ms"] for check in self.checks]
        return statistics.geometric_mean(ratios) if ratios else 1.0

    def to_dict(self) -> dict[str, Any]:
        """Return the YAML form."""
        return {
            "schema": SCHEMA,
            **self.about,
            "complete": self.complete,
            "scale": round(self.scale, 4),
            "checks": [dict(check) for check in self.checks],
            "pieces": [{**asdict(piece), "ms": ms} for piece, ms in self.milliseconds.items()],
        }

    @classmethod
    def load(cls, path: str | Path) -> LatencyTable:
        """Read a file.

        Raises:
            ConfigError: It cannot be read or is no such table; all problems are listed.
        """
        document = read_yaml(path, ConfigError)
        problems = Problems()
        required = ("schema", "space", "network", "frames", "settings", "machine", "pieces")
        rest = ("environment", "complete", "scale", "checks")
        if problems.mapping(document, "", required, rest) is None or problems:
            raise ConfigError(f"table {path}", problems.lines)
        problems.integer(document["schema"], "schema", SCHEMA, SCHEMA)
        pieces: dict[Piece, float] = {}
        rows = problems.sequence(document["pieces"], "pieces", 0, 10**6) or []
        for place, row in enumerate(rows):
            where = f"pieces[{place}]"
            known = problems.mapping(row, where, (*_PIECE, "ms"))
            if known is None or not {*_PIECE, "ms"} <= set(row):
                continue
            if problems.number(row["ms"], f"{where}.ms", 0, above=True):
                pieces[Piece(**{name: row[name] for name in _PIECE})] = float(row["ms"])
        checks = problems.sequence(document.get("checks", []), "checks", 0, 10**6) or []
        for place, check in enumerate(checks):
            where = f"checks[{place}]"
            if problems.mapping(check, where, ("sum_ms", "network_ms"), ("hash",)):
                for name in ("sum_ms", "network_ms"):
                    problems.number(check.get(name), f"{where}.{name}", 0, above=True)
        if problems:
            raise ConfigError(f"table {path}", problems.lines)
        about = {name: document[name] for name in ("space", "network", "frames", "settings")}
        about |= {name: document.get(name) for name in ("machine", "environment")}
        return cls(pieces, about, tuple(checks), document.get("complete") is True)

    def require(self, network: CellNetwork, space: CellSpace, subject: str, command: str) -> None:
        """Make sure that the table is of this network and whole.

        Raises:
            ConfigError: It is not; the message names the command that makes the right one.
        """
        problems = [
            f"{key}: is {was!r} in the table, the search has {now!r}"
            for key, was, now in _differences(self.about, _about(network, space))
        ]
        missing = [p for p in network.all_pieces(space.choices) if p not in self.milliseconds]
        if missing and not problems:
            problems.append(f"{len(missing)} pieces are not measured, for example {missing[0]}")
        elif not self.complete and not problems:
            problems.append("its last measurements, of whole networks, are missing")
        if problems:
            raise ConfigError(subject, [*problems, f"make the table with: {command}"])


def measure_table(
    network: CellNetwork,
    space: CellSpace,
    settings: BenchSettings,
    path: str | Path,
    progress: Callable[[list[Any], str], Iterator[Any]] | None = None,
) -> LatencyTable:
    """Measure every piece and some whole networks; go on where an earlier run was stopped.

    The file is written anew, atomically, after each measurement.

    Args:
        network: The size.
        space: Its operations.
        settings: How to measure.
        path: The file.
        progress: Wraps the list of what is to be done, with a title, for example in a bar.

    Raises:
        ConfigError: A setting is wrong, or the file holds another table.
    """
    if lines := settings.problems():
        raise ConfigError("bench", lines)
    about = _about(network, space)
    here = environment()
    machine = here["gpu" if settings.device == "cuda" else "machine"]
    about |= {"settings": asdict(settings), "machine": machine}
    table = LatencyTable({}, {**about, "environment": here})
    if Path(path).exists():
        before = LatencyTable.load(path)
        problems = [
            f"{key}: is {was!r} in the file, now {now!r}"
            for key, was, now in _differences(before.about, about)
        ]
        if problems:
            rule = "holds another table; choose another --output, or remove the file"
            raise ConfigError(str(path), [rule, *problems])
        table = before
    wanted = network.all_pieces(space.choices)
    todo = [piece for piece in wanted if piece not in table.milliseconds]
    show_progress = progress or (lambda items, title: iter(items))
    milliseconds, checks = dict(table.milliseconds), list(table.checks)
    with measuring(settings) as timed:
        for piece in show_progress(todo, "pieces"):
            torch.manual_seed(settings.seed)
            module, call = network.build(piece, settings.device)
            milliseconds[piece] = round(timed(call), 5)
            table = LatencyTable(milliseconds, table.about, tuple(checks))
            write_yaml(path, table.to_dict(), ConfigError)
        genotypes = [space.sample(random.Random(settings.seed + i)) for i in range(settings.checks)]
        for genotype in show_progress(genotypes[len(checks) :], "whole networks"):
            checks.append(_check(genotype, network, milliseconds, settings, timed))
            table = LatencyTable(milliseconds, table.about, tuple(checks))
            write_yaml(path, table.to_dict(), ConfigError)
    table = LatencyTable(milliseconds, table.about, tuple(checks), complete=True)
    write_yaml(path, table.to_dict(), ConfigError)
    return table


def _check(
    genotype: Genotype,
    network: CellNetwork,
    milliseconds: Mapping[Piece, float],
    settings: BenchSettings,
    timed: Callable[[Call], float],
) -> dict[str, Any]:
    architecture = genotype.architecture
    assert isinstance(architecture, CellArchitecture)
    total = sum(milliseconds[piece] for piece in network.pieces_of(architecture))
    measured = measure_network(genotype, network.config, network.frames, settings, timed)
    return {"hash": genotype.hash, "sum_ms": round(total, 4), "network_ms": round(measured, 4)}


def measure_network(
    genotype: Genotype,
    config: EncoderConfig,
    frames: int,
    settings: BenchSettings,
    timed: Callable[[Call], float] | None = None,
) -> float:
    """Return the milliseconds that a whole network takes for one utterance.

    Args:
        genotype: Its cells.
        config: Its size.
        frames: T, of the utterance.
        settings: How to measure.
        timed: From an outer measurement that is going on.
    """
    if timed is None:
        with measuring(settings) as own:
            return measure_network(genotype, config, frames, settings, own)
    torch.manual_seed(settings.seed)
    encoder: nn.Module = build_encoder(genotype, **_size(config)).eval().to(settings.device)
    x = torch.randn(1, frames, config.input_size, device=settings.device)
    lengths = torch.tensor([frames])
    return timed(lambda: encoder(x, lengths))


@contextmanager
def measuring(settings: BenchSettings) -> Iterator[Callable[[Call], float]]:
    """Give a function that returns a call's median milliseconds, under these settings."""
    cpu = settings.device == "cpu"
    low = settings.precision == "bf16-mixed"

    def timed(call: Call) -> float:
        with (
            torch.inference_mode(),
            torch.autocast(settings.device, torch.bfloat16, enabled=low),
        ):
            found = measure({"call": call}, settings.repeats, settings.seconds, warm_up=3)
        return 1000 * found["call"].median

    with set_torch_threads(settings.threads if cpu else torch.get_num_threads()):
        yield timed


def _size(config: EncoderConfig) -> dict[str, Any]:
    """Return what of a network's options decides its pieces, as plain YAML types."""
    values = {name: getattr(config, name) for name in _SIZE}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in values.items()}


def _about(network: CellNetwork, space: CellSpace) -> dict[str, Any]:
    return {"space": space.name, "network": _size(network.config), "frames": network.frames}


def _differences(before: Mapping[str, Any], now: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """Compare what ``now`` holds; a table also says with which versions it was made."""
    return differences({key: before.get(key) for key in now}, now)
