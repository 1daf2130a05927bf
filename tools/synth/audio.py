"""Waveforms: resampling, silence around the speech, noise, reverberation, level."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import numpy.typing as npt
from scipy.signal import fftconvolve, resample_poly

from tools.synth import espeak

SAMPLE_RATE = 16_000
"""Rate of every corpus in Hz."""

RATIO = Fraction(SAMPLE_RATE, espeak.SAMPLE_RATE)
"""Corpus samples for each espeak sample."""

PEAK = 0.9
"""No sample exceeds this part of full scale."""

_FULL_SCALE = 32768.0
_FLOOR_RMS = 3.0  # noise of a quiet recording, in 16-bit steps: about -81 dB re full scale

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recording:
    """A finished utterance.

    Attributes:
        samples: Shape (N,), int16, at :data:`SAMPLE_RATE`.
        first: Corpus sample at which the first phone starts.
        origin: espeak sample that became ``first``.
        snr: Signal-to-noise ratio in dB, None without added noise.
        limited: Whether the level was lowered to keep the peak below :data:`PEAK`.
    """

    samples: npt.NDArray[np.int16]
    first: int
    origin: int
    snr: float | None
    limited: bool

    def position(self, sample: int) -> int:
        """Return the corpus sample of an espeak sample."""
        return min(self.first + round((sample - self.origin) * RATIO), len(self.samples))


@dataclass(frozen=True)
class Conditions:
    """Range of the signal-to-noise ratio in dB, None for no added noise; and rooms or none."""

    snr: tuple[float, float] | None = None
    reverb: bool = False


def record(speech: espeak.Speech, conditions: Conditions, rng: np.random.Generator) -> Recording:
    """Turn speech into a recording: silence before and after, a room, noise, a level.

    Times of phones stay exact: resampling is zero-phase, and a room's direct path has no delay.
    """
    origin = speech.first_sample
    dry = resample_poly(
        speech.samples[origin:].astype(np.float64), RATIO.numerator, RATIO.denominator
    )
    before, after = (int(SAMPLE_RATE * second) for second in rng.uniform(0.08, 0.20, size=2))
    power = float(np.mean(dry**2))
    signal = np.concatenate([np.zeros(before), dry, np.zeros(after)])
    if conditions.reverb:
        # The silence at the end contains the last reflections.
        signal = fftconvolve(signal, room_response(rng))[: len(signal)]
    target = 10.0 ** (rng.uniform(-30.0, -22.0) / 20.0) * _FULL_SCALE
    gain = target / np.sqrt(power)
    snr = None
    if conditions.snr is not None:
        snr = float(rng.uniform(*conditions.snr))
        noise = coloured_noise(len(signal), rng)
        signal = signal + noise * np.sqrt(power * 10.0 ** (-snr / 10.0))
    signal = signal * gain
    limit = PEAK * _FULL_SCALE
    limited = bool(np.abs(signal).max() > limit - 6 * _FLOOR_RMS)
    if limited:
        signal = signal * ((limit - 6 * _FLOOR_RMS) / np.abs(signal).max())
    signal = signal + np.clip(rng.standard_normal(len(signal)), -5.0, 5.0) * _FLOOR_RMS
    samples = np.round(signal).astype(np.int16)
    return Recording(samples, before, origin, snr, limited)


def coloured_noise(length: int, rng: np.random.Generator) -> FloatArray:
    """Draw noise (length,) between white and brown, its loudness drifting, mean power 1."""
    spectrum = np.fft.rfft(rng.standard_normal(length))
    frequency = np.maximum(np.fft.rfftfreq(length, 1.0 / SAMPLE_RATE), 50.0)
    noise = np.fft.irfft(spectrum * frequency ** -rng.uniform(0.0, 1.0), n=length)
    period, phase = rng.uniform(0.5, 3.0), rng.uniform(0.0, 2.0 * np.pi)
    drift = 3.0 * np.sin(2.0 * np.pi * np.arange(length) / (SAMPLE_RATE * period) + phase)
    noise = noise * 10.0 ** (drift / 20.0)
    result: FloatArray = noise / np.sqrt(np.mean(noise**2))
    return result


def room_response(rng: np.random.Generator) -> FloatArray:
    """Draw a room's impulse response: the direct path, then exponentially decaying noise.

    The statistical model of J.-D. Polack (1988): late reflections are Gaussian noise under an
    envelope that falls by 60 dB within the reverberation time, here 0.2 to 0.6 s. The direct
    path, the first sample (1) of shape (R,), is 0 to 9 dB louder than all reflections together.
    """
    seconds = rng.uniform(0.2, 0.6)
    length = int(SAMPLE_RATE * seconds)
    decay = 10.0 ** (-3.0 * np.arange(length) / length)
    tail = rng.standard_normal(length) * decay
    tail[: int(SAMPLE_RATE * rng.uniform(0.002, 0.008))] = 0.0
    tail *= np.sqrt(10.0 ** (-rng.uniform(0.0, 9.0) / 10.0) / np.sum(tail**2))
    tail[0] = 1.0
    result: FloatArray = tail
    return result


def frame_count(samples: int) -> int:
    """Return the number of 25 ms frames, 10 ms apart, that fit into the samples."""
    return max(0, 1 + (samples - SAMPLE_RATE // 40) // (SAMPLE_RATE // 100))
