"""Trials that train a small network with CTC.

B batch, T frames, F frequency bins, S subsampling, V tokens.
"""

from __future__ import annotations

import itertools
import logging
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.seeding import derive_seed
from nas_encoder.deploy.timing import quiet_clock, seconds_of
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.network.factory import read_options
from nas_encoder.search.config.trials import TrialsConfig
from nas_encoder.search.trials.costs import TrialCosts
from nas_encoder.search.trials.evaluate import Unprepared
from nas_encoder.search.trials.members import TrialSpace
from nas_encoder.search.trials.subspace import Subspace
from nas_encoder.search.trials.timed import TimedBatches, clock_name, timed_scores
from nas_encoder.spaces import get_space
from nas_encoder.training.devices import open_fabric, use_deterministic_algorithms
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.loaders import epoch_of, open_data
from nas_encoder.training.optimizers import cosine, weights_optimizer
from nas_encoder.training.steps import Objective, WeightSteps, ctc_loss, feasible_ctc_loss
from nas_encoder.training.trainer import Trainer

logger = logging.getLogger(__name__)

_BATCHES = 8  # on which training is timed
_MEASURED = ("machine", "settings", "scale", "piece_ms")  # of a table of latencies


class TrainingEvaluator(Unprepared):
    """Trains the network of each genotype for some epochs, or for some time.

    A training depends only on the genotype, the data (``valid`` is for the errors) and the seed (of
    weights, data order and dropout, the same for all trials), not on its trial or worker. Only
    where its time is limited it also depends on the machine, and is not the same each time.

    Raises:
        ConfigError: A network option is wrong, or a device is missing.
        DataError: The data cannot be used; all problems found are listed.
    """

    def __init__(
        self, config: TrialsConfig, train: str | Path, valid: str | Path, seed: int
    ) -> None:
        self.config, self.seed = config, seed
        training = config.training
        self.epochs = training.epochs or len(training.evaluate_at)
        self.spent: Mapping[str, float] = {}
        self.space: TrialSpace = get_space(config.space)
        if config.choices:
            self.space = Subspace(get_space(config.space), config.choices)
        self._encoder(self.space.sample(random.Random(0)))  # the options fit such a network
        asked = {**config.network, "input_size": config.features.num_mel_bins}
        options: Any = read_options(get_space(config.space), asked, "network")
        # All trials have the same data: what the finest network can use.
        rates = get_space(config.space).frame_rates(options)
        self.fabric = open_fabric(config.trainer)
        use_deterministic_algorithms(config.trainer, self.fabric)
        data = open_data(
            config,
            {"train": train, "valid": valid},
            factor=rates.finest,
            min_length=max(rates.min_length, rates.finest),
            seed=seed,
        )
        scored = data.sample("valid", config.trainer.score_utterances)
        self.tokens, self.sets = data.tokens, data.fingerprints
        self._utterances = {"train": len(data.cuts["train"]), "valid": len(scored)}
        self._train = data.loader(data.cuts["train"], train=True)
        self._valid = data.loader(scored, train=False)
        # By output frames: the utterances that CTC cannot place, and whether they were named.
        self._unplaced: dict[tuple[int, ...], Mapping[str, Sequence[str]]] = {}
        self._told: set[tuple[int, ...]] = set()
        frames = max(rates.min_length, round(config.measure.seconds / config.features.frame_shift))
        self._costs = TrialCosts(
            get_space(config.space),
            options,
            frames,
            config.measure,
            "cuda" if self.fabric.device.type == "cuda" else "cpu",
            seed,
            self._encoder,
            self._train_seconds,
            self._infeasible,
            config.objective.table,
            1000 * config.features.frame_shift,
        )
        bounds = self._costs.predicted or self._costs.counted
        if config.objective.budgets and bounds is not None:
            if problems := config.objective.beyond_reach(bounds):
                raise ConfigError("objective", problems)

    def _encoder(self, genotype: Genotype) -> nn.Module:
        size = self.config.features.num_mel_bins
        options: Mapping[str, Any] = self.config.network
        try:
            return build_encoder(genotype, **{**options, "input_size": size})
        except ConfigError as error:
            raise ConfigError("network", error.problems) from None

    def identity(self) -> dict[str, Any]:
        """Return the tokens, the number of utterances, and on what times depend.

        That is where the latencies of a table were measured and how, but not which ones are in it,
        since it may be extended; and where the time of trainings is limited, its clock.
        """
        found: dict[str, Any] = {"tokens": list(self.tokens.tokens)}
        found["utterances"] = dict(self._utterances)
        if (table := self.config.objective.table) is not None:
            measured = read_yaml(table, ConfigError)
            found["latencies"] = {name: measured.get(name) for name in _MEASURED}
        if self.config.training.seconds is not None:
            found["clock"] = clock_name(self.fabric.device)
        return found

    def nearest(self, genotype: Genotype) -> Genotype:
        """Return the genotype itself, or the nearest of the searched choices."""
        return self.space.nearest(genotype) if isinstance(self.space, Subspace) else genotype

    def resource(self, scores: int) -> int:
        """Return the epochs, or the training time in units of the first rung's."""
        pruning = self.config.pruning
        if pruning is None or self.config.training.seconds is None:
            return scores
        return int(pruning.factor ** (scores - 1))

    def errors(self, genotype: Genotype) -> Iterator[float]:
        """Train; yield the lowest token error rate so far after each epoch, in %.

        Where time is limited, after each share of it, and at its end the error of the network as
        it is then. A loss of NaN or infinity counts as recognizing nothing: 100 %. An utterance
        with more tokens than CTC can place at the network's time stride is left out of its
        training loss; all count in the error. A network that could learn from none is not
        trained, and recognizes nothing.
        """
        weights, train = self.config.training, self._train
        steps = self._steps(genotype)
        if self._infeasible(steps.network.encoder) == 100:  # type: ignore[arg-type]
            logger.warning(
                "genotype %s is not trained: CTC can place no training utterance in its output "
                "frames; objective.infeasible refuses such networks",
                genotype.hash,
            )
            self.spent = {} if weights.seconds is None else {"epochs": 0, "seconds": 0.0}
            yield from [100.0] * self.epochs
            return
        if weights.seconds is not None:
            yield from self._timed(genotype, steps, weights.seconds)
            return
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

    def _timed(self, genotype: Genotype, steps: WeightSteps, seconds: float) -> Iterator[float]:
        weights, accumulate = self.config.training, self.config.batch.accumulate
        clock = quiet_clock(self.fabric.device)
        batches = TimedBatches(self._train, seconds, weights.evaluate_at, accumulate, clock)
        scores = timed_scores(
            batches,
            steps,
            self.epochs,
            partial(cosine, weights),
            accumulate,
            partial(derive_seed, self.seed, 1),
            lambda: steps.score(self._valid).ter,
        )
        best, reached = 100.0, 0
        try:
            for error in scores:
                reached += 1
                best = min(best, error)
                self.spent = {"epochs": batches.epochs, "seconds": round(batches.spent, 3)}
                yield best if reached < self.epochs else min(100.0, error)
        except DivergedError as error:
            logger.warning("genotype %s: %s", genotype.hash, error)
            self.spent = {"epochs": batches.epochs, "seconds": round(batches.spent, 3)}
            yield from [*([best] * (self.epochs - reached - 1)), 100.0]

    def _steps(self, genotype: Genotype) -> WeightSteps:
        """Return the steps of a new network."""
        weights = self.config.training
        torch.manual_seed(derive_seed(self.seed, 0))
        encoder = self._encoder(genotype)
        network = CtcNetwork(encoder, len(self.tokens)).to(self.fabric.device)
        optimizer, objective = weights_optimizer(weights, network), self._objective(encoder)
        return WeightSteps(self.fabric, network, optimizer, weights.grad_clip, objective)

    def _objective(self, encoder: Any) -> Objective:
        """Return the loss; name the utterances that it leaves out, once for all such networks."""
        lost = self._lost(encoder)
        key = _rates_of(encoder)
        if any(lost.values()) and key not in self._told:
            self._told.add(key)
            self._tell(int(encoder.subsampling_factor), lost)
        return feasible_ctc_loss if any(lost.values()) else ctc_loss

    def _lost(self, encoder: Any) -> Mapping[str, Sequence[str]]:
        """Return the utterances of each set that CTC cannot place in an encoder's output."""
        key = _rates_of(encoder)
        if key not in self._unplaced:
            loaders = {"training": self._train, "validation": self._valid}
            frames = partial(_output_frames, encoder)
            self._unplaced[key] = {name: own.infeasible(frames) for name, own in loaders.items()}
        return self._unplaced[key]

    def _infeasible(self, encoder: nn.Module) -> float:
        """Return the share of training utterances that CTC cannot place, in %."""
        return 100 * len(self._lost(encoder)["training"]) / self._utterances["train"]

    def _tell(self, factor: int, lost: Mapping[str, Sequence[str]]) -> None:
        """Name utterances that CTC cannot place."""
        parts = []
        for name, ids in lost.items():
            shown = ", ".join(f"'{key}'" for key in ids[:3]) + (", ..." if ids[3:] else "")
            parts.append(f"{len(ids)} {name} utterances" + (f" ({shown})" if ids else ""))
        logger.info(
            "networks of %d frames per output frame have too few for the tokens of %s: these do "
            "not count in the loss, but in the error",
            factor,
            " and ".join(parts),
        )

    def costs(self, genotype: Genotype, names: Collection[str] = ()) -> dict[str, float]:
        """Return the encoder's parameters, multiply-adds and the quantities ``names``."""
        return self._costs.of(genotype, names)

    def _train_seconds(self, genotype: Genotype) -> float:
        """Return the seconds that training takes for an hour of speech, on a few batches.

        Infinity for a network whose loss is not finite from the start.
        """
        features, batch = self.config.features, self.config.batch
        steps, clock = self._steps(genotype), quiet_clock(self.fabric.device)
        batches = itertools.cycle(list(itertools.islice(epoch_of(self._train, 0), _BATCHES)))
        spent, frames = 0.0, 0
        for number in range(1 + self.config.measure.steps):
            group = [b.to(self.fabric.device) for b in itertools.islice(batches, batch.accumulate)]
            try:
                seconds = seconds_of(partial(steps.weight_step, group, 0.0), clock)
            except DivergedError as error:
                logger.warning("genotype %s: %s", genotype.hash, error)
                return math.inf
            if number:  # the first warms up
                spent += seconds
                frames += sum(int(b.feature_lengths.sum()) for b in group)
        return 3600.0 * spent / (frames * features.frame_shift)


def _output_frames(encoder: Any, frames: Sequence[int]) -> list[int]:
    found: list[int] = encoder.output_lengths(torch.tensor(frames)).tolist()
    return found


def _rates_of(encoder: Any) -> tuple[int, ...]:
    """Return what tells encoders with different numbers of output frames."""
    return tuple(_output_frames(encoder, range(1, 257)))
