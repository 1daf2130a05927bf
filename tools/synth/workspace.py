"""The output folder: made beside its final place, resumable, and published in one step."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from nas_encoder.common.documents import differences
from nas_encoder.errors import DataError

MANIFEST = "corpus.json"
"""Name of the file that describes a finished corpus, beside the data."""


def finished(output: Path, request: dict[str, Any]) -> dict[str, Any] | None:
    """Return the manifest of the requested corpus, or None if ``output`` is still empty.

    Raises:
        DataError: The folder holds something else.
    """
    if not output.exists() or (output.is_dir() and not any(output.iterdir())):
        return None
    manifest = _read(output / MANIFEST) if output.is_dir() else None
    if manifest is None or not isinstance(manifest.get("arguments"), dict):
        raise DataError(
            str(output),
            ["exists and is no corpus of this tool; choose another --output or remove it"],
        )
    _require_same(
        manifest["arguments"],
        request,
        output,
        "holds a corpus made with other arguments; choose another --output or remove it",
    )
    return manifest


def _require_same(old: dict[str, Any], new: dict[str, Any], folder: Path, otherwise: str) -> None:
    """Raise DataError, with what differs, if the folder's request is not the new one."""
    found = [
        f"{key}: the folder has {was!r}, asked for is {now!r}"
        for key, was, now in differences(old, new)
    ]
    if found:
        raise DataError(str(folder), [otherwise, *found])


@contextmanager
def workspace(output: Path, request: dict[str, Any]) -> Iterator[Path]:
    """Hold the folder ``<output>.partial``, in which a corpus grows.

    The next run with the same arguments resumes what a killed one left in it. A lock keeps a
    second run out.

    Args:
        output: Final place of the corpus.
        request: The corpus's arguments in plain types.

    Raises:
        DataError: The folder belongs to other arguments, or to a run in progress.
    """
    root = output.with_name(f"{output.name}.partial")
    root.mkdir(parents=True, exist_ok=True)
    try:
        lock = FileLock(root / ".lock", timeout=0).acquire()
    except Timeout as error:
        raise DataError(str(root), ["another run is writing it; let it end"]) from error
    with lock:
        arguments = root / ".arguments.json"
        begun = _read(arguments)
        if begun is None:
            write_json(arguments, request)
        else:
            _require_same(
                begun,
                request,
                root,
                "is left from an interrupted run with other arguments; repeat that run to finish "
                "it, choose another --output, or remove the folder",
            )
        yield root


def read_notes(root: Path) -> dict[str, dict[str, Any]]:
    """Return earlier runs' notes on finished utterances, by id."""
    path = root / ".journal.jsonl"
    found: dict[str, dict[str, Any]] = {}
    if path.exists():
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # cut short by a kill: the utterance is made again
            found[record["id"]] = record
    return found


def note(root: Path, record: dict[str, Any]) -> None:
    """Note a finished utterance."""
    with (root / ".journal.jsonl").open("a", encoding="utf-8") as journal:
        # The line break comes first, to end a line cut short by a kill.
        journal.write("\n" + json.dumps(record))


def publish(root: Path, output: Path, manifest: dict[str, Any]) -> None:
    """Write the manifest and move the folder to its final place in one step."""
    write_json(root / MANIFEST, manifest)
    for name in (".arguments.json", ".journal.jsonl", ".lock"):
        (root / name).unlink(missing_ok=True)
    os.rename(root, output)


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a JSON file atomically."""
    text = json.dumps(document, indent=2, ensure_ascii=False) + "\n"
    write_whole(path, lambda file: file.write_text(text, encoding="utf-8"))


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Let ``write`` fill a temporary file, which then becomes ``path``.

    Its name is always the same, so that after a kill the resumed run uses it up.
    """
    temporary = path.with_name(f".{path.name}.writing")
    write(temporary)
    os.replace(temporary, path)


def _read(path: Path) -> dict[str, Any] | None:
    """Read a JSON object; None if the file is missing or holds none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None
    return document if isinstance(document, dict) else None
