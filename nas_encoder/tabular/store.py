"""Tables on disk: one SQLite file, readable by any tool and left intact by a kill."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nas_encoder.common.resources import conf_root
from nas_encoder.errors import DataError
from nas_encoder.tabular.contents import Training
from nas_encoder.tabular.published import load_published
from nas_encoder.tabular.table import Table

SCHEMA = 1
_TABLES = """
CREATE TABLE IF NOT EXISTS about (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS architectures (
    model_hash TEXT PRIMARY KEY, genotype TEXT, info TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS trainings (
    model_hash TEXT NOT NULL, target_epochs INTEGER NOT NULL, seed INTEGER NOT NULL,
    test_per REAL NOT NULL, more TEXT NOT NULL,
    PRIMARY KEY (model_hash, target_epochs, seed)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS epochs (
    model_hash TEXT NOT NULL, target_epochs INTEGER NOT NULL, seed INTEGER NOT NULL,
    epoch INTEGER NOT NULL, val_per REAL NOT NULL,
    PRIMARY KEY (model_hash, target_epochs, seed, epoch)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS utterances (name TEXT PRIMARY KEY, rows BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS latencies (
    model_hash TEXT NOT NULL, device TEXT NOT NULL, seconds REAL NOT NULL,
    PRIMARY KEY (model_hash, device)
) WITHOUT ROWID;
"""
_COLUMNS = {
    "about": 2,
    "architectures": 3,
    "trainings": 5,
    "epochs": 5,
    "latencies": 3,
    "utterances": 2,
}


class TableFile:
    """The SQLite file of a table, created if missing unless ``create`` is off.

    Every ``add_`` is one transaction.

    Raises:
        DataError: It cannot be opened, or is no table.
    """

    def __init__(self, path: str | Path, create: bool = True) -> None:
        self.path = Path(path)
        if not create and not self.path.is_file():
            raise DataError(str(path), ["there is no such file"])
        with self._errors():
            self._connection = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            self._connection.execute("PRAGMA synchronous=FULL")
            if create:
                self._connection.executescript(_TABLES)
        if create and "schema" not in self.about():
            self.set_about(schema=SCHEMA)
        if self.about().get("schema") != SCHEMA:
            raise DataError(
                str(path),
                [f"schema: must be {SCHEMA}, got {self.about().get('schema')!r}; no such table"],
            )

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def __enter__(self) -> TableFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # -- writing ------------------------------------------------------------------------------

    def set_about(self, **values: Any) -> None:
        """Record the origin of the numbers, as JSON values."""
        self._put(about=((key, json.dumps(value)) for key, value in values.items()))

    def add_architecture(
        self, key: str, genotype: Mapping[str, Any] | None, info: Mapping[str, Any]
    ) -> None:
        """Record an architecture's document and what is known of it without training."""
        self._put(architectures=[_architecture(key, genotype, info)])

    def add_latency(self, key: str, device: str, seconds: float) -> None:
        """Record a latency."""
        self._put(latencies=[(key, device, seconds)])

    def add_trainings(self, key: str, seed: int, trainings: Mapping[int, Training]) -> None:
        """Record the trainings of one architecture and seed, by their target epochs."""
        self._put(**_trainings([(key, target, seed, t) for target, t in trainings.items()]))

    def add_table(self, table: Table) -> None:
        """Record a whole table in one transaction."""
        keys = dict.fromkeys([*table.genotypes, *table.static, *table.hashes()])
        about = {**table.about, "space": table.space}
        found = [
            (key, *group, training)
            for group, rows in table.trainings.items()
            for key, training in rows.items()
        ]
        self._put(
            about=((key, json.dumps(value)) for key, value in about.items()),
            architectures=(
                _architecture(key, table.genotypes.get(key), table.static.get(key, {}))
                for key in keys
            ),
            latencies=(
                (key, device, seconds)
                for device, rows in table.latencies.items()
                for key, seconds in rows.items()
            ),
            **_trainings(found),
        )

    def add_utterances(self, sets: Mapping[str, bytes]) -> None:
        """Record what the data are; see :mod:`nas_encoder.data.fingerprint`."""
        self._put(utterances=sets.items())

    # -- reading ------------------------------------------------------------------------------

    def utterances(self) -> dict[str, bytes]:
        """Return what the data are; nothing for tables of earlier versions."""
        known = self._get("name FROM sqlite_master WHERE name = 'utterances'")
        return dict(self._get("name, rows FROM utterances")) if known else {}

    def about(self) -> dict[str, Any]:
        """Return the origin of the numbers."""
        with self._errors():
            return {key: json.loads(value) for key, value in self._get("key, value FROM about")}

    def finished(self) -> set[tuple[str, int, int]]:
        """Return (key, target epochs, seed) of all trainings."""
        return set(self._get("model_hash, target_epochs, seed FROM trainings"))

    def architectures(self) -> set[str]:
        """Return the keys of all recorded architectures."""
        return {key for (key,) in self._get("model_hash FROM architectures")}

    def latency_of(self, device: str) -> dict[str, float]:
        """Return the latencies of a device by key."""
        return dict(self._get("model_hash, seconds FROM latencies WHERE device = ?", device))

    def read(self) -> Table:
        """Return the table."""
        vals: dict[tuple[str, int, int], list[float]] = {}
        trainings: dict[tuple[int, int], dict[str, Training]] = {}
        latencies: dict[str, dict[str, float]] = {}
        static, genotypes = {}, {}
        with self._errors():
            for *training, val in self._get(
                "model_hash, target_epochs, seed, val_per FROM epochs "
                "ORDER BY model_hash, target_epochs, seed, epoch"
            ):
                vals.setdefault(tuple(training), []).append(val)
            for key, target, seed, test, more in self._get(
                "model_hash, target_epochs, seed, test_per, more FROM trainings"
            ):
                values = json.loads(more)
                if "arch_vec" in values:  # JSON has no tuples
                    values["arch_vec"] = list(map(tuple, values["arch_vec"]))
                trainings.setdefault((target, seed), {})[key] = Training(
                    tuple(vals.get((key, target, seed), ())), test, values
                )
            for key, device, seconds in self._get("model_hash, device, seconds FROM latencies"):
                latencies.setdefault(device, {})[key] = seconds
            for key, document, info in self._get("model_hash, genotype, info FROM architectures"):
                if document is not None:
                    genotypes[key] = json.loads(document)
                if json.loads(info):
                    static[key] = json.loads(info)
        about = self.about()
        return Table(str(about.get("space")), trainings, latencies, static, genotypes, about)

    # -- parts --------------------------------------------------------------------------------

    def _get(self, query: str, *values: object) -> list[tuple[Any, ...]]:
        with self._errors():
            return self._connection.execute(f"SELECT {query}", values).fetchall()

    def _put(self, **rows: Iterable[tuple[Any, ...]]) -> None:
        """Insert or replace rows of the SQL tables, all in one transaction."""
        with self._errors():
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                for table, own in rows.items():
                    marks = ", ".join("?" * _COLUMNS[table])
                    query = f"INSERT OR REPLACE INTO {table} VALUES ({marks})"
                    self._connection.executemany(query, own)
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise DataError(
                str(self.path), [f"is no table, or cannot be used as one: {error}"]
            ) from error


def _architecture(
    key: str, genotype: Mapping[str, Any] | None, info: Mapping[str, Any]
) -> tuple[str, str | None, str]:
    return key, None if genotype is None else json.dumps(genotype), json.dumps(dict(info))


def _trainings(
    found: Sequence[tuple[str, int, int, Training]],
) -> dict[str, Iterable[tuple[Any, ...]]]:
    """Return the rows of (key, target epochs, seed, training)."""
    return {
        "trainings": ((*place, t.test, json.dumps(dict(t.more))) for *place, t in found),
        "epochs": (
            (*place, epoch, val) for *place, t in found for epoch, val in enumerate(t.val, 1)
        ),
    }


@contextmanager
def new_table(output: str | Path) -> Iterator[TableFile]:
    """Open a new file, which gets its name only once it is complete.

    Raises:
        DataError: ``output`` exists or cannot be written.
    """
    target = Path(output)
    if target.exists():
        raise DataError(str(output), ["already exists; choose another name or delete it first"])
    temporary = target.with_name(f".{target.name}.writing")
    try:
        temporary.unlink(missing_ok=True)
        temporary.touch()  # where SQLite cannot, it does not say why
        with TableFile(temporary) as file:
            yield file
        temporary.replace(target)
    except OSError as error:
        raise DataError(str(output), [f"cannot be written: {error.strerror or error}"]) from None
    finally:
        with suppress(OSError):  # the error that is under way says more
            temporary.unlink(missing_ok=True)


def list_tables() -> list[str]:
    """Return the names of the tables that ship with the package."""
    return sorted(path.stem for path in (conf_root() / "table").glob("*.sqlite"))


def load_table(source: str | Path) -> Table:
    """Load a table.

    Args:
        source: The name of a table that ships with the package, an SQLite file that
            ``nas-encoder table`` made, or a folder with the published files of NAS-Bench-ASR.

    Raises:
        DataError: There is no such table, or it cannot be read.
    """
    names = list_tables()
    path = Path(source)
    if str(source) in names:
        path = conf_root() / "table" / f"{source}.sqlite"
    if path.is_dir():
        return load_published(path)
    if not path.is_file():
        shipped = ", ".join(names)
        raise DataError(str(source), [f"no such file or folder; shipped tables: {shipped}"])
    with TableFile(path, create=False) as file:
        return file.read()


def convert(source: str | Path, output: str | Path) -> Table:
    """Write a table, for example the published files, as one SQLite file.

    Raises:
        DataError: The source cannot be read, or ``output`` exists or cannot be written.
    """
    with new_table(output) as file:
        table = load_table(source)
        file.add_table(table)
    return table
