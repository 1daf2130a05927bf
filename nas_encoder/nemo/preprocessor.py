"""ESPnet's features in NeMo, for models that were trained in ESPnet.

Letters in shapes: B batch, N samples, D mel bands, T frames.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from nemo.core.classes import Exportable, NeuralModule, typecheck
from nemo.core.neural_types import AudioSignal, LengthsType, MelSpectrogramType, NeuralType
from torch import Tensor

from nas_encoder.common.problems import Problems, is_number, show
from nas_encoder.errors import ConfigError
from nas_encoder.interchange.feature_options import ESPnetOptions
from nas_encoder.interchange.features import ESPnetFeatures

# Arguments of the features with other names here.
_OWN = ("sample_rate", "win_length", "hop_length", "n_mels")


class ESPnetPreprocessor(NeuralModule, Exportable):
    """``_target_: nas_encoder.nemo.ESPnetPreprocessor``: the features of ESPnet's default frontend.

    It replaces NeMo's mel preprocessor, whose settings cannot give these features (see
    :mod:`nas_encoder.interchange.features`), in models that ``nas-encoder convert`` makes from
    ESPnet's. The mel bands, mean and deviation are buffers, so they are in the checkpoint.

    It does not inherit from NeMo's preprocessor, or NeMo's allow-list would let that class's
    methods through under our name.

    Args:
        sample_rate: Rate in Hz.
        window_size: Window length in seconds.
        window_stride: Window shift in seconds.
        features: D.
        options: Others of :class:`~nas_encoder.interchange.feature_options.ESPnetOptions`.

    Raises:
        ConfigError: An option breaks its rule; all are listed.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        window_size: float = 0.032,
        window_stride: float = 0.008,
        features: int = 80,
        **options: Any,
    ) -> None:
        super().__init__()
        # Names that NeMo's models read.
        self._sample_rate = sample_rate
        self.featurizer = _build(sample_rate, window_size, window_stride, features, options)
        self.win_length = self.featurizer.win_length
        self.hop_length = self.featurizer.options.hop_length
        # Its dtype is the one that the model computes in; features are returned in it.
        self.register_buffer("dtype_sentinel_tensor", torch.tensor(()), persistent=False)

    @property
    def input_types(self) -> dict[str, Any]:
        """Neural types of the inputs."""
        signal = NeuralType(("B", "T"), AudioSignal(freq=self._sample_rate))
        return {"input_signal": signal, "length": NeuralType(tuple("B"), LengthsType())}

    @property
    def output_types(self) -> dict[str, Any]:
        """Neural types of the outputs."""
        signal = NeuralType(("B", "D", "T"), MelSpectrogramType())
        return {
            "processed_signal": signal,
            "processed_length": NeuralType(tuple("B"), LengthsType()),
        }

    def input_example(self, max_batch: int = 2, max_dim: int = 32000) -> tuple[Tensor, Tensor]:
        """Return (B, N) noise and (B,) unequal lengths, for tracing."""
        device = self.featurizer.melmat.device
        lengths = torch.linspace(max_dim, max_dim // 2, max_batch, device=device).to(torch.int64)
        return torch.randn(max_batch, max_dim, device=device), lengths

    @typecheck()
    @torch.no_grad()
    def forward(self, input_signal: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features, in float32 whatever the model's dtype.

        Args:
            input_signal: (B, N), samples from -1 to 1.
            length: (B,), valid samples.

        Returns:
            (B, D, T), zero in padding frames, and (B,) valid frames.
        """
        with torch.amp.autocast(input_signal.device.type, enabled=False):
            features, frames = self.featurizer.float()(input_signal.float(), length)
        features = features.to(self.dtype_sentinel_tensor.dtype)
        return features.transpose(1, 2), frames.to(length.dtype)  # (B, T, D) -> (B, D, T)

    @property
    def filter_banks(self) -> Tensor:
        """(1, D, bins of the spectrum), as NeMo's preprocessor has them."""
        return self.featurizer.melmat.T[None]


def _build(
    sample_rate: int,
    window_size: float,
    window_stride: float,
    features: int,
    options: dict[str, Any],
) -> ESPnetFeatures:
    problems = Problems()
    known = [item.name for item in fields(ESPnetOptions) if item.name not in _OWN]
    problems.mapping(options, "", (), known)
    seconds = {"window_size": window_size, "window_stride": window_stride}
    for name, value in seconds.items():
        if not is_number(value):
            problems.add(name, f"must be a number of seconds, got {show(value)}")
    sound = not problems and is_number(sample_rate)
    counts = [int(s * sample_rate) if sound else 1 for s in seconds.values()]
    times = dict(zip(("win_length", "hop_length"), counts, strict=True))
    own = {name: value for name, value in options.items() if name in known}
    try:
        built = ESPnetFeatures(sample_rate=sample_rate, n_mels=features, **times, **own)
    except ConfigError as error:
        problems.lines.extend(error.problems)
    if problems:
        raise ConfigError("ESPnetPreprocessor", problems.lines)
    return built
