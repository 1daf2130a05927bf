"""The log-mel features of each toolkit, so that the other one can compute them to the bit.

The two differ in more than settings: ESPnet reflects the waveform at its ends, has a periodic
window and one frame more; NeMo pads with zeros, has a symmetric window, drops the last frame and
can normalise by mean and deviation of an utterance. No configuration of one gives the features of
the other: with the best settings of NeMo's preprocessor, log-mel values of noise differ from
ESPnet's by up to 0.03 (5e-7 with a periodic window put into the checkpoint), in the first and
last two frames by up to 1.1, and one frame is missing. Nor can it hold a mean and deviation of the
corpus for batches of more than one utterance. So a converted model takes its features along:
:class:`ESPnetFeatures` is the inside of ``nas_encoder.nemo.ESPnetPreprocessor``,
:class:`NeMoFeatures` that of ESPnet's ``frontend: nemo``.

The order of operations is that of the toolkit, because float32 results depend on it.

Letters in shapes: B batch, N samples, T frames, D mel bands, K bins of the spectrum.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.errors import ConfigError, MissingDependencyError
from nas_encoder.interchange.feature_options import espnet_problems, size_problems


class ESPnetFeatures(nn.Module):
    """ESPnet's default frontend with its normalisation (``global_mvn``, ``utterance_mvn``).

    In a batch every utterance is reflected at its own end, so its features do not depend on the
    others. (ESPnet reflects the padded batch, which changes the last frames of the shorter
    utterances from what they are one at a time.)

    Args:
        sample_rate: In Hz.
        n_fft: Points of the Fourier transform.
        win_length: Samples of the window; None for ``n_fft``.
        hop_length: Samples between frames.
        window: Name of a periodic window of torch.
        center: Whether frame t is centred at sample t * hop_length.
        normalized: Whether the transform is scaled by the root of the window's length.
        n_mels: D.
        fmin: Lowest frequency in Hz; None for 0.
        fmax: Highest frequency in Hz; None for half the sample rate.
        htk: HTK's mel scale instead of Slaney's.
        normalize: None, ``global`` (by the buffers ``mean`` and ``std``) or ``utterance``.
        norm_means: Whether the mean is subtracted.
        norm_vars: Whether the deviation is divided by.
        eps: Least deviation, for ``utterance``.

    Attributes:
        melmat: (K, D).
        mean: (D,), with ``normalize: global``; 0 until a checkpoint is loaded.
        std: (D,), likewise; 1 until then.

    Raises:
        ConfigError: An option breaks its rule; all are listed.
        MissingDependencyError: librosa, from which both toolkits take the mel bands, is missing.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_fft: int = 512,
        win_length: int | None = None,
        hop_length: int = 128,
        window: str = "hann",
        center: bool = True,
        normalized: bool = False,
        n_mels: int = 80,
        fmin: float | None = None,
        fmax: float | None = None,
        htk: bool = False,
        normalize: str | None = None,
        norm_means: bool = True,
        norm_vars: bool = True,
        eps: float = 1e-20,
    ) -> None:
        super().__init__()
        self.win_length = n_fft if win_length is None else win_length
        problems = size_problems(
            {
                "sample_rate": sample_rate,
                "n_fft": n_fft,
                "win_length": self.win_length,
                "hop_length": hop_length,
                "n_mels": n_mels,
            },
            window,
        )
        problems += espnet_problems(
            {
                "sample_rate": sample_rate,
                "center": center,
                "normalized": normalized,
                "fmin": fmin,
                "fmax": fmax,
                "htk": htk,
                "normalize": normalize,
                "norm_means": norm_means,
                "norm_vars": norm_vars,
                "eps": eps,
            }
        )
        if problems:
            raise ConfigError("ESPnet features", problems)
        self.sample_rate, self.n_fft, self.hop_length = sample_rate, n_fft, hop_length
        self.window, self.center, self.normalized = window, center, normalized
        self.normalize, self.norm_means, self.norm_vars = normalize, norm_means, norm_vars
        self.eps = eps
        bands = mel_bands(sample_rate, n_fft, n_mels, fmin or 0.0, fmax, htk)  # (D, K)
        self.register_buffer("melmat", bands.T.contiguous())
        if normalize == "global":
            self.register_buffer("mean", torch.zeros(n_mels))
            self.register_buffer("std", torch.ones(n_mels))
        self.melmat: Tensor
        self.mean: Tensor
        self.std: Tensor

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
        lengths = lengths.to(device=signal.device, dtype=torch.int64)
        if self.center:
            half = self.n_fft // 2
            signal, lengths = reflect(signal.float(), lengths, half), lengths + 2 * half
        missing = self.n_fft - signal.size(1)
        if missing > 0:
            signal = nn.functional.pad(signal, (0, missing))
        window = getattr(torch, f"{self.window}_window")
        spectrum = torch.stft(
            signal.float(),
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            center=False,
            window=window(self.win_length, dtype=torch.float32, device=signal.device),
            normalized=self.normalized,
            onesided=True,
            return_complex=True,
        )
        parts = torch.view_as_real(spectrum).transpose(1, 2)  # (B, K, T, 2) -> (B, T, K, 2)
        frames = torch.div(lengths - self.n_fft, self.hop_length, rounding_mode="trunc") + 1
        frames = frames.clamp(min=0)
        padding = padding_mask(frames, parts.size(1))  # (B, T, 1)
        parts = parts.masked_fill(padding[..., None], 0.0)
        power = parts[..., 0] ** 2 + parts[..., 1] ** 2
        features = torch.matmul(power, self.melmat).clamp(min=1e-10).log()  # (B, T, D)
        features = features.masked_fill(padding, 0.0)
        if self.normalize == "global":
            features = self._global(features, padding)
        elif self.normalize == "utterance":
            features = self._utterance(features, frames, padding)
        return features[:, : max(int(frames.max()), 1)] if frames.numel() else features, frames

    def _global(self, features: Tensor, padding: Tensor) -> Tensor:
        if self.norm_means:
            features = features - self.mean
        features = features.masked_fill(padding, 0.0)
        return features / self.std if self.norm_vars else features

    def _utterance(self, features: Tensor, frames: Tensor, padding: Tensor) -> Tensor:
        count = frames.to(features.dtype).view(-1, 1, 1)
        mean = features.sum(dim=1, keepdim=True) / count
        centred = (features - mean).masked_fill(padding, 0.0)
        if self.norm_vars:
            deviation = (centred.pow(2).sum(dim=1, keepdim=True) / count).sqrt().clamp(min=self.eps)
            return (centred if self.norm_means else features) / deviation
        return centred if self.norm_means else features


