"""Pre-flight check: finds everything that would spoil a search, in seconds."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from lhotse import CutSet

from nas_encoder.common.seeding import derive_seed
from nas_encoder.data.features import FeatureConfig, FeatureExtractor
from nas_encoder.data.findings import Findings
from nas_encoder.data.manifests import speaker_of, text_of
from nas_encoder.data.selection import select_utterances
from nas_encoder.data.tokens import UNK, TokenSet
from nas_encoder.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass
class SplitReport:
    """What a split holds and how much of it will be used.

    Attributes:
        name: ``train`` or ``valid``.
        utterances: Number of utterances.
        hours: Their total length.
        speakers: Number of named speakers.
        sampling_rates: Hz -> utterances.
        used: Utterances that a loader keeps.
        used_hours: Their total length.
        too_short: Utterances with fewer frames than the encoder accepts.
        too_long: Utterances with more than ``max_frames``.
        infeasible: Utterances with more tokens than CTC can place on the output frames.
        unknown_tokens: token -> (occurrences, an utterance).
    """

    name: str
    utterances: int = 0
    hours: float = 0.0
    speakers: int = 0
    sampling_rates: dict[int, int] = field(default_factory=dict)
    used: int = 0
    used_hours: float = 0.0
    too_short: int = 0
    too_long: int = 0
    infeasible: int = 0
    unknown_tokens: dict[str, tuple[int, str]] = field(default_factory=dict)

    def __str__(self) -> str:
        rates = ", ".join(f"{rate} Hz" for rate in sorted(self.sampling_rates))
        left_out = [
            f"{count} {reason}"
            for reason, count in (
                ("too short", self.too_short),
                ("too long", self.too_long),
                ("CTC-infeasible", self.infeasible),
            )
            if count
        ]
        return (
            f"{self.name}: {self.utterances} utterances, {self.hours:.2f} h, "
            f"{self.speakers} speakers, {rates}; used {self.used} ({self.used_hours:.2f} h)"
            + (f"; left out: {', '.join(left_out)}" if left_out else "")
        )


@dataclass
class DataReport:
    """Result of :func:`check_data`.

    Attributes:
        train: The training split.
        valid: The validation split.
        tokens: Size of the token set.
        errors: What makes the data unusable.
        warnings: What the user should know.
    """

    train: SplitReport
    valid: SplitReport
    tokens: int
    errors: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    @property
    def ok(self) -> bool:
        """Whether a search may start."""
        return not self.errors

    def raise_errors(self) -> None:
        """Raise all errors, if any, as one :class:`DataError`."""
        if self.errors:
            raise DataError("data check", self.errors)

    def to_dict(self) -> dict[str, Any]:
        """Return plain types for JSON."""
        return {"ok": self.ok, **asdict(self)}

    def __str__(self) -> str:
        lines = [str(self.train), str(self.valid), f"tokens: {self.tokens}"]
        lines += [f"warning: {text}" for text in self.warnings]
        lines += [f"error: {text}" for text in self.errors]
        return "\n".join(lines)


def check_data(
    train: CutSet,
    valid: CutSet,
    tokens: TokenSet,
    features: FeatureExtractor | FeatureConfig,
    *,
    subsampling_factor: int = 4,
    max_frames: int | None = 1024,
    min_frames: int | None = None,
    probe: int = 8,
    seed: int = 0,
    raise_errors: bool = True,
) -> DataReport:
    """Check training and validation data against tokens, features and the network.

    Utterances are left out, and logged, by the rules of :class:`AsrLoader` with the same
    ``min_length``, ``max_length`` and ``subsampling_factor``.

    Args:
        train: Training data, from :func:`open_cuts`.
        valid: Validation data.
        tokens: The token set.
        features: The extractor, or only its settings (statistics are not needed).
        subsampling_factor: Input frames per output frame of the encoder.
        max_frames: Longest utterance used.
        min_frames: Shortest utterance the encoder accepts.
        probe: Number of random utterances of each split to read and turn into features.
        seed: Seed of that choice.
        raise_errors: Whether to raise; if not, see ``report.errors``.

    Raises:
        ConfigError: Feature settings are out of range.
        DataError: The data have errors; those of both splits are listed.
    """
    errors: list[str] = []
    extractor = _extractor(features, train)
    reports = []
    warnings: list[str] = []
    for name, cuts in (("train", train), ("valid", valid)):
        listed = list(cuts)
        limits = {
            "min_length": min_frames,
            "max_length": max_frames,
            "subsampling_factor": subsampling_factor,
        }
        reports.append(_check_split(name, listed, tokens, extractor, limits, errors, warnings))
        _probe(name, listed, extractor, probe, seed, errors)
    _check_between(list(train), list(valid), warnings)
    rates = {rate for report in reports for rate in report.sampling_rates}
    if rates - {extractor.rate}:
        seen = ", ".join(f"{rate} Hz" for rate in sorted(rates))
        warnings.append(f"the data has {seen}; all is resampled to {extractor.rate} Hz")
    report = DataReport(reports[0], reports[1], len(tokens), errors, warnings)
    for text in warnings:
        logger.warning("%s", text)
    if raise_errors:
        report.raise_errors()
    return report


def _extractor(features: FeatureExtractor | FeatureConfig, train: CutSet) -> FeatureExtractor:
    if isinstance(features, FeatureExtractor):
        return features
    problems = features.problems()
    if problems:
        raise ConfigError("features", problems)
    # The check needs no statistics, so none are computed.
    config = FeatureConfig(**{**asdict(features), "normalization": "none"})
    return FeatureExtractor.fit(config, train)


def _check_split(
    name: str,
    cuts: Sequence[Any],
    tokens: TokenSet,
    features: FeatureExtractor,
    limits: dict[str, int | None],
    errors: list[str],
    warnings: list[str],
) -> SplitReport:
    report = SplitReport(name, utterances=len(cuts))
    if not cuts:
        errors.append(f"{name}: no utterance at all")
        return report
    pairs = [(cut.id, text_of(cut)) for cut in cuts]
    report.hours = sum(cut.duration for cut in cuts) / 3600
    report.speakers = len({speaker_of(cut) for cut in cuts} - {None})
    report.sampling_rates = dict(Counter(int(cut.sampling_rate) for cut in cuts))
    report.unknown_tokens = tokens.unknown(pairs)
    unknown = tokens.unknown_problems(pairs)
    if unknown and not tokens.has_unk:
        errors.extend(f"{name}: {line}" for line in unknown[1])
    elif unknown:
        warnings.append(f"{name}: {unknown[0]} tokens are mapped to {UNK}: {'; '.join(unknown[1])}")
    # Feasibility depends only on the pattern of repetitions, so unknown tokens are harmless.
    numbers: dict[str, int] = {}
    targets = [
        np.array([numbers.setdefault(p, len(numbers)) for p in tokens.split(text)], dtype=np.int32)
        for _, text in pairs
    ]
    frames = [features.num_frames(cut) for cut in cuts]
    selection = select_utterances(frames, targets, **limits)
    report.used = len(selection.kept)
    report.used_hours = sum(cuts[index].duration for index in selection.kept) / 3600
    report.too_short = len(selection.too_short)
    report.too_long = len(selection.too_long)
    report.infeasible = len(selection.infeasible)
    errors.extend(f"{name}: {line}" for line in selection.problems())
    if selection.counts():
        logger.info("%s", report)
    return report


def _probe(
    name: str,
    cuts: Sequence[Any],
    features: FeatureExtractor,
    count: int,
    seed: int,
    errors: list[str],
) -> None:
    """Read a few utterances, to find unreadable or NaN audio before the search starts."""
    findings = Findings(name)
    chosen = random.Random(derive_seed(seed)).sample(list(cuts), min(count, len(cuts)))
    for cut in chosen:
        if features.num_frames(cut) < 1:  # counted as too short
            continue
        try:
            features.extract(cut)
        except DataError as error:
            findings.add("; ".join(error.problems), error.subject)
    errors.extend(f"{name}: {line}" for line in findings.problems())


def _check_between(train: Sequence[Any], valid: Sequence[Any], warnings: list[str]) -> None:
    """Look for overlaps that make validation results too good."""
    speakers = {speaker_of(c) for c in train} & {speaker_of(c) for c in valid} - {None}
    if speakers:
        names = ", ".join(sorted(str(s) for s in speakers)[:5])
        warnings.append(f"{len(speakers)} speakers are in both train and valid ({names}, ...)")
    ids = {cut.id for cut in train} & {cut.id for cut in valid}
    if ids:
        warnings.append(f"{len(ids)} utterance ids are in both train and valid ({min(ids)}, ...)")
    if not any(speaker_of(cut) for cut in train):
        warnings.append("train names no speakers, so their overlap with valid is not known")
