"""Pre-flight check: finds everything that would spoil a search, in seconds."""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
from lhotse import CutSet

from nas_encoder.common.seeding import derive_seed
from nas_encoder.data.features import FeatureConfig, FeatureExtractor
from nas_encoder.data.listening import listen
from nas_encoder.data.manifests import speaker_of, transcripts
from nas_encoder.data.selection import REASONS, select_utterances
from nas_encoder.data.splitting import UNK
from nas_encoder.data.tokens import TokenSet
from nas_encoder.errors import DataError

logger = logging.getLogger(__name__)
MANY = 0.1  # of the utterances: so many that are too long are not left out without a warning


@dataclass
class SplitReport:
    """What a split holds and how much of it will be used.

    ``sampling_rates`` are Hz -> utterances, ``used`` counts what a loader keeps, ``too_short``,
    ``too_long`` and ``infeasible`` (more tokens than CTC can place) what it leaves out;
    ``unknown_tokens`` are token -> (occurrences, an utterance); ``listened`` is the number of
    utterances whose audio was read.
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
    listened: int = 0

    def __str__(self) -> str:
        rates = ", ".join(f"{rate} Hz" for rate in sorted(self.sampling_rates))
        counts = {reason: getattr(self, name) for name, reason in REASONS.items()}
        left_out = [f"{count} {reason}" for reason, count in counts.items() if count]
        return (
            f"{self.name}: {self.utterances} utterances, {self.hours:.2f} h, "
            f"{self.speakers} speakers, {rates}; used {self.used} ({self.used_hours:.2f} h)"
            + (f"; left out: {', '.join(left_out)}" if left_out else "")
            + (
                f"; audio: all {self.listened} read"
                if self.listened == self.utterances
                else f"; audio: probed {self.listened} of {self.utterances}"
            )
        )


@dataclass
class DataReport:
    """Result of :func:`check_data`; ``tokens`` is the size of the token set."""

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
    probe: int | None = 8,
    seed: int = 0,
    raise_errors: bool = True,
    unknown: str = "unk",
    jobs: int | None = None,
    progress: bool = False,
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
        probe: Number of random utterances of each split whose audio is read; None for all.
        seed: Seed of that choice.
        raise_errors: Whether to raise; if not, see ``report.errors``.
        unknown: ``unk`` or ``error``; without ``<unk>`` among the tokens, unknown ones are errors.
        jobs: Threads that read audio; by default one per processor, at most 8.
        progress: Whether to show a bar, with the time that is left, while audio is read.

    Raises:
        ConfigError: Feature settings are out of range.
        DataError: The data have errors; those of both splits are listed.
    """
    if isinstance(features, FeatureConfig):  # the check needs no statistics
        features = FeatureExtractor.fit(replace(features, normalization="none"), train)
    limits = {
        "min_length": min_frames,
        "max_length": max_frames,
        "subsampling_factor": subsampling_factor,
    }
    report = DataReport(SplitReport("train"), SplitReport("valid"), len(tokens))
    forbidden = unknown == "error" or not tokens.has_unk
    told: list[str] = []  # when the tokens were made
    for split, cuts in ((report.train, list(train)), (report.valid, list(valid))):
        told += _check_split(split, cuts, tokens, features, limits, report.errors, forbidden)
        if max_frames is not None and split.too_long > split.utterances * MANY:
            report.warnings.append(
                f"{split.name}: {split.too_long} of {split.utterances} utterances are left out, as "
                f"they are longer than {max_frames} frames "
                f"({max_frames * features.config.frame_shift:g} s); to use them: --set "
                "batch.longest_utterance=FRAMES, of 'data check' --max-frames"
            )
        chosen = cuts
        if probe is not None and probe < len(cuts):
            chosen = random.Random(derive_seed(seed)).sample(cuts, probe)
        split.listened = len(chosen)
        errors, warnings = listen(split.name, chosen, features, jobs=jobs, progress=progress)
        report.errors += errors
        report.warnings += warnings
    _check_between(list(train), list(valid), report.warnings)
    rates = {*report.train.sampling_rates, *report.valid.sampling_rates}
    if rates - {features.rate}:
        seen = ", ".join(f"{rate} Hz" for rate in sorted(rates))
        report.warnings.append(f"the data has {seen}; all is resampled to {features.rate} Hz")
    for text in report.warnings:
        logger.warning("%s", text)
    report.warnings += told
    if raise_errors:
        report.raise_errors()
    return report


def _check_split(
    report: SplitReport,
    cuts: Sequence[Any],
    tokens: TokenSet,
    features: FeatureExtractor,
    limits: dict[str, Any],
    errors: list[str],
    forbidden: bool,
) -> list[str]:
    """Fill in a report, add errors, and return what is read as ``<unk>``."""
    name = report.name
    if not cuts:
        errors.append(f"{name}: no utterance at all")
        return []
    pairs = transcripts(cuts)
    report.utterances = len(cuts)
    report.hours = sum(cut.duration for cut in cuts) / 3600
    report.speakers = len({speaker_of(cut) for cut in cuts} - {None})
    report.sampling_rates = dict(Counter(int(cut.sampling_rate) for cut in cuts))
    missing = tokens.missing(pairs)
    report.unknown_tokens = missing.found
    errors.extend(f"{name}: {line}" for line in missing.problems(forbidden))
    # Feasibility depends only on the pattern of repetitions, so it holds without <unk> too.
    numbers: dict[str, int] = {}
    targets = [
        np.array(
            [
                numbers.setdefault(UNK if piece in missing.found else piece, len(numbers))
                for piece in tokens.split(text)
            ],
            dtype=np.int32,
        )
        for _, text in pairs
    ]
    frames = [features.num_frames(cut) for cut in cuts]
    spelled = [text for _, text in pairs] if tokens.kind == "char" else ()
    selection = select_utterances(frames, targets, **limits, spelled=spelled)
    report.used = len(selection.kept)
    report.used_hours = sum(cuts[index].duration for index in selection.kept) / 3600
    for reason in REASONS:
        setattr(report, reason, len(getattr(selection, reason)))
    errors.extend(f"{name}: {line}" for line in selection.problems())
    if selection.counts():
        logger.info("%s", report)
        logger.info("%s leaves out: %s", name, selection.named([cut.id for cut in cuts]))
    return [f"{name}: read as {UNK}: {missing}"] if missing.found and not forbidden else []


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
