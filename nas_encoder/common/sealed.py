"""Folders whose files have checksums, so that no damaged or foreign file is taken for the own."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import dump_yaml, parse_yaml, write_atomically
from nas_encoder.errors import CheckpointError

logger = logging.getLogger(__name__)

SEALS = "checksums.json"
ANEW = "restore it, or begin anew in another --output"
PARTS = ("genotypes", "front")  # sub-folders with sealed files
_OURS = ("*.yaml", "*.json", "*.jsonl", "tokens.*", *(f"{part}/*.yaml" for part in PARTS))
WRITE_LOCK = ".write.lock"
_TRIES, _PAUSE = 3, 0.02  # s, while another process replaces a file

Seals = dict[str, list[str | None]]


class SealedFolder:
    """Reads and writes the files of a folder, with their checksums in ``checksums.json``.

    The checksum of a new content is recorded before the file is replaced, and that of the old one
    dropped afterwards, so that a kill at any moment leaves a file that is accepted. A folder
    without ``checksums.json`` (of an earlier version) is read without checks.
    """

    shared = False  # whether several processes write

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)

    @property
    def sealed(self) -> bool:
        """Whether the folder has checksums."""
        return (self.path / SEALS).is_file()

    def seal(self) -> None:
        """Begin to keep checksums, of what is written from now on; other files are not ours."""
        self._store({})

    def write(self, name: str, data: bytes) -> None:
        """Write a file atomically.

        Raises:
            CheckpointError: It cannot be written.
        """
        path, new = self.path / name, _digest(data)
        with self._alone():
            seals = self._seals()
            if seals is None:
                ours = sorted({found for kind in _OURS for found in self.path.glob(kind)})
                seals = {str(p.relative_to(self.path)): [_digest_of(p)] for p in ours if p != path}
            before = seals.get(name) or [_digest_of(path)]
            self._store({**seals, name: [*before, new]})
            write_atomically(path, data, CheckpointError)
            self._store({**seals, name: [new]})

    def holds(self, name: str) -> bool:
        """Return whether a file has a checksum.

        Raises:
            CheckpointError: The checksums are damaged.
        """
        return name in (self._seals() or ())

    def remove(self, name: str) -> None:
        """Remove a file."""
        with self._alone():
            seals = self._seals()
            if seals is not None:
                self._store({other: seal for other, seal in seals.items() if other != name})
            (self.path / name).unlink(missing_ok=True)

    def read(self, name: str, remedy: str) -> bytes | None:
        """Return the content of a file; None if there is none and should be none.

        Raises:
            CheckpointError: It is missing, or not as it was written; ``remedy`` says what to do.
        """
        path = self.path / name
        for _ in range(_TRIES):
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                data = None
            except OSError as error:
                raise CheckpointError(str(path), [f"cannot be read: {error.strerror}"]) from None
            seals = self._seals()
            expected = None if seals is None else seals.get(name, [None])
            if expected is None or (None if data is None else _digest(data)) in expected:
                return data
            time.sleep(_PAUSE)
        what = "is missing" if data is None else "is not as it was written (damaged or foreign)"
        keep = f"if the change is meant, delete {self.path / SEALS}"
        raise CheckpointError(str(path), [f"{what}; {remedy}; {keep}"])

    def read_text(self, name: str, remedy: str) -> str | None:
        """Return the text of a file; see :meth:`read`."""
        data = self.read(name, remedy)
        try:
            return None if data is None else data.decode("utf-8")
        except UnicodeDecodeError as error:
            raise CheckpointError(str(self.path / name), [f"is damaged: {error}"]) from None

    def read_yaml(self, name: str, remedy: str = ANEW) -> Any:
        """Return the document in a file; see :meth:`read`."""
        data = self.read(name, remedy)
        return None if data is None else parse_yaml(data, str(self.path / name), CheckpointError)

    def write_yaml(self, name: str, document: Mapping[str, Any]) -> None:
        """Write a document; see :meth:`write`."""
        self.write(name, dump_yaml(dict(document), str(self.path / name), CheckpointError))

    def clear(self, others: Iterable[str]) -> None:
        """Remove the sealed files, ``others``, and the folder if nothing else is in it."""
        with contextlib.suppress(CheckpointError):
            for name in self._seals() or ():
                (self.path / name).unlink(missing_ok=True)
        for name in (SEALS, WRITE_LOCK, *others):
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        for path in (*(self.path / part for part in PARTS), self.path):
            with contextlib.suppress(OSError):  # it holds something else
                path.rmdir()

    def _seals(self) -> Seals | None:
        path = self.path / SEALS
        try:
            document: Any = json.loads(path.read_bytes())
            files: Seals = document["files"]
            if document["sha256"] != _digest(json.dumps(files).encode()):
                raise ValueError
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            raise CheckpointError(
                str(path), ["is damaged; delete it to use the folder without its checks"]
            ) from None
        return files

    def _store(self, files: Seals) -> None:
        document = {"files": files, "sha256": _digest(json.dumps(files).encode())}
        text = json.dumps(document, indent=1) + "\n"
        write_atomically(self.path / SEALS, text.encode(), CheckpointError)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one process write at a time, where several do."""
        if not self.shared:
            yield
            return
        from filelock import FileLock

        try:
            with FileLock(self.path / WRITE_LOCK, timeout=60):
                yield
        except OSError as error:  # also a timeout
            raise CheckpointError(str(self.path), [f"cannot be written: {error}"]) from None


def check_unaltered(path: Path) -> None:
    """Warn if a file in a sealed folder is not as it was written there; others' files may be."""
    try:
        require_unaltered(path)
    except CheckpointError as error:
        logger.warning("%s", error)


def require_unaltered(path: Path) -> None:
    """Refuse a file in a sealed folder that is not as it was written there.

    Raises:
        CheckpointError: It is not, or the folder's checksums are damaged.
    """
    folder = path.parent.parent if path.parent.name in PARTS else path.parent
    name, sealed = path.relative_to(folder).as_posix(), SealedFolder(folder)
    if sealed.holds(name):
        sealed.read(name, "copy it elsewhere to use it as it is")


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _digest_of(path: Path) -> str | None:
    return _digest(path.read_bytes()) if path.is_file() else None
