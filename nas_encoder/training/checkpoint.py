"""Checkpoint files: a torch file with a checksum, written atomically, read without running code."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import CheckpointError

logger = logging.getLogger(__name__)

State = dict[str, Any]
_SIZE = hashlib.sha256().digest_size * 2  # hexadecimal
_ARCHIVE_END = b"PK\x05\x06"  # of the record that ends a zip archive: 22 bytes, then a comment


def previous_of(path: Path) -> Path:
    """Return the file that keeps the checkpoint before the last one."""
    return path.with_name(f"{path.stem}.previous{path.suffix}")


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state; the last one is kept beside it, see :func:`previous_of`.

    torch.load does not notice a flipped bit in a tensor, hence the checksum. It is the comment of
    the torch file's zip archive, so any tool can still read the file.

    Raises:
        CheckpointError: It cannot be written, for example because the disk is full; then both
            files stay as they are.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    sealed = buffer.getvalue()[:-2] + _SIZE.to_bytes(2, "little")
    data = sealed + hashlib.sha256(sealed).hexdigest().encode()
    new = path.with_name(f"{path.stem}.new{path.suffix}")
    try:
        write_atomically(new, data, CheckpointError)
    except CheckpointError as error:
        raise CheckpointError(str(path), error.problems) from None
    try:
        # A kill in between leaves no last file: load_checkpoint then takes the one before.
        if path.exists():
            os.replace(path, previous_of(path))
        os.replace(new, path)
    except OSError as error:
        raise CheckpointError(str(path), [f"cannot be written: {error.strerror}"]) from None
    finally:
        new.unlink(missing_ok=True)


def delete_checkpoint(path: Path) -> None:
    """Delete a checkpoint and the one before it."""
    for file in (path, previous_of(path)):
        file.unlink(missing_ok=True)


def load_checkpoint(
    path: Path, of: str, unsealed: bool = False, fits: Callable[[State], str] = lambda state: ""
) -> State | None:
    """Read the last state, or the one before it if the last one is damaged; None without files.

    Args:
        path: The file.
        of: What it must belong to, for the error.
        unsealed: Whether to accept a file without a checksum, as written by earlier versions.
        fits: Returns what is wrong with a state that is not of this run; empty if it is.

    Raises:
        CheckpointError: Both files are damaged, or the last one is and there is no other.
    """
    problems = []
    for file in (path, previous_of(path)):
        if not file.exists():
            continue
        try:
            state = _read(file, of, unsealed)
            if wrong := fits(state):
                raise CheckpointError(str(file), [wrong])
        except CheckpointError as error:
            problems += [f"{file}: {problem}" for problem in error.problems]
            continue
        if file != path:
            why = "; ".join(problems) or f"{path}: is missing"
            logger.warning("%s; going on from the checkpoint before it, %s", why, file)
        return state
    if problems:
        anew = "to begin anew, delete what is damaged, or choose another --output"
        raise CheckpointError("checkpoint", [*problems, anew])
    return None


def _read(path: Path, of: str, unsealed: bool) -> State:
    try:
        data = path.read_bytes()
        whole = data[-_SIZE:] == hashlib.sha256(data[:-_SIZE]).hexdigest().encode()
        without = data[-22:-18] == _ARCHIVE_END and data[-2:] == b"\0\0"
        if not whole and not (unsealed and without):
            raise CheckpointError(str(path), [f"is damaged, or no checkpoint of {of}"])
        state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise CheckpointError(
            str(path), [f"cannot be read: {' '.join(str(error).split())[:200]}"]
        ) from error
    if not isinstance(state, dict):
        raise CheckpointError(str(path), [f"is no checkpoint of {of}"])
    return state
