"""Lists the trained models in the package and in the user's folders.

Nothing is downloaded: no checkpoint of ours is published anywhere. The environment variable
:data:`FOLDERS` names folders; every ``.nemo`` file in them with an encoder of ours is a model,
named after the file.
"""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any, NamedTuple

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import CheckpointError

FOLDERS = "NAS_ENCODER_MODELS"
SHIPPED = Path(__file__).parent / "pretrained"
INDEX = "models.yaml"
OURS = "nas_encoder.nemo."


class Entry(NamedTuple):
    """A trained model: what ``from_pretrained`` takes, the ``.nemo`` file, and what it is."""

    name: str
    path: Path
    description: str


def entries() -> list[Entry]:
    """Return all models by name: first those of the package, then the user's.

    Unusable files are left out with a warning, so that NeMo's own list stays intact.
    """
    found: dict[str, Entry] = {}
    for entry in [*_shipped(), *_local()]:
        if entry.name in found:
            warnings.warn(
                f"model '{entry.name}' exists twice: {found[entry.name].path} is used, "
                f"{entry.path} is not",
                stacklevel=2,
            )
        else:
            found[entry.name] = entry
    return [found[name] for name in sorted(found)]


def _shipped() -> list[Entry]:
    index = SHIPPED / INDEX
    if not index.is_file():
        return []
    document: Any = read_yaml(index, CheckpointError)
    return [_entry(SHIPPED / row["file"], row["name"], row["description"]) for row in document]


def _local() -> list[Entry]:
    found = []
    for folder in filter(None, os.environ.get(FOLDERS, "").split(os.pathsep)):
        if not Path(folder).expanduser().is_dir():
            warnings.warn(f"{FOLDERS}: there is no folder {folder!r}", stacklevel=3)
            continue
        for path in sorted(Path(folder).expanduser().glob("*.nemo")):
            try:
                description = _describe(path)
            except CheckpointError as error:
                warnings.warn(f"{FOLDERS}: {error}", stacklevel=3)
                continue
            if description is not None:
                found.append(_entry(path, path.stem, description))
    return found


def _entry(path: Path, name: str, description: str) -> Entry:
    # NeMo caches a copy of a model for each location and description.
    stat = path.stat()
    return Entry(name, path.resolve(), f"{description} [{stat.st_size} bytes, {stat.st_mtime_ns}]")


def _describe(path: Path) -> str | None:
    """Return a line from the model's own configuration; None if its encoder is not ours."""
    from nas_encoder.interchange.files import Archive, parse_config
    from nas_encoder.interchange.nemo_files import CONFIG

    if path.is_dir():
        return None
    document = parse_config(Archive(path).read(CONFIG), f"{path}: {CONFIG}")
    encoder = document.get("encoder")
    target = encoder.get("_target_") if isinstance(encoder, dict) else None
    if not isinstance(encoder, dict) or not str(target).startswith(OURS):
        return None
    genotype = encoder.get("genotype")
    name = genotype.get("name") if isinstance(genotype, dict) else None
    kind = str(document.get("target", "")).rpartition(".")[2] or "a model"
    detail = f", genotype {name}" if name else ""
    return f"{kind} with {str(target).rpartition('.')[2]}{detail}; local file {path.name}"
