"""Reads Debian packages without dpkg: an ``ar`` archive of two tar archives (deb(5))."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from email.parser import Parser
from pathlib import Path, PurePosixPath

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import DataError

_MAGIC = b"!<arch>\n"
_HEADER = 60  # bytes: name 16, date 12, owner 6, group 6, mode 8, size 10, end 2
_UNREADABLE = (tarfile.TarError, EOFError, OSError, ValueError)


def fields_of(path: Path) -> dict[str, str]:
    """Return the fields of a package's ``control`` file: ``Package``, ``Version``, ...

    Raises:
        DataError: The file is no package, or cut short.
    """
    with _archive(path, "control.tar") as archive:
        member = next(file for file in archive if PurePosixPath(file.name).name == "control")
        content = archive.extractfile(member)
        assert content is not None
        return dict(Parser().parsestr(content.read().decode()).items())


def unpack(path: Path, folder: Path) -> int:
    """Write a package's files below a folder, like ``dpkg -x``, and return their number.

    Links are left out: the packages that this is for have none.

    Raises:
        DataError: The file is no package, is cut short or names a file outside the folder.
    """
    count = 0
    with _archive(path, "data.tar") as archive:
        for member in archive:
            name = PurePosixPath(member.name)
            if name.is_absolute() or ".." in name.parts:
                raise DataError(str(path), [f"names a file outside its folder: {member.name}"])
            content = archive.extractfile(member) if member.isfile() else None
            if content is not None:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                write_atomically(target, content.read(), DataError)
                count += 1
    return count


@contextmanager
def _archive(path: Path, name: str) -> Iterator[tarfile.TarFile]:
    """Open one of the two archives, ``control.tar`` or ``data.tar``, however it is compressed."""
    try:
        member, content = next(item for item in _members(path) if item[0].startswith(name))
        if member.endswith(".zst"):
            content = _by_dpkg(path, name)
        with tarfile.open(fileobj=io.BytesIO(content)) as archive:
            yield archive
    except StopIteration:
        raise DataError(str(path), [f"is no Debian package, or damaged: no {name}"]) from None
    except _UNREADABLE as error:
        if isinstance(error, DataError):
            raise
        raise DataError(str(path), [f"is no Debian package, or damaged: {error}"]) from error


def _members(path: Path) -> Iterator[tuple[str, bytes]]:
    data = path.read_bytes()
    if not data.startswith(_MAGIC):
        raise ValueError("it does not begin as one")
    place = len(_MAGIC)
    while place + _HEADER <= len(data):
        header, place = data[place : place + _HEADER], place + _HEADER
        size = int(header[48:58])
        if place + size > len(data):
            raise ValueError("it is cut short")
        yield header[:16].decode().strip().rstrip("/"), data[place : place + size]
        place += size + size % 2


def _by_dpkg(path: Path, name: str) -> bytes:
    """Return an archive compressed with zstd, which Python's tarfile does not read."""
    if shutil.which("dpkg-deb") is None:
        raise ValueError("it is compressed with zstd, which needs dpkg-deb")
    option = "--ctrl-tarfile" if name == "control.tar" else "--fsys-tarfile"
    done = subprocess.run(["dpkg-deb", option, path], capture_output=True, check=False)
    if done.returncode:
        raise ValueError(f"dpkg-deb: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
