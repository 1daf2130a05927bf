"""Batches of features and targets, determined by (seed, epoch).

lhotse's bucketing sampler groups utterances by the frame counts in their metadata, so an epoch is
planned without touching audio. The number of batches is exact and resuming mid-epoch costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from lhotse import CutSet, MonoCut
from lhotse.dataset.sampling import BucketingSampler, SimpleCutSampler
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import DataLoader

from nas_encoder.common.fields import Declared, flag, integer, option, section
from nas_encoder.common.problems import Problems
from nas_encoder.common.seeding import derive_seed
from nas_encoder.data.augment import SpecAugment, SpecAugmentConfig
from nas_encoder.data.cache import FeatureCache
from nas_encoder.data.features import FeatureExtractor
from nas_encoder.data.manifests import text_of, transcripts
from nas_encoder.data.selection import Ids, select_utterances
from nas_encoder.data.tokens import TokenSet
from nas_encoder.errors import ConfigError, DataError

logger = logging.getLogger(__name__)


@dataclass
class Batch:
    """Utterances of similar length, padded.

    Attributes:
        features: (B, T, F) float32, zero past each length.
        feature_lengths: (B,) int64, frames.
        targets: (B, U) int64 token ids, padded with 0 (the blank).
        target_lengths: (B,) int64, tokens.
        ids: Utterance ids.
        texts: Transcripts.
        total: Utterances in the whole batch if this is one process's share of it, else None.
    """

    features: Tensor
    feature_lengths: Tensor
    targets: Tensor
    target_lengths: Tensor
    ids: list[str]
    texts: list[str]
    total: int | None = None

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def size(self) -> int:
        """Number of utterances in the batch over all processes."""
        return len(self) if self.total is None else self.total

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """Return the batch with its tensors on a device."""
        return self._map("to", device, non_blocking=non_blocking)

    def pin_memory(self) -> Batch:
        """Return the batch in page-locked memory (called by torch's DataLoader)."""
        return self._map("pin_memory")

    def _map(self, method: str, *args: Any, **options: Any) -> Batch:
        tensors = {name: value for name, value in vars(self).items() if isinstance(value, Tensor)}
        moved = {name: getattr(x, method)(*args, **options) for name, x in tensors.items()}
        return replace(self, **moved)


@dataclass(frozen=True)
class LoaderConfig(Declared):
    """How utterances become batches; set ``max_cuts``, ``max_frames`` or both.

    Attributes:
        max_cuts: Most utterances per batch.
        max_frames: Most frames per batch, padding included (utterances x longest one).
        shuffle: Whether to draw a new order in each epoch, from buckets of similar length;
            otherwise the order is fixed, longest utterances first.
        seed: Seed of order and augmentation.
        num_workers: Processes that prepare batches; 0 uses this one.
        cache: Whether to keep features in memory, as many as fit in ``cache_bytes``.
        cache_bytes: Size limit of the cache, which the workers share.
        spec_augment: Augmentation, applied after the cache.
        rank: Index of this process among the ``world_size`` that share an epoch. All ranks get
            the same number of batches; a few are repeated if they do not divide evenly.
        world_size: Number of processes.
        split: Split every batch among the ranks instead, so that together they see what one
            process sees, batch by batch. A batch with fewer utterances than ranks goes to all.
        min_length: Fewest frames of an utterance that is used; an encoder's ``min_length``.
        max_length: Most frames of an utterance that is used.
        subsampling_factor: Input frames per output frame; drops utterances with more tokens
            than CTC can place. None keeps them.
        num_buckets: Most length buckets to shuffle in; small data sets get fewer.
        pin_memory: Whether batches are in page-locked memory.
    """

    max_cuts: int | None = option(None, integer(1))
    max_frames: int | None = option(None, integer(1))
    shuffle: bool = option(False, flag)
    seed: int = option(0, integer(0))
    num_workers: int = option(0, integer(0))
    cache: bool = option(True, flag)
    cache_bytes: int = option(1 << 30, integer(0))
    spec_augment: SpecAugmentConfig | None = option(None, section(SpecAugmentConfig))
    rank: int = option(0, integer(0))
    world_size: int = option(1, integer(1))
    split: bool = option(False, flag)
    min_length: int | None = option(None, integer(1))
    max_length: int | None = option(None, integer(1))
    subsampling_factor: int | None = option(None, integer(1))
    num_buckets: int = option(10, integer(1))
    pin_memory: bool = option(False, flag)

    def conflicts(self, found: Problems) -> None:
        """Check the fields against each other."""
        if self.max_cuts is None and self.max_frames is None:
            found.conflict("max_cuts", "must be given where max_frames is not", "max_frames")
        if self.rank >= self.world_size:
            found.conflict("rank", f"must be below world_size, got {self.rank}", "world_size")


class AsrLoader:
    """Iterates over the batches of an epoch.

    An epoch depends only on the arguments and on ``(seed, epoch)``: not on the number of workers,
    earlier epochs, the cache or any random generator's state. Iterating leaves the global random
    generators unchanged.

    Args:
        cuts: From :func:`nas_encoder.data.open_cuts`.
        tokens: Token set; all transcripts are encoded up front.
        features: Extracts and normalises the features.
        config: All other settings.

    Attributes:
        selection: Which utterances are used, and why the others are not.

    Raises:
        ConfigError: Options are out of range; all are listed.
        DataError: Unknown tokens; no usable utterance, or most of them CTC-infeasible; an
            utterance longer than ``max_frames``.
    """

    def __init__(
        self, cuts: CutSet, tokens: TokenSet, features: FeatureExtractor, config: LoaderConfig
    ) -> None:
        if problems := config.problems():
            raise ConfigError("loader", problems)
        self.tokens = tokens
        self.features = features
        self.config = config
        self.epoch = 0
        listed = list(cuts)
        pairs = transcripts(listed)
        tokens.require_known(pairs, "transcripts")
        targets: list[Ids] = [np.array(tokens.encode(text), dtype=np.int32) for _, text in pairs]
        frames = [features.num_frames(cut) for cut in listed]
        self.selection = select_utterances(
            frames,
            targets,
            min_length=config.min_length,
            max_length=config.max_length,
            subsampling_factor=config.subsampling_factor,
            spelled=[text_of(cut) for cut in listed] if tokens.kind == "char" else (),
        )
        if problems := self.selection.problems():
            raise DataError("loader", problems)
        if left_out := self.selection.named([cut.id for cut in listed]):
            logger.warning("left out of %d utterances: %s", len(listed), left_out)
        kept = self.selection.kept
        self._cuts = [listed[index] for index in kept]
        self._targets = [targets[index] for index in kept]
        self._frames = [frames[index] for index in kept]
        self._require_room()
        self._cache = (
            FeatureCache(self._frames, features.dim, config.cache_bytes)
            if config.cache and config.cache_bytes
            else None
        )
        augment = config.spec_augment
        self._augment = SpecAugment(augment, features.dim) if augment else None
        self._plans: dict[int, list[list[int]]] = {}

    def infeasible(self, output_frames: Callable[[Sequence[int]], Sequence[int]]) -> list[str]:
        """Return the ids of the used utterances that CTC cannot place in a network's output.

        ``output_frames`` returns a network's output frames for numbers of input frames.
        """
        frames = output_frames(self._frames)
        found = select_utterances(self._frames, self._targets, output_frames=frames)
        return [self._cuts[index].id for index in found.infeasible]

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next iteration."""
        if epoch < 0:
            raise ConfigError("loader", [f"epoch: must be 0 or more, got {epoch}"])
        self.epoch = epoch

    def num_batches(self, epoch: int) -> int:
        """Return the exact number of batches of an epoch, on every rank."""
        return len(self.plan(epoch))

    def __len__(self) -> int:
        return self.num_batches(self.epoch)

    def __iter__(self) -> Iterator[Batch]:
        return self.iterate()

    def iterate(self, start: int = 0) -> Iterator[Batch]:
        """Iterate over the epoch.

        Args:
            start: Number of batches to skip, at no cost, to resume mid-epoch.

        Raises:
            ConfigError: ``start`` is negative or past the end.
            DataError: An utterance's audio is unusable.
        """
        plan = self.plan(self.epoch)
        if not 0 <= start <= len(plan):
            raise ConfigError("loader", [f"start: must be 0 to {len(plan)}, got {start}"])
        return self._run(list(enumerate(plan))[start:], self.epoch)

    def _run(self, plan: list[tuple[int, list[int]]], epoch: int) -> Iterator[Batch]:
        workers = min(self.config.num_workers, len(plan))
        loader: DataLoader[Any] = DataLoader(
            plan,  # type: ignore[arg-type]
            batch_size=None,
            collate_fn=partial(self._batch_or_error, epoch),
            num_workers=workers,
            # Forked workers share the cache's memory.
            multiprocessing_context="fork" if workers else None,
            pin_memory=self.config.pin_memory,
            # Without a generator of its own, DataLoader draws a seed from the global one.
            generator=torch.Generator().manual_seed(0),
        )
        for result in loader:
            if isinstance(result, DataError):
                raise result
            yield result

    def _batch_or_error(self, epoch: int, planned: tuple[int, list[int]]) -> Batch | DataError:
        number, indices = planned
        rank = 0 if self.config.split else self.config.rank
        try:
            return self.make_batch(indices, derive_seed(self.config.seed, epoch, number, rank))
        except DataError as error:
            return error  # the iterating process raises it: torch would change its type

    # -- planning ---------------------------------------------------------------------------

    def plan(self, epoch: int) -> list[list[int]]:
        """Return the epoch's batches on this rank, as indices of utterances."""
        key = epoch if self.config.shuffle else 0
        if key not in self._plans:
            self._plans = {k: v for k, v in self._plans.items() if k == self.epoch}
            self._plans[key] = self._make_plan(derive_seed(self.config.seed, key))
        return self._plans[key]

    def _make_plan(self, seed: int) -> list[list[int]]:
        # The samplers see stand-ins with 1 frame = 1 second: durations are exact integers, and
        # lhotse does not annotate the user's own cuts.
        order = sorted(range(len(self._frames)), key=lambda i: (-self._frames[i], self._cuts[i].id))
        stand_ins = CutSet.from_cuts(
            MonoCut(id=str(index), start=0.0, duration=float(self._frames[index]), channel=0)
            for index in order
        )
        limits: dict[str, Any] = {
            "max_cuts": self.config.max_cuts,
            "max_duration": self.config.max_frames,
            # Sample for all ranks: lhotse's own split of an uneven end can break the limits.
            "world_size": 1,
            "rank": 0,
        }
        sampler: Any
        if self.config.shuffle:
            sampler = BucketingSampler(
                stand_ins,
                # The bucketing sampler does not pass its seed on to its inner samplers.
                sampler_type=partial(SimpleCutSampler, seed=seed),
                num_buckets=self._num_buckets(),
                seed=seed,
                shuffle=True,
                **limits,
            )
        else:
            sampler = SimpleCutSampler(stand_ins, shuffle=False, **limits)
        batches = [[int(cut.id) for cut in batch] for batch in sampler]
        if self.config.split:
            return batches
        missing = -len(batches) % self.config.world_size
        batches += [batches[index % len(batches)] for index in range(missing)]
        return batches[self.config.rank :: self.config.world_size]

    def _num_buckets(self) -> int:
        """At least four batches per bucket, or remainders would make too many small batches."""
        count = len(self._frames)
        size = float(self.config.max_cuts or count)
        if self.config.max_frames is not None:
            size = min(size, self.config.max_frames * count / sum(self._frames))
        size = max(size, 1.0) * (1 if self.config.split else self.config.world_size)
        return max(1, min(self.config.num_buckets, int(count / (4 * size))))

    def _require_room(self) -> None:
        frames, cut = max(zip(self._frames, self._cuts, strict=True), key=lambda pair: pair[0])
        if self.config.max_frames is not None and frames > self.config.max_frames:
            text = (
                f"utterance '{cut.id}' by itself has {frames} frames, a batch may have max_frames="
                f"{self.config.max_frames}; raise it, or leave long utterances out by max_length"
            )
            raise DataError("loader", [text])

    # -- making a batch ---------------------------------------------------------------------

    def _features_of(self, index: int) -> Tensor:
        if self._cache is None:
            return self.features.extract(self._cuts[index])
        features = self._cache.get(index)
        if features is None:
            features = self.features.extract(self._cuts[index])
            self._cache.put(index, features)
        return features

    def make_batch(self, indices: Sequence[int], seed: int) -> Batch:
        """Return this rank's part of a batch; ``seed`` is that of the augmentation."""
        places, total = range(len(indices)), None
        if self.config.split and self.config.world_size <= len(indices):
            places, total = places[self.config.rank :: self.config.world_size], len(indices)
        indices = [indices[place] for place in places]
        rows = [self._features_of(index) for index in indices]
        lengths = torch.tensor([len(row) for row in rows])
        features = pad_sequence(rows, batch_first=True)
        if self._augment is not None:
            features = self._augment(features, lengths, seed, places)
        targets = [torch.from_numpy(self._targets[index]).long() for index in indices]
        return Batch(
            features=features,
            feature_lengths=lengths,
            targets=pad_sequence(targets, batch_first=True),
            target_lengths=torch.tensor([len(ids) for ids in targets]),
            ids=[self._cuts[index].id for index in indices],
            texts=[text_of(self._cuts[index]) for index in indices],
            total=total,
        )
