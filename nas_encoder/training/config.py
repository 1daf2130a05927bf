"""Training configuration: data, optimizer, batches, devices and early stopping."""

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
    share,
    text,
)
from nas_encoder.common.problems import Problems, show
from nas_encoder.data import FeatureConfig, SpecAugmentConfig
from nas_encoder.data.splitting import TOKEN_KINDS
from nas_encoder.data.vocabulary import UNKNOWN

OPTIMIZERS = ("sgd", "adam", "adamw")


@dataclass(frozen=True)
class StopConfig(Declared):
    """Early stopping of a stage (the schedule of ST-NAS' public code).

    An epoch gains if its validation loss is more than ``min_gain`` below the best so far. After
    ``patience`` epochs without gain the learning rate of the weights is multiplied by ``factor``,
    and again after each further one; instead of the ``decays`` + 1st time, the stage ends.

    Attributes:
        min_epochs: Number of first epochs that do not count.
        patience: Epochs without gain.
        min_gain: In nats per utterance (the sum over its tokens, as in the public code).
        factor: Factor of the learning rate.
        decays: Number of decays; 0 to end the stage instead of the first.
    """

    min_epochs: int = option(0, integer(0, 10**5))
    patience: int = option(3, integer(1, 10**5))
    min_gain: float = option(0.5, number(0, 1e6))
    factor: float = option(0.1, number(1e-6, 1))
    decays: int = option(0, integer(0, 100))


@dataclass(frozen=True)
class WeightsConfig(Declared):
    """Optimizer of the network's weights; its learning rate follows a cosine down to ``min_lr``.

    The defaults are those of He et al. 2020, section 4.3. ``warmup`` is the fraction of a training
    in which the rate rises linearly, as encoders with attention need it.
    """

    optimizer: str = option("sgd", choice("optimizer", OPTIMIZERS))
    lr: float = option(0.01, number(0, 1e6))
    min_lr: float = option(0.0, number(0, 1e6))
    warmup: float = option(0.0, share)
    momentum: float = option(0.9, number(0, 0.9999))
    weight_decay: float = option(3e-4, number(0, 1e6))
    grad_clip: float = option(5.0, number(0, 1e6))


@dataclass(frozen=True)
class BatchConfig(Declared):
    """Batches; the limits are over all devices.

    Attributes:
        max_utterances: Maximum number of utterances in a batch.
        max_frames: Maximum number of frames, padding included; null for no limit.
        longest_utterance: Utterances with more frames are left out.
        shortest_utterance: Utterances with fewer frames are left out.
        workers: Processes that prepare batches; 0 to use the search's own.
        accumulate: Batches whose gradients are summed for one step, all utterances weighted
            equally. Batch norm statistics are still per batch.
    """

    max_utterances: int = option(4, integer(1, 4096))
    max_frames: int | None = option(None, integer(1, 10**9))
    longest_utterance: int = option(1024, integer(4, 10**7))
    shortest_utterance: int = option(16, integer(1, 10**6))
    workers: int = option(0, integer(0, 256))
    accumulate: int = option(1, integer(1, 10**4))

    def conflicts(self, found: Problems) -> None:
        """Check that the shortest length is not above the longest."""
        if self.shortest_utterance > self.longest_utterance:
            found.conflict(
                "shortest_utterance",
                f"must be at most batch.longest_utterance ({self.longest_utterance}), "
                f"got {self.shortest_utterance}",
                "longest_utterance",
            )


@dataclass(frozen=True)
class TrainerConfig(Declared):
    """Devices, precision and checkpoints.

    Attributes:
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: Processes on one machine that share every batch, each with a GPU if available.
        sync_batchnorm: Whether batch norms use the statistics of the whole batch, so that the
            number of devices does not change the result.
        precision: Lightning's names; see :data:`~nas_encoder.common.fields.PRECISIONS`.
        deterministic: Refuse operations without a deterministic implementation; on CUDA, where
            the CTC loss is one of them, warn.
        checkpoint_minutes: Maximum time between checkpoints, besides one per epoch.
        score_utterances: Number of validation utterances to score each epoch.
    """

    accelerator: str = option("auto", choice("accelerator", ACCELERATORS))
    devices: int = option(1, integer(1, 1024))
    sync_batchnorm: bool = option(True, flag)
    precision: str = option("32-true", precision)
    deterministic: bool = option(True, flag)
    checkpoint_minutes: float = option(10.0, number(0, 10**5))
    score_utterances: int = option(256, integer(1, 10**7))


@dataclass(frozen=True)
class TokenConfig(Declared):
    """The tokens to be predicted.

    Attributes:
        tokens: A kind, to collect from the training texts, or the path of a token list.
        token_kind: If ``tokens`` is a path, the kind of its tokens (``syllable`` turns hanzi into
            pinyin); null to guess it from the list.
        bpe_size: With ``tokens: bpe``, the number of pieces to learn.
        unknown_tokens: What becomes of tokens in texts that are not among these: read as
            ``<unk>`` (``unk``), which is added where it is needed and told, or an ``error``.
    """

    tokens: str = option("char", text(f"one of {', '.join(TOKEN_KINDS)} or a path"))
    token_kind: str | None = option(None, choice("kind of tokens", TOKEN_KINDS))
    bpe_size: int | None = option(None, integer(2, 10**6, " (the pieces of 'tokens: bpe')"))
    unknown_tokens: str = option("unk", choice("treatment of unknown tokens", UNKNOWN))

    def conflicts(self, found: Problems) -> None:
        """Check the options against each other."""
        if self.tokens == "bpe" and self.bpe_size is None:
            found.conflict("bpe_size", "is missing: the number of pieces of 'tokens: bpe'")
        elif self.tokens != "bpe" and self.bpe_size is not None:
            rule = f"is for 'tokens: bpe', got tokens {show(self.tokens)}"
            found.conflict("bpe_size", rule, "tokens")
        if self.token_kind is not None and self.tokens in TOKEN_KINDS:
            rule = "is for a list in a file: 'tokens' says it already"
            found.conflict("token_kind", rule, "tokens")


@dataclass(frozen=True)
class DataConfig(TokenConfig):
    """Tokens, features and batches of the data.

    Attributes:
        train_utterances: Size of a random subset of the training data to train on (a proxy data
            set); null for all of it.
        features: Input features of the network.
        augment: Augmentation of the training data; null for none.
        batch: Limits of utterances and batches.
    """

    train_utterances: int | None = option(None, integer(1, 10**9))
    features: FeatureConfig = option(FeatureConfig, section(FeatureConfig))
    augment: SpecAugmentConfig | None = option(None, section(SpecAugmentConfig))
    batch: BatchConfig = option(BatchConfig, section(BatchConfig))

    def conflicts(self, found: Problems) -> None:
        """Check the tokens' options, and that masks are not wider than the features."""
        super().conflicts(found)
        if self.augment is not None and found.sound("features"):
            self.augment.check_bins(self.features.num_mel_bins, found.under("augment"))
