"""Trials that train a small network with CTC.

B batch, T frames, F frequency bins, S subsampling, V tokens.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lhotse import CutSet
from torch import nn

from nas_encoder.common.seeding import derive_seed, one_thread
from nas_encoder.data import AsrLoader, FeatureExtractor, TokenSet, check_data, open_cuts
from nas_encoder.deploy.latency import BenchSettings, measuring
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.spaces import get_space
from nas_encoder.spaces.base import TrialSpace
from nas_encoder.training.devices import open_fabric, use_deterministic_algorithms
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.loaders import build_tokens, epoch_of, sample
from nas_encoder.training.optimizers import cosine, weights_optimizer
from nas_encoder.training.steps import WeightSteps
from nas_encoder.training.trainer import Trainer

logger = logging.getLogger(__name__)


class TrainingEvaluator:
    """Trains the network of each genotype for some epochs.

    A training depends on the genotype, the data and the seed alone, not on which trial or which
    worker it belongs to.

    Args:
        config: The checked configuration.
        train: Kaldi/ESPnet folder, NeMo manifest or lhotse cuts.
        valid: Data of the same kinds, that errors are measured on.
        seed: Of weights, order and dropout; the same for all trials.

    Raises:
        ConfigError: An option of the networks is wrong, or there is no such device.
        DataError: The data cannot be used; all problems found are listed.
    """

    def __init__(
        self, config: TrialsConfig, train: str | Path, valid: str | Path, seed: int
    ) -> None:
        self.config = config
        self.seed = seed
        assert config.training.epochs is not None
        self.epochs = config.training.epochs
        self.space: TrialSpace = get_space(config.space)
        probe: Any = self._encoder(self.space.sample(random.Random(0)))
        self.factor, self.min_length = int(probe.subsampling_factor), int(probe.min_length)
        self.fabric = open_fabric(config.trainer)
        use_deterministic_algorithms(config.trainer, self.fabric)
        train_cuts, valid_cuts = open_cuts(train), open_cuts(valid)
        self.tokens: TokenSet = build_tokens(config, train_cuts)
        self.features = FeatureExtractor.fit(config.features, train_cuts, seed=seed, progress=True)
        if config.train_utterances is not None:
            train_cuts = sample(train_cuts, config.train_utterances, seed)
        batch = config.batch
        report = check_data(
            train_cuts,
            valid_cuts,
            self.tokens,
            self.features,
            subsampling_factor=self.factor,
            max_frames=batch.longest_utterance,
            min_frames=max(batch.shortest_utterance, self.min_length),
            seed=seed,
        )
        logger.info("%s", report)
        scored = sample(valid_cuts, config.trainer.score_utterances, seed)
        self._utterances = {"train": len(train_cuts), "valid": len(scored)}
        self._train = self._loader(train_cuts, shuffle=True)
        self._valid = self._loader(scored, shuffle=False)

    def _loader(self, cuts: CutSet, shuffle: bool) -> AsrLoader:
        batch = self.config.batch
        return AsrLoader(
            cuts,
            self.tokens,
            self.features,
            max_cuts=batch.max_utterances,
            max_frames=batch.max_frames,
            shuffle=shuffle,
            seed=self.seed,
            num_workers=batch.workers,
            spec_augment=self.config.augment if shuffle else None,
            min_length=max(batch.shortest_utterance, self.min_length, self.factor),
            max_length=batch.longest_utterance,
            subsampling_factor=self.factor,
        )

    def _encoder(self, genotype: Genotype) -> nn.Module:
        size = self.config.features.num_mel_bins
        options: Mapping[str, Any] = self.config.network
        try:
            return build_encoder(genotype, **{**options, "input_size": size})
        except ConfigError as error:
            raise ConfigError("network", error.problems) from None

    def identity(self) -> dict[str, Any]:
        """Return the tokens and the number of utterances."""
        return {"tokens": list(self.tokens.tokens), "utterances": dict(self._utterances)}

    def nearest(self, genotype: Genotype) -> Genotype:
        """Return the genotype itself."""
        return genotype

    def errors(self, genotype: Genotype) -> Iterator[float]:
        """Train; yield the lowest token error rate so far after each epoch, in %.

        Where the loss becomes NaN or infinite the network recognizes nothing: 100 %.
        """
        weights, train = self.config.training, self._train
        torch.manual_seed(derive_seed(self.seed, 0))
        network = CtcNetwork(self._encoder(genotype), len(self.tokens)).to(self.fabric.device)
        steps = WeightSteps(
            self.fabric, network, weights_optimizer(weights, network), weights.grad_clip
        )
        total, before, best, reached = self.epochs * len(train), 0, 100.0, 0
        trainer = Trainer(
            steps,
            self.epochs,
            partial(epoch_of, train),
            lambda position: cosine(weights, (before + position.step) / total),
            accumulate=self.config.batch.accumulate,
            seed=partial(derive_seed, self.seed, 1),
        )
        try:
            for position in trainer.run():
                before += position.step
                best = min(best, steps.score(self._valid).ter)
                reached += 1
                yield best
        except DivergedError as error:
            logger.warning("genotype %s: %s", genotype.hash, error)
            yield from [best] * (self.epochs - reached)

    def costs(self, genotype: Genotype) -> dict[str, float]:
        """Return parameters and multiply-adds of the encoder, and its latency if that counts."""
        measure, features = self.config.measure, self.config.features
        frames = max(self.min_length, round(measure.seconds / features.frame_shift))
        torch.manual_seed(derive_seed(self.seed, 0))
        encoder = self._encoder(genotype).eval()
        with one_thread():
            macs = count_macs(encoder, frames, features.num_mel_bins)
        found = {"parameters": float(count_parameters(encoder)), "macs": float(macs)}
        if "latency_ms" in self.config.objectives:
            device = "cuda" if self.fabric.device.type == "cuda" else "cpu"
            encoder = encoder.to(device)
            x = torch.randn(1, frames, features.num_mel_bins, device=device)
            lengths = torch.tensor([frames], device=device)
            settings = BenchSettings(device, measure.threads, seconds=0, repeats=measure.repeats)
            with measuring(settings) as timed:
                found["latency_ms"] = timed(lambda: encoder(x, lengths))
        return found
