"""From data folders to the streams of batches that a search draws from."""

from __future__ import annotations

import logging
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lhotse import CutSet

from nas_encoder.data import (
    AsrLoader,
    Batch,
    FeatureExtractor,
    TokenSet,
    check_data,
    open_cuts,
    split_half,
    texts,
)
from nas_encoder.data.tokens import TOKEN_KINDS
from nas_encoder.errors import CheckpointError
from nas_encoder.search.config.gradient import SearchConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.gradient.position import Streams

if TYPE_CHECKING:
    from nas_encoder.search.config.trials import TrialsConfig

logger = logging.getLogger(__name__)


def open_streams(
    config: SearchConfig,
    train: str | Path,
    valid: str | Path | None,
    seed: int,
    folder: RunFolder,
    resumed: bool,
    rank: int = 0,
    world_size: int = 1,
    pinned: bool = False,
) -> Streams:
    """Read and check the data of a search; record tokens and feature statistics.

    Args:
        config: The checked configuration.
        train: Kaldi/ESPnet folder, NeMo manifest or lhotse cuts.
        valid: Data of the same kinds, or None.
        seed: Of everything random.
        folder: The run folder.
        resumed: Whether the run goes on, so that the data must be those of its beginning.
        rank: This process, of ``world_size`` that share every batch.
        world_size: Number of processes.
        pinned: Whether batches come in page-locked memory, for a GPU.

    Raises:
        DataError: The data cannot be used; all problems found are listed.
        CheckpointError: The data have changed since the run began.
    """
    train_cuts = open_cuts(train)
    tokens = build_tokens(config, train_cuts)
    features = FeatureExtractor.fit(config.features, train_cuts, seed=seed, progress=rank == 0)
    if config.train_utterances is not None:
        # The tokens and the statistics are still those of all the training data.
        train_cuts = sample(train_cuts, config.train_utterances, seed)
    half, other = split_half(train_cuts, seed)
    valid_cuts = open_cuts(valid) if valid is not None else other
    batch = config.batch
    factor = config.encoder_config(config.stages[0]).subsampling_factor
    report = check_data(
        train_cuts,
        valid_cuts,
        tokens,
        features,
        subsampling_factor=factor,
        max_frames=batch.longest_utterance,
        min_frames=batch.shortest_utterance,
        seed=seed,
    )
    logger.info("%s", report)
    if resumed:
        _require_same_data(folder, tokens, features)
    folder.save_data(tokens, features)

    def loader(cuts: CutSet, shuffle: bool, augment: bool, offset: int, split: bool) -> AsrLoader:
        return AsrLoader(
            cuts,
            tokens,
            features,
            max_cuts=batch.max_utterances,
            max_frames=batch.max_frames,
            shuffle=shuffle,
            seed=seed + offset,
            num_workers=batch.workers,
            pin_memory=pinned,
            spec_augment=config.augment if augment else None,
            rank=rank if split else 0,
            world_size=world_size if split else 1,
            split=split,
            min_length=max(batch.shortest_utterance, factor),
            max_length=batch.longest_utterance,
            subsampling_factor=factor,
        )

    if config.architecture_data == "valid":
        weights_cuts, architecture_cuts = train_cuts, valid_cuts
    else:
        weights_cuts, architecture_cuts = half, other
    # Without validation data, the score is measured on what no network was trained on.
    retrain_cuts = train_cuts if valid is not None else half
    score_cuts = sample(valid_cuts, config.trainer.score_utterances, seed)
    return Streams(
        weights=loader(weights_cuts, True, True, 0, split=True),
        architecture=loader(architecture_cuts, True, True, 1, split=True),
        # Every process measures the score on all of it, so that nothing has to be exchanged.
        score=loader(score_cuts, False, False, 2, split=False),
        vocabulary=len(tokens),
        retrain=loader(retrain_cuts, True, True, 3, split=True),
    )


def build_tokens(config: SearchConfig | TrialsConfig, train_cuts: CutSet) -> TokenSet:
    """Collect the tokens of the training texts, or read the list that the configuration names."""
    if config.tokens in TOKEN_KINDS:
        return TokenSet.build(texts(train_cuts), kind=config.tokens, size=config.bpe_size)
    return TokenSet.load(config.tokens, kind=config.token_kind)


def _require_same_data(folder: RunFolder, tokens: TokenSet, features: FeatureExtractor) -> None:
    """Compare what the training data gave when the run began with what they give now."""
    problems = []
    if TokenSet.load(folder.path / "tokens.txt", kind=tokens.kind) != tokens:
        problems.append("the tokens of the training data are others than when the run began")
    if FeatureExtractor.load(folder.path / "features.json").cmvn != features.cmvn:
        problems.append("the training audio is other than when the run began")
    if problems:
        raise CheckpointError(f"cannot resume {folder.path}", problems)


def epoch_of(loader: AsrLoader, epoch: int, start: int = 0) -> Iterator[Batch]:
    """Return an epoch's batches from one on."""
    loader.set_epoch(epoch)
    return loader.iterate(start)


def sample(cuts: Iterable[Any], count: int, seed: int) -> CutSet:
    """Return so many utterances, drawn at random; all where there are no more."""
    listed = sorted(cuts, key=lambda cut: str(cut.id))
    if len(listed) > count:
        listed = random.Random(seed).sample(listed, count)
    return CutSet.from_cuts(listed)
