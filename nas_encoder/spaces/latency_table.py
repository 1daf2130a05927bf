"""Measured latencies of the pieces of a space's networks: the file and its reader."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self

from nas_encoder.common.documents import differences, read_yaml
from nas_encoder.common.problems import Problems
from nas_encoder.errors import ConfigError

SCHEMA = 1


class Measurable(Protocol):
    """The networks of a space with the same options, as far as a table knows them."""

    def about(self) -> dict[str, Any]:
        """Return what identifies a table: ``space``, ``network`` and ``frames``."""


@dataclass(frozen=True)
class LatencyTable:
    """The contents of a file of latencies; each space has a subclass with its kind of piece.

    Attributes:
        piece: Frozen dataclass of strings and numbers.
        milliseconds: Milliseconds of each measured piece.
        about: The space, the network's size, the settings and the machine.
        checks: For each whole network its hash, the number of its pieces and the sum over them, and
            its own latency.
        complete: Whether everything was measured.
    """

    piece: ClassVar[type[Any]]
    milliseconds: Mapping[Any, float]
    about: Mapping[str, Any]
    checks: tuple[Mapping[str, Any], ...] = ()
    complete: bool = False

    @property
    def scale(self) -> float:
        """Factor applied to sums over pieces: whole networks / their sums, geometric mean.

        Pieces lack the additions between operations, and see a colder or warmer cache and a
        shorter or longer queue than in a network.
        """
        ratios = [check["network_ms"] / check["sum_ms"] for check in self.checks]
        return statistics.geometric_mean(ratios) if ratios else 1.0

    def predict(self, pieces: Sequence[Any]) -> float:
        """Return the milliseconds of a network of pieces, repeated as often as they occur.

        Raises:
            KeyError: A piece is not measured.
        """
        return self.scale * sum(self.milliseconds[piece] for piece in pieces)

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
    def load(cls, path: str | Path) -> Self:
        """Read a file.

        Raises:
            ConfigError: It cannot be read or is not such a table; all problems are listed.
        """
        document = read_yaml(path, ConfigError)
        problems = Problems()
        required = ("schema", "space", "network", "frames", "settings", "machine", "pieces")
        rest = ("environment", "complete", "scale", "piece_ms", "checks")
        if problems.mapping(document, "", required, rest) is None or problems:
            raise ConfigError(f"table {path}", problems.lines)
        problems.integer(document["schema"], "schema", SCHEMA, SCHEMA)
        pieces: dict[Any, float] = {}
        names = tuple(field.name for field in fields(cls.piece))
        rows = problems.sequence(document["pieces"], "pieces", 0, 10**6) or []
        for place, row in enumerate(rows):
            where = f"pieces[{place}]"
            known = problems.mapping(row, where, (*names, "ms"))
            if known is None or not {*names, "ms"} <= set(row):
                continue
            if problems.number(row["ms"], f"{where}.ms", 0, above=True):
                pieces[cls.piece(**{name: row[name] for name in names})] = float(row["ms"])
        checks = problems.sequence(document.get("checks", []), "checks", 0, 10**6) or []
        for place, check in enumerate(checks):
            where = f"checks[{place}]"
            if problems.mapping(check, where, ("sum_ms", "network_ms"), ("hash", "pieces")):
                for name in ("sum_ms", "network_ms"):
                    problems.number(check.get(name), f"{where}.{name}", 0, above=True)
                problems.integer(check.get("pieces", 1), f"{where}.pieces", 1, 10**6)
        if problems:
            raise ConfigError(f"table {path}", problems.lines)
        about = {name: document[name] for name in ("space", "network", "frames", "settings")}
        about |= {name: document.get(name) for name in ("machine", "environment")}
        return cls(pieces, about, tuple(checks), document.get("complete") is True)

    def differences(self, about: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
        """Return (key, value in the table, value now) of what differs from ``about``.

        Other keys, such as the versions that made the table, are not compared.
        """
        return differences({key: self.about.get(key) for key in about}, about)

    def require(
        self, network: Measurable, pieces: Iterable[Any], subject: str, command: str
    ) -> None:
        """Check that the table is complete, of this network, and has these pieces.

        Raises:
            ConfigError: It is not; the message names the command that makes the right one.
        """
        problems = [
            f"{key}: is {was!r} in the table, the search has {now!r}"
            for key, was, now in self.differences(network.about())
        ]
        missing = [piece for piece in pieces if piece not in self.milliseconds]
        if missing and not problems:
            problems.append(f"{len(missing)} pieces are not measured, for example {missing[0]}")
        elif not self.complete and not problems:
            problems.append("its last measurements, of whole networks, are missing")
        if problems:
            raise ConfigError(subject, [*problems, f"make the table with: {command}"])
