"""Opens recordings that a model can recognize, as far as their headers tell."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.headers import shortage
from nas_encoder.errors import DataError, MissingDependencyError


@contextmanager
def opened(path: Path, rate: int) -> Iterator[Any]:
    """Open mono audio of ``rate`` Hz, as soundfile does.

    Raises:
        DataError: The file cannot be read, or what its header says is wrong; all is listed.
        MissingDependencyError: soundfile is missing.
    """
    soundfile = _soundfile()
    if not path.is_file():
        what = "is a folder" if path.is_dir() else "does not exist"
        raise DataError(str(path), [f"cannot be read: {what}"])
    try:
        with soundfile.SoundFile(path) as file:
            problems = _problems(path, file, rate)
            if problems:
                raise DataError(str(path), problems)
            yield file
    # TypeError: soundfile asks for the format of .raw files.
    except (soundfile.LibsndfileError, OSError, TypeError) as error:
        raise DataError(str(path), [f"cannot be read: {error}"]) from None


def format_problems(name: Path, rate: int, channels: int, wanted: int) -> list[str]:
    """Return what is wrong with audio of ``rate`` Hz for a model of ``wanted`` Hz."""
    problems = []
    if rate != wanted:
        made = name.with_name(f"{name.stem}_{wanted}.wav")
        words = ["sox", str(name), "-r", str(wanted), "-c", "1", str(made)]
        problems.append(
            f"has {rate} Hz, the model needs {wanted}; resample it, for example with: "
            f"{shlex.join(words)}"
        )
    if channels != 1:
        problems.append(f"must be mono, has {channels} channels")
    return problems


def check_finite(name: str, samples: Tensor, before: int, rate: int) -> None:
    """Raise a DataError if a sample is NaN or infinite."""
    if len(samples) and not bool(torch.isfinite(samples.sum())):
        wrong = (~torch.isfinite(samples)).nonzero()
        if len(wrong):
            place = before + int(wrong[0])
            rule = f"sample {place}, at {place / rate:.3f} s, is NaN or infinite"
            raise DataError(name, [rule])


def _problems(path: Path, file: Any, rate: int) -> list[str]:
    problems = format_problems(path, file.samplerate, file.channels, rate)
    # libsndfile says how much there is, not how much there should be.
    short = shortage(file, os.fspath(path))
    return [*problems, short] if short else problems


def _soundfile() -> Any:
    try:
        import soundfile
    except ModuleNotFoundError as error:
        if error.name != "soundfile":
            raise
        raise MissingDependencyError("soundfile", "export", "reading audio") from error
    return soundfile
