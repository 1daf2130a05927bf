"""Writes files so that a kill leaves either the old or the new content, never a part."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path


def write_through(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file next to ``path``, then move it into place.

    The temporary name keeps the suffixes, from which lhotse infers the format.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{os.getpid()}-{path.name}")
    try:
        write(partial)
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write UTF-8 text lines atomically."""

    def write(partial: Path) -> None:
        with partial.open("w", encoding="utf-8", newline="\n") as stream:
            stream.writelines(f"{line}\n" for line in lines)

    write_through(path, write)
