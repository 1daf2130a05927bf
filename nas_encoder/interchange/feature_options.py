"""The options of both toolkits' features, with their rules."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nas_encoder.common.fields import (
    Declared,
    anything,
    choice,
    flag,
    integer,
    number,
    option,
)
from nas_encoder.common.problems import LARGEST, Problems, is_number, show

NORMALIZATIONS = ("global", "utterance")
WINDOWS = ("hann", "hamming", "blackman", "bartlett")


@dataclass(frozen=True)
class ESPnetOptions(Declared):
    """The options of ESPnet's default frontend and of its normalisation.

    Attributes:
        sample_rate: Rate in Hz.
        n_fft: Points of the Fourier transform.
        win_length: Samples of the window; None for ``n_fft``.
        hop_length: Samples between frames.
        window: Name of a periodic window of torch.
        center: Whether frame t is centred at sample t * hop_length.
        normalized: Whether the transform is scaled by the square root of the window's length.
        n_mels: D.
        fmin: Lowest frequency in Hz; None for 0.
        fmax: Highest frequency in Hz; None for half the sample rate.
        htk: HTK's mel scale instead of Slaney's.
        normalize: None, ``global`` (by the buffers ``mean`` and ``std``) or ``utterance``.
        norm_means: Whether to subtract the mean.
        norm_vars: Whether to divide by the deviation.
        eps: Smallest deviation, for ``utterance``.
    """

    sample_rate: int = option(16000, integer(1))
    n_fft: int = option(512, integer(1))
    win_length: int | None = option(None, integer(1))
    hop_length: int = option(128, integer(1))
    window: str = option("hann", choice("window", WINDOWS))
    center: bool = option(True, flag)
    normalized: bool = option(False, flag)
    n_mels: int = option(80, integer(1))
    fmin: float | None = option(None, number(0, why=" (Hz)"))
    fmax: float | None = option(None, number(0, why=" (Hz)"))
    htk: bool = option(False, flag)
    normalize: str | None = option(None, choice("normalization", NORMALIZATIONS))
    norm_means: bool = option(True, flag)
    norm_vars: bool = option(True, flag)
    eps: float = option(1e-20, number(0, above=True))

    def conflicts(self, found: Problems) -> None:
        """Check that the window fits into a transform and the frequency range is not empty."""
        if self.win_length is not None and self.win_length > self.n_fft:
            rule = f"must be at most n_fft {self.n_fft}, got {self.win_length}"
            found.conflict("win_length", rule, "n_fft")
        half = self.sample_rate / 2
        if not (self.fmin or 0) < (half if self.fmax is None else self.fmax) <= half:
            rule = (
                f"must be above fmin and at most half the sample rate, {half:g} Hz, got "
                f"{show(self.fmax)} with fmin {show(self.fmin)}"
            )
            found.conflict("fmax", rule, "fmin", "sample_rate")


def _guard(value: Any, path: str, problems: Problems) -> float | str | None:
    """Allow numbers and the names of two constants of torch."""
    if is_number(value) or value in ("tiny", "eps"):
        return value  # type: ignore[no-any-return]
    problems.add(path, f"must be a number, tiny or eps, got {show(value)}")
    return None


@dataclass(frozen=True)
class NeMoOptions(Declared):
    """The options of NeMo's ``AudioToMelSpectrogramPreprocessor``, with lengths in samples.

    Attributes:
        sample_rate: Rate in Hz.
        n_window_size: Samples of the window.
        n_window_stride: Samples between frames.
        window: Name of a symmetric window of torch.
        normalize: ``per_feature`` or ``all_features``; anything else turns it off.
        n_fft: Points of the Fourier transform; None for the next power of 2.
        preemph: Factor of the pre-emphasis; None for none.
        features: D.
        lowfreq: Lowest frequency in Hz.
        highfreq: Highest frequency in Hz; None for half the sample rate.
        log: Whether to take the logarithm.
        log_zero_guard_type: ``add`` or ``clamp``.
        log_zero_guard_value: A number, ``tiny`` or ``eps``.
        dither: Deviation of the noise added in training.
        mag_power: Exponent of the magnitudes.
        mel_norm: librosa's ``norm``.
    """

    sample_rate: int = option(16000, integer(1))
    n_window_size: int = option(320, integer(1))
    n_window_stride: int = option(160, integer(1))
    window: str = option("hann", choice("window", WINDOWS))
    normalize: str | None = option("per_feature", anything, null=True)
    n_fft: int | None = option(None, integer(0))
    preemph: float | None = option(0.97, number(-LARGEST), null=True)
    features: int = option(64, integer(1))
    lowfreq: float = option(0, number(0))
    highfreq: float | None = option(None, number(0))
    log: bool = option(True, flag)
    log_zero_guard_type: str = option("add", choice("guard", ("add", "clamp")))
    log_zero_guard_value: float | str = option(2**-24, _guard)
    dither: float = option(1e-5, number(0))
    mag_power: float = option(2.0, number(0, above=True))
    mel_norm: Any = option("slaney", anything, null=True)

    @property
    def points(self) -> int:
        """Points of the Fourier transform."""
        return self.n_fft or 1 << (self.n_window_size - 1).bit_length()

    def conflicts(self, found: Problems) -> None:
        """Check that the window fits into a transform."""
        if self.n_window_size > self.points:
            rule = f"must be at most n_fft {self.n_fft}, got {self.n_window_size}"
            found.conflict("n_window_size", rule, "n_fft")
