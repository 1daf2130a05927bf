"""What alignment needs of a trained model; the adapters of both toolkits have classes for it.

N samples, T frames of the model's output, V classes with the blank.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor, nn

from nas_encoder.errors import CheckpointError, ConfigError


class CtcModel(Protocol):
    """A trained model with a CTC layer.

    Attributes:
        source: The file or folder that it was read from.
        toolkit: ``espnet`` or ``nemo``.
        sampling_rate: Of the audio that it takes, in Hz.
        tokens: Its V classes; a space is ``<space>``.
        blank: Number of the blank.
        joins: What makes words of tokens: ``char`` (words are between spaces), ``bpe`` (a piece
            that begins with U+2581 begins a word), ``word`` (each token is one, as phones are).
        encoder: The encoder, whose first tensor argument holds the features.
        time_axis: The dimension of that argument's frames; dimension 0 is the batch.
    """

    source: str
    toolkit: str
    sampling_rate: int
    tokens: Sequence[str]
    blank: int
    joins: str
    encoder: nn.Module
    time_axis: int

    def log_probs(self, samples: Tensor) -> Tensor:
        """Return (T, V) log-probabilities of audio (N,) in -1 to 1, with gradients if enabled.

        Raises:
            UtteranceTooShortError: The audio gives no frame.
        """

    def normalized(self, text: str) -> str:
        """Return a text as the model's own cleaner leaves it."""

    def split(self, text: str) -> list[tuple[str, int | None]]:
        """Return the tokens of a text with their classes; None where the model has none."""


def device_problem(device: str) -> str | None:
    """Return why nothing can run on a device of this name, or None."""
    known = re.fullmatch(r"cpu|cuda(?::(\d{1,3}))?", device)
    if known is None:
        return f"device: must be cpu, cuda, cuda:1, ..., got {device!r}"
    if device == "cpu":
        return None
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if int(known[1] or 0) >= count:
        return f"device: this machine has {count or 'no'} CUDA devices, got {device!r}"
    return None


def open_model(path: str | Path, checkpoint: str | None = None, device: str = "cpu") -> CtcModel:
    """Open a trained model.

    Args:
        path: ESPnet's folder with ``config.yaml``, a ``.pth`` file in it or a packed ``.zip``; or
            a ``.nemo`` file.
        checkpoint: Which ``.pth`` file of the folder, if it has several.
        device: Where it shall run: ``cpu``, ``cuda``, ``cuda:1``, ...

    Raises:
        ConfigError: This machine has no such device.
        CheckpointError: It cannot be read, or has no trained CTC layer.
        MissingDependencyError: The toolkit is not installed.
    """
    if problem := device_problem(device):
        raise ConfigError("alignment", [problem])
    path = Path(path)
    if not path.exists():
        raise CheckpointError(str(path), ["no such file or folder"])
    if path.suffix == ".nemo":
        from nas_encoder.nemo.aligned import NemoCtc

        if checkpoint is not None:
            raise CheckpointError(str(path), ["a .nemo file has one checkpoint: give no other"])
        nemo: CtcModel = NemoCtc.open(path, device)
        return nemo
    if path.is_dir() or path.suffix in (".pth", ".zip"):
        from nas_encoder.espnet.aligned import EspnetCtc

        espnet: CtcModel = EspnetCtc.open(path, checkpoint, device)
        return espnet
    raise CheckpointError(
        str(path), ["expected ESPnet's folder, .pth or packed .zip, or a .nemo file"]
    )