class NeMoFeatures(nn.Module):
    """NeMo's ``AudioToMelSpectrogramPreprocessor``, without frame splicing and exact padding.

    Args:
        sample_rate: In Hz.
        n_window_size: Samples of the window.
        n_window_stride: Samples between frames.
        window: Name of a symmetric window of torch.
        normalize: ``per_feature``, ``all_features``; anything else: none.
        n_fft: Points of the Fourier transform; None for the next power of 2.
        preemph: Factor of the pre-emphasis; None for none.
        features: D.
        lowfreq: Lowest frequency in Hz.
        highfreq: Highest frequency in Hz; None for half the sample rate.
        log: Whether the logarithm is taken.
        log_zero_guard_type: ``add`` or ``clamp``.
        log_zero_guard_value: A number, ``tiny`` or ``eps``.
        dither: Deviation of the noise that is added in training.
        mag_power: Power of the magnitudes.
        mel_norm: As librosa's ``norm``.

    Attributes:
        window: (n_window_size,).
        fb: (1, D, K).

    Raises:
        ConfigError: An option breaks its rule; all are listed.
        MissingDependencyError: librosa is missing.
    """

    def __init__(
        self,
        sample_rate: int = 16000,
        n_window_size: int = 320,
        n_window_stride: int = 160,
        window: str = "hann",
        normalize: str | None = "per_feature",
        n_fft: int | None = None,
        preemph: float | None = 0.97,
        features: int = 64,
        lowfreq: float = 0,
        highfreq: float | None = None,
        log: bool = True,
        log_zero_guard_type: str = "add",
        log_zero_guard_value: float | str = 2**-24,
        dither: float = 1e-5,
        mag_power: float = 2.0,
        mel_norm: Any = "slaney",
    ) -> None:
        super().__init__()
        self.n_fft = n_fft or 1 << max(n_window_size - 1, 0).bit_length()
        problems = size_problems(
            {
                "sample_rate": sample_rate,
                "n_fft": self.n_fft,
                "win_length": n_window_size,
                "hop_length": n_window_stride,
                "n_mels": features,
            },
            window,
        )
        if log_zero_guard_type not in ("add", "clamp"):
            problems.append(
                f"log_zero_guard_type: must be add or clamp, got {log_zero_guard_type!r}"
            )
        if isinstance(log_zero_guard_value, str) and log_zero_guard_value not in ("tiny", "eps"):
            problems.append(
                f"log_zero_guard_value: must be a number, tiny or eps, got {log_zero_guard_value!r}"
            )
        if problems:
            raise ConfigError("NeMo features", problems)
        self.sample_rate, self.win_length = sample_rate, n_window_size
        self.hop_length, self.normalize, self.preemph = n_window_stride, normalize, preemph
        self.log, self.guard_type = log, log_zero_guard_type
        self.guard: float = (
            getattr(torch.finfo(torch.float32), log_zero_guard_value)
            if isinstance(log_zero_guard_value, str)
            else log_zero_guard_value
        )
        self.dither, self.mag_power = dither, mag_power
        make = getattr(torch, f"{window}_window")
        self.register_buffer("window", make(n_window_size, periodic=False))
        bands = mel_bands(sample_rate, self.n_fft, features, lowfreq, highfreq, False, mel_norm)
        self.register_buffer("fb", bands[None])
        self.window: Tensor
        self.fb: Tensor

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
        signal = signal.float()
        lengths = lengths.to(device=signal.device, dtype=torch.int64)
        added = self.n_fft // 2 * 2 - self.n_fft  # -1 for an odd n_fft
        frames = torch.div(lengths + added, self.hop_length, rounding_mode="floor").clamp(min=0)
        if self.training and self.dither > 0:
            signal = signal + self.dither * torch.randn_like(signal)
        if self.preemph is not None:
            inside = ~padding_mask(lengths, signal.size(1))[..., 0]
            signal = torch.cat((signal[:, :1], signal[:, 1:] - self.preemph * signal[:, :-1]), 1)
            signal = signal.masked_fill(~inside, 0.0)
        spectrum = torch.stft(
            signal,
            n_fft=self.n_fft,
            hop_length=self.hop_length,
            win_length=self.win_length,
            center=True,
            window=self.window.float(),
            return_complex=True,
            pad_mode="constant",
        )
        values = torch.sqrt(torch.view_as_real(spectrum).pow(2).sum(-1))  # (B, K, T)
        if self.mag_power != 1.0:
            values = values.pow(self.mag_power)
        values = torch.matmul(self.fb, values)  # (B, D, T)
        if self.log:
            raised = values + self.guard if self.guard_type == "add" else values.clamp(self.guard)
            values = torch.log(raised)
        padding = padding_mask(frames, values.size(2)).transpose(1, 2)  # (B, 1, T)
        values = self._normalize(values, frames, padding).masked_fill(padding, 0.0)
        kept = max(int(frames.max()), 1) if frames.numel() else 1
        return values[:, :, :kept].transpose(1, 2), frames  # (B, D, T) -> (B, T, D)

    def _normalize(self, values: Tensor, frames: Tensor, padding: Tensor) -> Tensor:
        if self.normalize == "per_feature":
            count = (~padding[:, 0]).sum(dim=1)
            mean = torch.where(padding, 0.0, values).sum(dim=2) / count[:, None]
            centred = torch.where(padding, 0.0, values - mean[:, :, None])
            std = torch.sqrt(torch.sum(centred**2, dim=2) / (count[:, None] - 1.0))
            std = std.masked_fill(std.isnan(), 0.0) + 1e-5
            return (values - mean[:, :, None]) / std[:, :, None]
        if self.normalize == "all_features":
            rows = [row[:, : int(n)] for row, n in zip(values, frames, strict=True)]
            means = torch.stack([row.mean() for row in rows])
            stds = torch.stack([row.std() for row in rows]) + 1e-5
            return (values - means[:, None, None]) / stds[:, None, None]
        return values


