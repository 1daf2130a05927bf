"""Reads untrusted checkpoints and writes checkpoints atomically."""

from __future__ import annotations

import io
import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.documents import parse_yaml, write_atomically
from nas_encoder.common.problems import one_line, show
from nas_encoder.errors import CheckpointError

# What archive readers raise if an archive is damaged, encrypted or unusually packed.
_DAMAGED = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    NotImplementedError,
    RuntimeError,
)


def load_tensors(data: bytes | Path, subject: str) -> dict[str, Tensor]:
    """Load a dictionary of tensors; nothing in the file is executed.

    Args:
        data: The file, or its content.
        subject: What to call it in an error.

    Raises:
        CheckpointError: It is not such a file.
    """
    try:
        source: Any = io.BytesIO(data) if isinstance(data, bytes) else data
        state = torch.load(source, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(subject, [f"cannot be read: {error.strerror or error}"]) from None
    except Exception as error:  # pickle, zip and torch raise different exceptions
        reason = str(error)
        hint = (
            "it holds more than tensors (a training state?), and reading it could run code; give "
            "the file of the weights alone"
            if "weights_only" in reason or "Weights only" in reason
            else f"is no file of torch.save: {one_line(error)}"
        )
        raise CheckpointError(subject, [hint]) from error
    for key in ("model", "module", "state_dict"):  # ESPnet, DeepSpeed, Lightning
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
            break
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(subject, ["holds no dictionary of tensors"])
    odd = [name for name, value in state.items() if not isinstance(value, Tensor)]
    if odd:
        raise CheckpointError(subject, [f"{odd[0]}: must be a tensor, got {type(state[odd[0]])}"])
    nameless = [name for name in state if not isinstance(name, str)]
    if nameless:
        raise CheckpointError(subject, [f"{nameless[0]!r}: must be the name of a tensor"])
    return dict(state)


def dump_tensors(state: Mapping[str, Any]) -> bytes:
    """Return the content of a file written by ``torch.save``."""
    buffer = io.BytesIO()
    torch.save(dict(state), buffer)
    return buffer.getvalue()


def read_file(path: Path) -> bytes:
    """Read a file; CheckpointError if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(str(path), [f"cannot be read: {error.strerror}"]) from None


def parse_config(data: bytes, subject: str) -> dict[str, Any]:
    """Parse a configuration; CheckpointError if it is not a mapping in YAML."""
    document = parse_yaml(data, subject, CheckpointError)
    if not isinstance(document, dict):
        raise CheckpointError(subject, [f"must be a mapping, got {show(document)}"])
    return document


class Archive:
    """The regular files of a tar or zip archive, read into memory.

    Nothing is unpacked, so member names and links cannot reach outside.

    Args:
        path: The archive.

    Raises:
        CheckpointError: It is neither, or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # In this order: a tar that holds a torch file may look like a zip from its end.
            self._zip = not tarfile.is_tarfile(path) and zipfile.is_zipfile(path)
            if self._zip:
                with zipfile.ZipFile(path) as archive:
                    names = [i.filename for i in archive.infolist() if not i.is_dir()]
            else:
                with tarfile.open(path) as tar:
                    names = [member.name for member in tar.getmembers() if member.isfile()]
        except OSError as error:
            raise CheckpointError(str(path), [f"cannot be read: {error.strerror}"]) from None
        except _DAMAGED as error:
            reason = str(error).partition("\n")[0].removesuffix(":")  # tarfile lists all methods
            raise CheckpointError(
                str(path), [f"is neither a .nemo archive nor a packed ESPnet model: {reason}"]
            ) from None
        self.names = {_clean(name) for name in names}

    def __contains__(self, name: str) -> bool:
        return _clean(name) in self.names

    def read(self, name: str) -> bytes:
        """Return a file's content: the last one of that name, as after unpacking.

        Raises:
            CheckpointError: There is no such file, or it is damaged.
        """
        wanted = _clean(name)
        if wanted not in self.names:
            held = ", ".join(sorted(self.names)[:20]) or "nothing"
            raise CheckpointError(str(self.path), [f"holds no file {wanted!r}; it holds {held}"])
        try:
            if self._zip:
                with zipfile.ZipFile(self.path) as archive:
                    entries = reversed(archive.infolist())
                    entry = next(i for i in entries if _clean(i.filename) == wanted)
                    return archive.read(entry)
            with tarfile.open(self.path) as tar:
                members = reversed(tar.getmembers())
                member = next(m for m in members if m.isfile() and _clean(m.name) == wanted)
                stream = tar.extractfile(member)
                return b"" if stream is None else stream.read()
        except (OSError, *_DAMAGED) as error:
            raise CheckpointError(str(self.path), [f"{wanted}: cannot be read: {error}"]) from None


def write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    """Write an uncompressed tar archive atomically; CheckpointError if it cannot be written."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(data), 0o644
            tar.addfile(member, io.BytesIO(data))
    make_folder(path.parent)
    write_atomically(path, buffer.getvalue(), CheckpointError)


def folder_problem(path: Path) -> str:
    """Return why files cannot be written into a folder that may not exist yet, or ''."""
    place = next(one for one in (path.absolute(), *path.absolute().parents) if one.exists())
    if not place.is_dir():
        if place == path.absolute():
            return f"must be a folder, got the file {str(path)!r}"
        return f"{str(path)!r} cannot be made: {str(place)!r} is no folder"
    if not os.access(place, os.W_OK | os.X_OK):
        return f"{str(place)!r} must be writable"
    return ""


def make_folder(path: Path) -> None:
    """Make a folder and its parents; CheckpointError if it cannot be made."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(str(path), [f"cannot be made: {error.strerror}"]) from None


def _clean(name: str) -> str:
    return name[2:] if name.startswith("./") else name
