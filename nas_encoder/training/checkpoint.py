"""Checkpoint files: a torch file with a checksum, written atomically, read without running code."""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import write_atomically
from nas_encoder.errors import CheckpointError

_SIZE = hashlib.sha256().digest_size * 2  # hexadecimal
_ARCHIVE_END = b"PK\x05\x06"  # of the record that ends a zip archive: 22 bytes, then a comment


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write a state; the previous file stays until the new one is complete.

    torch.load does not notice a flipped bit in a tensor, hence the checksum. It is the comment of
    the torch file's zip archive, so any tool can still read the file.

    Raises:
        CheckpointError: It cannot be written, for example because the disk is full.
    """
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    sealed = buffer.getvalue()[:-2] + _SIZE.to_bytes(2, "little")
    checksum = hashlib.sha256(sealed).hexdigest().encode()
    write_atomically(path, sealed + checksum, CheckpointError)


def load_checkpoint(path: Path, of: str, unsealed: bool = False) -> dict[str, Any] | None:
    """Read a state; None if there is no file.

    Args:
        path: The file.
        of: What it must belong to, for the error.
        unsealed: Whether to accept a file without a checksum, as written by earlier versions.

    Raises:
        CheckpointError: It is damaged.
    """
    if not path.exists():
        return None
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