def padding_mask(lengths: Tensor, size: int) -> Tensor:
    """Return (B, size, 1), True where the place is past the length."""
    index = torch.arange(size, device=lengths.device)
    return (index[None, :] >= lengths[:, None])[..., None]


def reflect(signal: Tensor, lengths: Tensor, half: int) -> Tensor:
    """Reflect every utterance of a padded batch at its own ends.

    Args:
        signal: (B, N).
        lengths: (B,), at least 1.
        half: Samples to add on either side. An utterance of no more samples than this is
            continued with its last sample where the reflection has none.

    Returns:
        (B, N + 2 * half), zero after an utterance's reflected end.
    """
    place = torch.arange(-half, signal.size(1) + half, device=signal.device)[None, :].abs()
    last = (lengths - 1).clamp(min=0)[:, None]
    source = torch.where(place > last, 2 * last - place, place)
    source = torch.minimum(source.clamp(min=0), last)
    outside = torch.arange(signal.size(1) + 2 * half, device=signal.device)[None, :] >= (
        lengths[:, None] + 2 * half
    )
    return signal.gather(1, source).masked_fill(outside, 0.0)


def mel_bands(
    sample_rate: int,
    n_fft: int,
    n_mels: int,
    fmin: float,
    fmax: float | None,
    htk: bool,
    norm: Any = "slaney",
) -> Tensor:
    """Return librosa's triangular mel bands, (D, K)."""
    try:
        from librosa.filters import mel
    except ModuleNotFoundError as error:
        if error.name != "librosa":
            raise
        raise MissingDependencyError("librosa", "nemo", "computing mel features") from error
    bands = mel(
        sr=sample_rate,
        n_fft=n_fft,
        n_mels=n_mels,
        fmin=fmin,
        fmax=sample_rate / 2 if fmax is None else fmax,
        htk=htk,
        norm=norm,
    )
    return torch.from_numpy(bands).float()


def samples(options: Mapping[str, Any], seconds: str, count: str, default: float) -> int:
    """Return a length in samples of a NeMo preprocessor's options, as NeMo rounds it."""
    if options.get(count):
        return int(options[count])
    return int(float(options.get(seconds) or default) * int(options.get("sample_rate", 16000)))
