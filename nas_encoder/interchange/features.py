"""The log-mel features of each toolkit, so that the other can compute them to the bit.

No configuration of one toolkit gives the features of the other: ESPnet reflects the waveform at
its ends, has a periodic window and one more frame; NeMo pads with zeros and has a symmetric window.
With the best settings of NeMo's preprocessor, log-mel values of noise differ from ESPnet's by up
to 0.03 (5e-7 with a periodic window put into the checkpoint), in the first and last two frames by
up to 1.1. Nor can it hold a corpus's mean and deviation. So a converted model takes its features
along, as ``nas_encoder.nemo.ESPnetPreprocessor`` or as ESPnet's ``frontend: nemo``. Operations are
in the toolkit's order, because float32 results depend on it.

Letters in shapes: B batch, N samples, T frames, D mel bands, K bins of the spectrum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.errors import MissingDependencyError
from nas_encoder.interchange.feature_options import ESPnetOptions, NeMoOptions
from nas_encoder.interchange.spectrum import fourier_basis, power_spectrum
from nas_encoder.ops.masking import is_tracing


class ESPnetFeatures(nn.Module):
    """ESPnet's default frontend with its normalisation (``global_mvn``, ``utterance_mvn``).

    Every utterance is reflected at its own end, so its features do not depend on the rest of the
    batch. (ESPnet reflects the padded batch, so the last frames of shorter utterances differ from
    those computed one utterance at a time.)

    Args:
        options: Fields of :class:`~nas_encoder.interchange.feature_options.ESPnetOptions`.

    Attributes:
        melmat: (K, D).
        mean: (D,), with ``normalize: global``; 0 until a checkpoint is loaded.
        std: (D,), likewise; 1 until then.

    Raises:
        ConfigError: An option breaks its rule; all are listed.
        MissingDependencyError: librosa, which gives both toolkits their mel bands, is missing.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = given = ESPnetOptions.from_dict(options, "ESPnet features")
        self.win_length = given.n_fft if given.win_length is None else given.win_length
        bands = mel_bands(
            sr=given.sample_rate,
            n_fft=given.n_fft,
            n_mels=given.n_mels,
            fmin=given.fmin or 0.0,
            fmax=given.fmax,
            htk=given.htk,
        )  # (D, K)
        self.register_buffer("melmat", bands.T.contiguous())
        if given.normalize == "global":
            self.register_buffer("mean", torch.zeros(given.n_mels))
            self.register_buffer("std", torch.ones(given.n_mels))
        self.melmat: Tensor
        self.mean: Tensor
        self.std: Tensor
        self.basis: Tensor

    @property
    def output_size(self) -> int:
        """D."""
        return self.melmat.size(1)

    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features.

        Args:
            signal: (B, N), samples from -1 to 1.
            lengths: (B,), valid samples.

        Returns:
            (B, T, D), zero in padding frames, and (B,) valid frames.
        """
        given = self.options
        lengths = lengths.to(device=signal.device, dtype=torch.int64)
        if given.center:
            half = given.n_fft // 2
            signal, lengths = reflect(signal.float(), lengths, half), lengths + 2 * half
        power = self._power(signal)
        frames = torch.div(lengths - given.n_fft, given.hop_length, rounding_mode="trunc") + 1
        frames = frames.clamp(min=0)
        padding = padding_mask(frames, power.size(1))  # (B, T, 1)
        power = power.masked_fill(padding, 0.0)
        features = torch.matmul(power, self.melmat).clamp(min=1e-10).log()  # (B, T, D)
        features = self.normalize(features.masked_fill(padding, 0.0), frames)
        if is_tracing() or not frames.numel():  # no size may depend on a value in graphs
            return features, frames
        return features[:, : max(int(frames.max()), 1)], frames

    def _power(self, signal: Tensor) -> Tensor:
        """Return the power of (B, N) frame by frame, (B, T, K)."""
        given, signal = self.options, signal.float()
        if is_tracing():
            if not given.center:  # as below; a size is a tensor here
                signal = nn.functional.pad(signal, (0, given.n_fft))
            return power_spectrum(signal, self.basis, given.hop_length).transpose(1, 2)
        missing = given.n_fft - signal.size(1)
        if missing > 0:
            signal = nn.functional.pad(signal, (0, missing))
        spectrum = torch.stft(
            signal,
            n_fft=given.n_fft,
            hop_length=given.hop_length,
            win_length=self.win_length,
            center=False,
            window=self._window(signal.device),
            normalized=given.normalized,
            onesided=True,
            return_complex=True,
        )
        parts = torch.view_as_real(spectrum).transpose(1, 2)  # (B, K, T, 2) -> (B, T, K, 2)
        return parts[..., 0] ** 2 + parts[..., 1] ** 2

    def _window(self, device: torch.device | None = None) -> Tensor:
        make = getattr(torch, f"{self.options.window}_window")
        window: Tensor = make(self.win_length, dtype=torch.float32, device=device)
        return window

    def prepare_tracing(self) -> None:
        """Make what a trace needs instead of ``torch.stft``: a buffer that is in no checkpoint."""
        given = self.options
        basis = fourier_basis(self._window(), given.n_fft, given.normalized)
        self.register_buffer("basis", basis.to(self.melmat.device), persistent=False)

    def window_samples(self, frames: int) -> int:
        """Return the samples under so many frames."""
        return (frames - 1) * self.options.hop_length + self.options.n_fft

    def of_windows(self, signal: Tensor) -> Tensor:
        """Return the log-mel values (B, T, D), not normalized, of a part of a signal.

        Args:
            signal: (B, N), :meth:`window_samples`, of a signal that is reflected where ``center``
                asks for it.
        """
        power = power_spectrum(signal, self.basis, self.options.hop_length).transpose(1, 2)
        return torch.matmul(power, self.melmat).clamp(min=1e-10).log()

    def normalize(self, features: Tensor, frames: Tensor) -> Tensor:
        """Normalize log-mel values (B, T, D), zero in padding frames, of (B,) valid frames."""
        if self.options.normalize is None:
            return features
        padding = padding_mask(frames, features.size(1))
        given, own = self.options, self.options.normalize == "utterance"
        count = frames.to(features.dtype).view(-1, 1, 1)
        mean = features.sum(dim=1, keepdim=True) / count if own else self.mean
        centred = (features - mean).masked_fill(padding, 0.0)
        result = centred if given.norm_means else features
        if not given.norm_vars:
            return result
        if not own:
            return result / self.std
        variance = centred.pow(2).sum(dim=1, keepdim=True) / count
        return result / variance.sqrt().clamp(min=given.eps)


class NeMoFeatures(nn.Module):
    """NeMo's ``AudioToMelSpectrogramPreprocessor`` without frame splicing or exact padding.

    Args:
        options: Fields of :class:`~nas_encoder.interchange.feature_options.NeMoOptions`.

    Attributes:
        window: (n_window_size,).
        fb: (1, D, K).

    Raises:
        ConfigError: An option breaks its rule; all are listed.
        MissingDependencyError: librosa is missing.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = given = NeMoOptions.from_dict(options, "NeMo features")
        guard = given.log_zero_guard_value
        self.guard: float = (
            getattr(torch.finfo(torch.float32), guard) if isinstance(guard, str) else guard
        )
        make = getattr(torch, f"{given.window}_window")
        self.register_buffer("window", make(given.n_window_size, periodic=False))
        bands = mel_bands(
            sr=given.sample_rate,
            n_fft=given.points,
            n_mels=given.features,
            fmin=given.lowfreq,
            fmax=given.highfreq,
            norm=given.mel_norm,
        )
        self.register_buffer("fb", bands[None])
        self.window: Tensor
        self.fb: Tensor
        self.basis: Tensor

    @property
    def output_size(self) -> int:
        """D."""
        return self.fb.size(1)

    @torch.no_grad()
    def forward(self, signal: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the features.

        Args:
            signal: (B, N), samples from -1 to 1.
            lengths: (B,), valid samples.

        Returns:
            (B, T, D), zero in padding frames, and (B,) valid frames.
        """
        given = self.options
        signal = signal.float()
        lengths = lengths.to(device=signal.device, dtype=torch.int64)
        odd = given.points // 2 * 2 - given.points  # -1 for an odd n_fft
        frames = ((lengths + odd) // given.n_window_stride).clamp(min=0)
        if self.training and given.dither > 0:
            signal = signal + given.dither * torch.randn_like(signal)
        if given.preemph is not None:
            inside = ~padding_mask(lengths, signal.size(1))[..., 0]
            signal = torch.cat((signal[:, :1], signal[:, 1:] - given.preemph * signal[:, :-1]), 1)
            signal = signal.masked_fill(~inside, 0.0)
        values = self._in_bands(self._magnitudes(signal))  # (B, D, T)
        padding = padding_mask(frames, values.size(2)).transpose(1, 2)  # (B, 1, T)
        values = self._normalize(values, frames, padding).masked_fill(padding, 0.0)
        if not is_tracing():  # no size may depend on a value in graphs
            values = values[:, :, : max(int(frames.max()), 1) if frames.numel() else 1]
        return values.transpose(1, 2), frames  # (B, D, T) -> (B, T, D)

    def _magnitudes(self, signal: Tensor) -> Tensor:
        """Return the magnitudes of (B, N) to their power, (B, K, T)."""
        given = self.options
        if is_tracing():
            half = given.points // 2
            signal = nn.functional.pad(signal, (half, half))
            return self._from_power(power_spectrum(signal, self.basis, given.n_window_stride))
        spectrum = torch.stft(
            signal,
            n_fft=given.points,
            hop_length=given.n_window_stride,
            win_length=given.n_window_size,
            center=True,
            window=self.window.float(),
            return_complex=True,
            pad_mode="constant",
        )
        values = torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1))
        return values if given.mag_power == 1.0 else values.pow(given.mag_power)

    def _from_power(self, power: Tensor) -> Tensor:
        exponent = self.options.mag_power
        return power if exponent == 2.0 else power.pow(exponent / 2)

    def _in_bands(self, values: Tensor) -> Tensor:
        """Map magnitudes (B, K, T) to the mel bands, with their logarithm, (B, D, T)."""
        given, values = self.options, torch.matmul(self.fb, values)
        if not given.log:
            return values
        added = given.log_zero_guard_type == "add"
        return torch.log(values + self.guard if added else values.clamp(self.guard))

    def window_samples(self, frames: int) -> int:
        """Return the samples under so many frames."""
        return (frames - 1) * self.options.n_window_stride + self.options.points

    def of_windows(self, signal: Tensor) -> Tensor:
        """Return the features (B, T, D), not normalized, of a part of a signal.

        Args:
            signal: (B, N), :meth:`window_samples`, with its pre-emphasis and the zeros around it.
        """
        power = power_spectrum(signal, self.basis, self.options.n_window_stride)
        return self._in_bands(self._from_power(power)).transpose(1, 2)

    def prepare_tracing(self) -> None:
        """Make what a trace needs instead of ``torch.stft``: a buffer that is in no checkpoint."""
        basis = fourier_basis(self.window, self.options.points)
        self.register_buffer("basis", basis, persistent=False)

    def _normalize(self, values: Tensor, frames: Tensor, padding: Tensor) -> Tensor:
        if self.options.normalize == "per_feature":
            count = (~padding[:, 0]).sum(dim=1)
            mean = torch.where(padding, 0.0, values).sum(dim=2) / count[:, None]
            centred = torch.where(padding, 0.0, values - mean[:, :, None])
            std = torch.sqrt(torch.sum(centred**2, dim=2) / (count[:, None] - 1.0))
            std = std.masked_fill(std.isnan(), 0.0) + 1e-5
            return (values - mean[:, :, None]) / std[:, :, None]
        if self.options.normalize == "all_features" and is_tracing():
            count = frames[:, None, None] * values.size(1)
            inside = torch.where(padding, 0.0, values)
            mean = inside.sum(dim=(1, 2), keepdim=True) / count
            centred = torch.where(padding, 0.0, values - mean)
            square = (centred**2).sum(dim=(1, 2), keepdim=True)
            return (values - mean) / (torch.sqrt(square / (count - 1)) + 1e-5)
        if self.options.normalize == "all_features":
            # Of an utterance without frames nothing is kept.
            rows = [row[:, : max(int(n), 1)] for row, n in zip(values, frames, strict=True)]
            means = torch.stack([row.mean() for row in rows])
            stds = torch.stack([row.std() for row in rows]) + 1e-5
            return (values - means[:, None, None]) / stds[:, None, None]
        return values


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (B, size, 1), True past each length."""
    index = torch.arange(size, device=lengths.device)
    return (index[None, :] >= lengths[:, None])[..., None]


def reflect(signal: Tensor, lengths: Tensor, half: int) -> Tensor:
    """Reflect every utterance of a padded batch at its own ends.

    Args:
        signal: (B, N).
        lengths: (B,), at least 1.
        half: Samples to add on either side. An utterance of at most this many samples is
            extended with its last sample where the reflection runs out.

    Returns:
        (B, N + 2 * half), zero after an utterance's reflected end.
    """
    place = torch.arange(-half, signal.size(1) + half, device=signal.device)[None, :].abs()
    last = (lengths - 1).clamp(min=0)[:, None]
    source = torch.where(place > last, 2 * last - place, place)
    source = torch.minimum(source.clamp(min=0), last)
    outside = padding_mask(lengths + 2 * half, place.size(1))[..., 0]
    return signal.gather(1, source).masked_fill(outside, 0.0)


def mel_bands(**options: Any) -> Tensor:
    """Return the triangular mel bands of ``librosa.filters.mel``, (D, K)."""
    try:
        from librosa.filters import mel
    except ModuleNotFoundError as error:
        if error.name != "librosa":
            raise
        raise MissingDependencyError("librosa", "nemo", "computing mel features") from error
    return torch.from_numpy(mel(**options)).float()


def samples(options: Mapping[str, Any], seconds: str, count: str, default: float) -> int:
    """Return a length in samples from a NeMo preprocessor's options, rounded as in NeMo."""
    if options.get(count):
        return int(options[count])
    return int(float(options.get(seconds) or default) * int(options.get("sample_rate", 16000)))
