"""From data folders to batches: opened, tokenized, measured, checked, loaded."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lhotse import CutSet

from nas_encoder.data import (
    AsrLoader,
    Batch,
    FeatureExtractor,
    LoaderConfig,
    TokenSet,
    check_data,
    fit_tokens,
    open_cuts,
    split_half,
    transcripts,
)
from nas_encoder.data.fingerprint import Fingerprint
from nas_encoder.training.config import DataConfig

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SpeechData:
    """Checked data."""

    config: DataConfig
    cuts: Mapping[str, CutSet]  # ``train`` and the other sets, by name
    tokens: TokenSet  # tokens of the training texts
    features: FeatureExtractor  # features with the statistics of the training audio
    factor: int  # input frames per output frame
    min_length: int  # frames of the shortest utterance used
    seed: int  # seed of the random splits and samples
    fingerprints: Mapping[str, Fingerprint]  # of the sets as opened

    def loader(self, cuts: CutSet, train: bool, **options: Any) -> AsrLoader:
        """Return a loader of cuts; ``train`` shuffles and augments.

        ``options`` override those of :class:`~nas_encoder.data.LoaderConfig`.
        """
        batch = self.config.batch
        settings = LoaderConfig(
            max_cuts=batch.max_utterances,
            max_frames=batch.max_frames,
            shuffle=train,
            seed=self.seed,
            num_workers=batch.workers,
            spec_augment=self.config.augment if train else None,
            min_length=self.min_length,
            max_length=batch.longest_utterance,
            subsampling_factor=self.factor,
        )
        return AsrLoader(cuts, self.tokens, self.features, replace(settings, **options))

    def sample(self, name: str, count: int) -> CutSet:
        """Return ``count`` random utterances, or all if there are no more."""
        return _sample(self.cuts[name], count, self.seed)


def open_data(
    config: DataConfig,
    paths: Mapping[str, str | Path | None],
    *,
    factor: int,
    min_length: int,
    seed: int = 0,
    halves: bool = False,
    progress: bool = True,
    check: Callable[[Mapping[str, Fingerprint]], None] = lambda sets: None,
) -> SpeechData:
    """Read and check data.

    Args:
        config: Tokens, features and batches.
        paths: ``train`` and other sets, which are checked against it: Kaldi/ESPnet folders, NeMo
            manifests or lhotse cuts.
        factor: Input frames per output frame of the networks.
        min_length: Shortest utterance that they accept, in frames.
        seed: Seed of all randomness.
        halves: Whether to split ``train`` at random into ``half`` and ``other_half``; the latter
            replaces a set whose path is None.
        progress: Whether to show progress.
        check: Called with the fingerprint of each set, before anything expensive.

    Raises:
        DataError: The data cannot be used; all problems found are listed.
    """
    cuts = {name: open_cuts(path) for name, path in paths.items() if path is not None}
    train = cuts["train"]
    tokens = fit_tokens(
        config.tokens,
        {name: transcripts(own) for name, own in cuts.items()},
        kind=config.token_kind,
        size=config.bpe_size,
        unknown=config.unknown_tokens,
    )
    fingerprints = {name: Fingerprint.of(found, tokens) for name, found in cuts.items()}
    check(fingerprints)
    features = FeatureExtractor.fit(config.features, train, seed=seed, progress=progress)
    if config.train_utterances is not None:
        # Tokens and statistics are still those of all training data.
        cuts["train"] = train = _sample(train, config.train_utterances, seed)
    if halves:
        cuts["half"], cuts["other_half"] = split_half(train, seed)
    shortest = max(config.batch.shortest_utterance, min_length)
    for name, path in paths.items():
        if name == "train":
            continue
        if path is None:
            cuts[name] = cuts["other_half"]
        report = check_data(
            cuts["half"] if path is None else train,
            cuts[name],
            tokens,
            features,
            subsampling_factor=factor,
            max_frames=config.batch.longest_utterance,
            min_frames=shortest,
            seed=seed,
        )
        logger.info("%s", report)
    return SpeechData(config, cuts, tokens, features, factor, shortest, seed, fingerprints)


def epoch_of(loader: AsrLoader, epoch: int, start: int = 0) -> Iterator[Batch]:
    """Return an epoch's batches from batch ``start`` on."""
    loader.set_epoch(epoch)
    return loader.iterate(start)


def _sample(cuts: Iterable[Any], count: int, seed: int) -> CutSet:
    listed = sorted(cuts, key=lambda cut: str(cut.id))
    if len(listed) > count:
        listed = random.Random(seed).sample(listed, count)
    return CutSet.from_cuts(listed)
