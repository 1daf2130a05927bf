"""How a network is trained: optimizer, batches, devices and early stopping."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StopConfig:
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

    min_epochs: int = 0
    patience: int = 3
    min_gain: float = 0.5
    factor: float = 0.1
    decays: int = 0


@dataclass(frozen=True)
class WeightsConfig:
    """Optimizer of the network's weights; its rate follows a cosine down to ``min_lr``.

    The defaults are those of He et al. 2020, section 4.3.
    """

    optimizer: str = "sgd"
    lr: float = 0.01
    min_lr: float = 0.0
    momentum: float = 0.9
    weight_decay: float = 3e-4
    grad_clip: float = 5.0


@dataclass(frozen=True)
class BatchConfig:
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

    max_utterances: int = 4
    max_frames: int | None = None
    longest_utterance: int = 1024
    shortest_utterance: int = 16
    workers: int = 0
    accumulate: int = 1


@dataclass(frozen=True)
class TrainerConfig:
    """How to run.

    Attributes:
        accelerator: ``auto``, ``cpu`` or ``cuda``.
        devices: Processes that share every batch, on one machine; each has a GPU where there are.
        sync_batchnorm: Whether their batch norms take the statistics of the whole batch, so that
            the number of devices does not change the result.
        precision: Lightning's names; see :data:`PRECISIONS`.
        deterministic: Refuse operations that have no deterministic implementation; on CUDA, where
            the CTC loss is one of them, warn.
        checkpoint_minutes: Longest time between two checkpoints, beside one an epoch.
        score_utterances: Validation utterances whose token error rate is measured each epoch.
    """

    accelerator: str = "auto"
    devices: int = 1
    sync_batchnorm: bool = True
    precision: str = "32-true"
    deterministic: bool = True
    checkpoint_minutes: float = 10.0
    score_utterances: int = 256
