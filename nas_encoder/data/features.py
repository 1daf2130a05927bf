"""Log-mel filterbank features by lhotse (Kaldi-compatible), with mean and variance normalisation.

Frames are centred (no snipped edges): an utterance of N samples has
``floor(N / shift + 1/2)`` frames, so the number is known without reading audio.
"""

from __future__ import annotations

import json
import logging
import math
import random
import warnings
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lhotse
import torch
from lhotse.audio.utils import AudioLoadingError, DurationMismatchError
from torch import Tensor
from tqdm import tqdm

from nas_encoder.common.documents import differences, write_lines
from nas_encoder.common.fields import Declared, choice, integer, number, option, section, tuple_of
from nas_encoder.common.problems import Problems
from nas_encoder.common.seeding import derive_seed, one_thread, seeded
from nas_encoder.data.audio import check_header, why_unread
from nas_encoder.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

NORMALIZATIONS = ("global", "utterance", "none")
_STD_FLOOR = 1e-3  # log-mel units; keeps digital silence finite
_FORMAT = 1
# lhotse checks manifest against file by assertions; soundfile's LibsndfileError is a RuntimeError.
_WRONG = (AssertionError, OSError, RuntimeError, ValueError)


@dataclass(frozen=True)
class FeatureConfig(Declared):
    """Settings of the features.

    Attributes:
        num_mel_bins: F, number of filters.
        sampling_rate: Rate in Hz that audio is resampled to. None: the data's own, single rate.
        frame_length: Window length in seconds.
        frame_shift: Window shift in seconds.
        dither: Standard deviation of added noise, for samples in [-1, 1]; 0 is none.
        normalization: ``global`` (statistics of the training set), ``utterance`` or ``none``.
    """

    num_mel_bins: int = option(40, integer(4, 256))
    sampling_rate: int | None = option(16000, integer(4000, 96000, " (Hz)"), null=True)
    frame_length: float = option(0.025, number(0.001, 0.2, why=" (seconds)"))
    frame_shift: float = option(0.01, number(0.001, 0.1, why=" (seconds)"))
    dither: float = option(0.0, number(0, 1))
    normalization: str = option("global", choice("normalization", NORMALIZATIONS))

    def conflicts(self, found: Problems) -> None:
        """Check that no sample lies between two windows."""
        if self.frame_length < self.frame_shift:
            found.conflict(
                "frame_length",
                f"must be at least frame_shift {self.frame_shift:g}, got {self.frame_length:g}",
                "frame_shift",
            )


@dataclass(frozen=True)
class Cmvn(Declared):
    """Mean and (floored) standard deviation of F bins over a training set of this size."""

    mean: tuple[float, ...] = option((), tuple_of(number(-1e9, 1e9), 1, 256))
    std: tuple[float, ...] = option((), tuple_of(number(0, 1e9, above=True), 1, 256))
    frames: int = option(0, integer(1))
    utterances: int = option(0, integer(1))


@dataclass(frozen=True)
class _Saved(Declared):
    """What :meth:`FeatureExtractor.save` writes."""

    format: int = option(_FORMAT, integer(_FORMAT, _FORMAT))
    config: FeatureConfig = option(FeatureConfig, section(FeatureConfig))
    cmvn: Cmvn | None = option(None, section(Cmvn))


