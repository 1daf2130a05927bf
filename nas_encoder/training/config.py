"""How a network is trained: data, optimizer, batches, devices and early stopping."""

from __future__ import annotations

from dataclasses import dataclass

from nas_encoder.common.fields import (
    ACCELERATORS,
    Declared,
    choice,
    flag,
    integer,
    number,
    option,
    precision,
    section,
    text,
)
from nas_encoder.common.problems import Problems, show
from nas_encoder.data import FeatureConfig, SpecAugmentConfig
from nas_encoder.data.tokens import TOKEN_KINDS

OPTIMIZERS = ("sgd", "adam")


@dataclass(frozen=True)
class StopConfig(Declared):
    """When a stage ends before its last epoch (the schedule of ST-NAS' public code).

    An epoch gains when its validation loss is lower by more than ``min_gain`` than the best so
    far. After ``patience`` epochs without gain the learning rate of the weights falls by
    ``factor``, and again after each further one; where it would fall for the
    ``decays`` + 1st time, the stage ends.

    Attributes:
        min_epochs: The first ones, which are not counted.
        patience: Epochs without gain.
        min_gain: In nats per utterance (the sum over its tokens, as the public code has it).
        factor: Of the learning rate.
        decays: How often the rate falls; 0: the stage ends at once.
    """

    min_epochs: int = option(0, integer(0, 10**5))
    patience: int = option(3, integer(1, 10**5))
    min_gain: float = option(0.5, number(0, 1e6))
    factor: float = option(0.1, number(1e-6, 1))
    decays: int = option(0, integer(0, 100))


@dataclass(frozen=True)
class WeightsConfig(Declared):
    """Optimizer of the network's weights; its rate follows a cosine down to ``min_lr``.

    The defaults are those of He et al. 2020, section 4.3.
    """

    optimizer: str = option("sgd", choice("optimizer", OPTIMIZERS))
    lr: float = option(0.01, number(0, 1e6))
    min_lr: float = option(0.0, number(0, 1e6))
    momentum: float = option(0.9, number(0, 0.9999))
    weight_decay: float = option(3e-4, number(0, 1e6))
    grad_clip: float = option(5.0, number(0, 1e6))


@dataclass(frozen=True)
class BatchConfig(Declared):
    """Batches: at most this many utterances and this many padded frames, over all devices.

    Attributes:
        max_utterances: Most of them in a batch.
        max_frames: Most frames, padding counted; null for no such limit.
        longest_utterance: Longer ones are left out (frames).
        shortest_utterance: Shorter ones too.
        workers: Processes that prepare batches; 0: the search's own.
        accumulate: Batches whose gradients are added up for one step; each utterance of them
            weighs the same. Their batch norms are those of each batch.
    """

    max_utterances: int = option(4, integer(1, 4096))
    max_frames: int | None = option(None, integer(1, 10**9))
    longest_utterance: int = option(1024, integer(4, 10**7))
    shortest_utterance: int = option(16, integer(1, 10**6))
    workers: int = option(0, integer(0, 256))
    accumulate: int = option(1, integer(1, 10**4))

    def conflicts(self, found: Problems) -> None:
        """Check that there are lengths between the shortest and the longest."""
        if self.shortest_utterance > self.longest_utterance:
            found.conflict(
                "shortest_utterance",
                f"must be at most batch.longest_utterance ({self.longest_utterance}), "
                f"got {self.shortest_utterance}",
                "longest_utterance",
            )


@dataclass(frozen=True)
class TrainerConfig(Declared):
    """How to run.

    Attributes:
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: Processes that share every batch, on one machine; each has a GPU where there are.
        sync_batchnorm: Whether their batch norms take the statistics of the whole batch, so that
            the number of devices does not change the result.
        precision: Lightning's names; see :data:`~nas_encoder.common.fields.PRECISIONS`.
        deterministic: Refuse operations that have no deterministic implementation; on CUDA, where
            the CTC loss is one of them, warn.
        checkpoint_minutes: Longest time between two checkpoints, beside one an epoch.
        score_utterances: Validation utterances whose token error rate is measured each epoch.
    """

    accelerator: str = option("auto", choice("accelerator", ACCELERATORS))
    devices: int = option(1, integer(1, 1024))
    sync_batchnorm: bool = option(True, flag)
    precision: str = option("32-true", precision)
    deterministic: bool = option(True, flag)
    checkpoint_minutes: float = option(10.0, number(0, 10**5))
    score_utterances: int = option(256, integer(1, 10**7))


@dataclass(frozen=True)
class DataConfig(Declared):
    """What the training data become: tokens, features and batches.

    Attributes:
        tokens: A kind that is collected from the training texts, or a token list's path.
        token_kind: How texts are cut where ``tokens`` is a path (``syllable`` turns hanzi to
            pinyin); null to guess it from the list.
        bpe_size: With ``tokens: bpe``, the number of pieces that are learned.
        train_utterances: Train on a random part of the training data, of so many utterances (a
            proxy data set); null for all of it.
        features: What a network sees.
        augment: How the training data are augmented; null for not at all.
        batch: Which utterances are used, and how many at once.
    """

    tokens: str = option("char", text(f"one of {', '.join(TOKEN_KINDS)} or a path"))
    token_kind: str | None = option(None, choice("kind of tokens", TOKEN_KINDS))
    bpe_size: int | None = option(None, integer(2, 10**6, " (the pieces of 'tokens: bpe')"))
    train_utterances: int | None = option(None, integer(1, 10**9))
    features: FeatureConfig = option(FeatureConfig, section(FeatureConfig))
    augment: SpecAugmentConfig | None = option(None, section(SpecAugmentConfig))
    batch: BatchConfig = option(BatchConfig, section(BatchConfig))

    def conflicts(self, found: Problems) -> None:
        """Check what belongs to the tokens, and that masks are not wider than the features."""
        if self.tokens == "bpe" and self.bpe_size is None:
            found.conflict("bpe_size", "is missing: the number of pieces of 'tokens: bpe'")
        elif self.tokens != "bpe" and self.bpe_size is not None:
            rule = f"is for 'tokens: bpe', got tokens {show(self.tokens)}"
            found.conflict("bpe_size", rule, "tokens")
        if self.token_kind is not None and self.tokens in TOKEN_KINDS:
            rule = "is for a list in a file: 'tokens' says it already"
            found.conflict("token_kind", rule, "tokens")
        if self.augment is not None and found.sound("features"):
            self.augment.check_bins(self.features.num_mel_bins, found.under("augment"))
