"""NeMo's features in ESPnet, for models that were trained in NeMo.

Letters in shapes: B batch, N samples, T frames, D mel bands.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from nas_encoder.errors import InputError
from nas_encoder.espnet.interface import AbsFrontend
from nas_encoder.interchange.features import NeMoFeatures


class NeMoFrontend(AbsFrontend):
    """``frontend: nemo``: the features of NeMo's ``AudioToMelSpectrogramPreprocessor``.

    The features are already normalised, so the config has ``normalize: null``. ``nas-encoder
    convert`` uses this frontend in models that come from NeMo.

    Args:
        options: The arguments of :class:`~nas_encoder.interchange.features.NeMoFeatures`.

    Raises:
        ConfigError: An option breaks its rule; all are listed.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.features = NeMoFeatures(**options)

    def output_size(self) -> int:
        """Return D."""
        return self.features.output_size

    def forward(self, input: Tensor, input_lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features.

        Args:
            input: (B, N), samples of one channel.
            input_lengths: (B,), valid samples.

        Returns:
            (B, T, D), (B,) valid frames.

        Raises:
            InputError: The audio has several channels.
        """
        if input.dim() != 2:
            raise InputError(f"speech: must be (B, N), one channel, got {tuple(input.shape)}")
        features, frames = self.features(input, input_lengths)
        return features, frames