class FeatureExtractor:
    """Turns a cut into a feature matrix.

    Args:
        config: The settings, with a definite sampling rate (see :meth:`fit`).
        cmvn: Global statistics, given if and only if ``normalization='global'``.

    Raises:
        ConfigError: Settings are wrong; all are listed.
    """

    def __init__(self, config: FeatureConfig, cmvn: Cmvn | None = None) -> None:
        problems = config.problems("features")
        if config.sampling_rate is None:
            problems.append("features.sampling_rate: null needs data, use FeatureExtractor.fit")
        if (cmvn is not None) != (config.normalization == "global"):
            problems.append(
                "features.normalization: 'global' and statistics (cmvn) go together, got "
                f"{config.normalization!r} {'with' if cmvn else 'without'} statistics"
            )
        if cmvn is not None and not len(cmvn.mean) == len(cmvn.std) == config.num_mel_bins:
            problems.append(f"statistics of {len(cmvn.mean)} bins, want {config.num_mel_bins}")
        if problems or config.sampling_rate is None:
            raise ConfigError("features", problems)
        self.config = config
        self.cmvn = cmvn
        self.rate: int = config.sampling_rate
        self._fbank = _fbank(config)
        self._window = math.floor(config.frame_length * self.rate)
        self._shift = math.floor(config.frame_shift * self.rate)
        if cmvn is not None:
            self._mean, self._std = torch.tensor(cmvn.mean), torch.tensor(cmvn.std)

    @property
    def dim(self) -> int:
        """F."""
        return self.config.num_mel_bins

    @classmethod
    def fit(
        cls,
        config: FeatureConfig,
        cuts: lhotse.CutSet,
        *,
        max_utterances: int | None = 2000,
        seed: int = 0,
        progress: bool = False,
    ) -> FeatureExtractor:
        """Build an extractor with the sampling rate and the global statistics of training data.

        Args:
            config: The settings.
            cuts: Training data.
            max_utterances: Size of the random sample for the statistics; None uses all.
            seed: Seed of the sample.
            progress: Whether to show a progress bar.

        Raises:
            ConfigError: Settings are out of range.
            DataError: Audio is unreadable, or its rates differ and ``sampling_rate`` is None.
        """
        problems = config.problems("features")
        if problems:
            raise ConfigError("features", problems)
        if config.sampling_rate is None:
            config = replace(config, sampling_rate=_single_rate(cuts))
        if config.normalization != "global":
            return cls(config)
        plain = cls(replace(config, normalization="none"))
        chosen = list(cuts)
        if max_utterances is not None and len(chosen) > max_utterances:
            positions = random.Random(derive_seed(seed)).sample(range(len(chosen)), max_utterances)
            chosen = [chosen[position] for position in sorted(positions)]
        return cls(config, plain.statistics(chosen, progress=progress))

    def statistics(self, cuts: Iterable[Any], *, progress: bool = False) -> Cmvn:
        """Return mean and deviation of the features over cuts.

        Raises:
            DataError: There are no frames, or audio is unusable.
        """
        total = torch.zeros(self.dim, dtype=torch.float64)
        squares = torch.zeros(self.dim, dtype=torch.float64)
        frames = utterances = 0
        for cut in tqdm(cuts, desc="feature statistics", unit="utt", disable=not progress):
            features = self.extract(cut).double()
            total += features.sum(0)
            squares += features.square().sum(0)
            frames += len(features)
            utterances += 1
        if not frames:
            raise DataError("feature statistics", ["the training data holds no frame"])
        mean = total / frames
        std = (squares / frames - mean.square()).clamp(min=0).sqrt().clamp(min=_STD_FLOOR)
        return Cmvn(tuple(mean.tolist()), tuple(std.tolist()), frames, utterances)

    # -- features ---------------------------------------------------------------------------

    def num_frames(self, cut: Any) -> int:
        """Return a cut's T from its metadata; 0 if it is shorter than a window."""
        samples = int(self._at_rate(cut).num_samples)
        if samples < self._least_samples:
            return 0
        return (samples + self._shift // 2) // self._shift

    @property
    def _least_samples(self) -> int:
        # The edges reflected on both sides must lie inside the signal.
        overlap = self._window - self._shift
        return max(overlap // 2, overlap - overlap // 2 + self._shift // 2, 1)

    @one_thread()
    def extract(self, cut: Any) -> Tensor:
        """Return the features (T, F), float32, normalised.

        Raises:
            DataError: The audio cannot be read, is shorter or longer than the manifest says,
                holds NaN or infinities, or is too short for one frame.
        """
        subject = f"utterance '{cut.id}'"
        expected = self.num_frames(cut)
        if expected < 1:
            raise DataError(subject, [f"{cut.duration} s of audio are too short for one frame"])
        audio = self.audio(cut)
        noise = seeded(derive_seed(*cut.id.encode())) if self.config.dither else nullcontext()
        with noise:
            features = self._fbank.extract(audio, self.rate)
        if abs(len(features) - expected) > 1:
            lengths = f"the manifest says {expected} frames, the audio has {len(features)}"
            raise DataError(subject, [lengths])
        if len(features) < expected:  # resampling may differ by a sample from the metadata
            features = torch.cat([features, features[-1:]])
        features = self._normalise(features[:expected])
        if not bool(torch.isfinite(features).all()):
            raise DataError(subject, ["its features are NaN or infinite"])
        return features

    def audio(self, cut: Any, native: bool = False) -> Tensor:
        """Return a cut's samples (1, N), float32, at the features' rate or its own (``native``).

        Raises:
            DataError: The audio cannot be read, is shorter or longer than the manifest says, or
                holds NaN or infinities.
        """
        subject = f"utterance '{cut.id}'"
        check_header(cut, subject)
        try:
            samples = (cut if native else self._at_rate(cut)).load_audio()
        except (AudioLoadingError, DurationMismatchError, *_WRONG) as error:
            source = cut.recording.sources[0]
            reason = f"its audio {source.source} cannot be read: {why_unread(source, error)}"
            raise DataError(subject, [reason]) from error
        audio = torch.from_numpy(samples[:1]).float()
        if not bool(torch.isfinite(audio).all()):
            bad = f"{int((~torch.isfinite(audio)).sum())} of {audio.numel()}"
            raise DataError(subject, [f"{bad} audio samples are NaN or infinite"])
        if native and abs(audio.numel() - cut.num_samples) > 1:
            lengths = f"the manifest says {cut.num_samples} samples, the audio has {audio.numel()}"
            raise DataError(subject, [lengths])
        return audio

    def _at_rate(self, cut: Any) -> Any:
        return cut if cut.sampling_rate == self.rate else cut.resample(self.rate)

    def _normalise(self, features: Tensor) -> Tensor:
        if self.config.normalization == "global":
            return (features - self._mean) / self._std
        if self.config.normalization == "utterance":
            std = features.std(0, unbiased=False, keepdim=True).clamp(min=_STD_FLOOR)
            return (features - features.mean(0, keepdim=True)) / std
        return features

    # -- saving -----------------------------------------------------------------------------

    def save(self, path: str | Path) -> None:
        """Write settings and statistics as JSON."""
        content = _Saved(config=self.config, cmvn=self.cmvn).to_dict()
        write_lines(Path(path), [json.dumps(content)])

    @classmethod
    def load(cls, path: str | Path) -> FeatureExtractor:
        """Read what :meth:`save` wrote.

        Raises:
            DataError: The file is missing or malformed.
        """
        subject = f"feature settings {path}"
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError) as error:
            raise DataError(subject, [f"cannot be read: {error}"]) from error
        try:
            saved = _Saved.from_dict(content, subject)
            absent = [path for path, *_ in differences(content, saved.to_dict())]
            if absent:
                raise ConfigError(subject, [f"{path}: is missing" for path in absent])
            return cls(saved.config, saved.cmvn)
        except ConfigError as error:
            raise DataError(subject, error.problems) from error


def _single_rate(cuts: Iterable[Any]) -> int:
    rates: dict[int, str] = {}
    for cut in cuts:
        rates.setdefault(int(cut.sampling_rate), cut.id)
    if len(rates) != 1:
        seen = ", ".join(f"{rate} Hz ('{utterance}')" for rate, utterance in sorted(rates.items()))
        text = f"null needs data of one sampling rate, found {seen or 'no data'}; give a rate"
        raise DataError("features.sampling_rate", [text])
    return next(iter(rates))


def _fbank(config: FeatureConfig) -> lhotse.Fbank:
    with warnings.catch_warnings():
        # lhotse computes mel centres with numpy functions on tensors, which numpy deprecates.
        warnings.simplefilter("ignore", DeprecationWarning)
        return lhotse.Fbank(
            lhotse.FbankConfig(
                sampling_rate=config.sampling_rate,
                num_filters=config.num_mel_bins,
                frame_length=config.frame_length,
                frame_shift=config.frame_shift,
                dither=config.dither,
            )
        )
