"""Trials scored with the weights of a supernet, which is trained first.

B batch, T frames, F features.
"""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import logging
import random
import sys
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from nas_encoder.common.seeding import derive_seed
from nas_encoder.data import Batch
from nas_encoder.deploy.timing import quiet_clock
from nas_encoder.genotype import Genotype
from nas_encoder.network.factory import read_options
from nas_encoder.search.config.supernet import SupernetConfig
from nas_encoder.search.folder import RunFolder
from nas_encoder.search.trials.sandwich import Chosen, SandwichSteps, SharedCtc
from nas_encoder.search.trials.training import TrainingEvaluator
from nas_encoder.spaces import get_space
from nas_encoder.training.checkpoint import State, load_checkpoint, save_checkpoint
from nas_encoder.training.loaders import epoch_of
from nas_encoder.training.lock import held, holder_of, is_held
from nas_encoder.training.optimizers import cosine, weights_optimizer
from nas_encoder.training.trainer import Trainer

logger = logging.getLogger(__name__)

INHERITED = "inherited.pt"
HISTORY = "supernet.json"
_LOCK = ".supernet.lock"
_ENDLESS = 10**9  # epochs
_DRAWS = 3  # the stream of seeds for the networks of a step


class SupernetEvaluator(TrainingEvaluator):
    """Scores genotypes with weights that all of them share.

    Args:
        supernet: How the weights are shared.
        *given: What a :class:`~.training.TrainingEvaluator` is given.

    Raises:
        ConfigError: The choices or options cannot share weights.
        DataError: The data cannot be used; all problems found are listed.
    """

    def __init__(self, supernet: SupernetConfig, *given: Any) -> None:
        super().__init__(*given)
        self.supernet, self.epochs = supernet, 1
        config, whole = self.config, get_space(self.config.space)
        one = self._encoder(self.space.sample(random.Random(0)))
        torch.manual_seed(derive_seed(self.seed, 0))
        # Options as given: an encoder's own say the output size of its width.
        asked = {**config.network, "input_size": config.features.num_mel_bins}
        options = read_options(whole, asked, "network")
        shared: Any = whole.oneshot.build(whole, config.choices, options)
        self.network = SharedCtc(shared, len(self.tokens)).to(self.fabric.device)
        self.steps = SandwichSteps(
            self.fabric,
            self.network,
            weights_optimizer(config.training, self.network),
            config.training.grad_clip,
            self._objective(one),
            self.supernet.distillation,
        )
        self.history: list[dict[str, float]] = []
        self._used = 0.0  # seconds of steps
        self._batches: list[Batch] = []

    # -- the weights --------------------------------------------------------------------------

    def prepare(self, folder: RunFolder) -> str:
        """Train the shared weights, or go on with it; return a digest of them.

        Other workers with the same run folder wait for the one that trains.

        Raises:
            CheckpointError: The checkpoint is damaged, of another search or cannot be written.
            DivergedError: A loss or a weight is NaN or infinite.
            StoppedError: A signal asked to stop; a checkpoint is written.
        """
        lock = folder.path / _LOCK
        if is_held(lock):
            logger.info("waiting for the supernet, which is trained by %s", holder_of(lock))
        with held(lock, folder.subject, wait=-1.0):
            trainer, state = self._trainer(folder), self._load(folder)
            if state is not None:
                self.history, self._used = list(state["history"]), float(state["used"])
                trainer.restore(state)
            if trainer.position.epoch < trainer.epochs and not trainer.position.stopping.stopped:
                self._train_shared(trainer)
            text = json.dumps({"epochs": self.history}, indent=1) + "\n"
            folder.write(HISTORY, text.encode())
        self.steps.optimizer.state.clear()  # no longer needed
        digest = hashlib.sha256()
        for name, value in self.network.state_dict().items():
            digest.update(name.encode() + value.cpu().numpy().tobytes())
        return digest.hexdigest()[:16]

    def _identity(self) -> str:
        text = json.dumps([self.config.identity(), self.seed], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _load(self, folder: RunFolder) -> State | None:
        own = self._identity()

        def wrong(state: State) -> str:
            return "" if state.get("supernet") == own else "is of another search"

        return load_checkpoint(folder.checkpoint, of="a supernet", fits=wrong)

    def _trainer(self, folder: RunFolder) -> Trainer:
        training, clock = self.config.training, quiet_clock(self.fabric.device)
        trainer: Trainer

        def step(group: list[Batch], lr: float) -> dict[str, float]:
            began, place = clock(), trainer.position
            rng = random.Random(derive_seed(self.seed, _DRAWS, place.epoch, place.step))
            drawn = self.network.encoder.draws(rng, self.supernet.drawn)
            sums = self.steps.sandwich_step(group, lr, drawn)
            self._used += clock() - began
            return sums

        def write(state: State) -> None:
            own = {"history": self.history, "used": self._used, "supernet": self._identity()}
            save_checkpoint(folder.checkpoint, {**state, **own})

        trainer = Trainer(
            self.steps,
            training.epochs or _ENDLESS,
            lambda epoch, start: itertools.takewhile(
                lambda _: self._progress(trainer) < 1.0, epoch_of(self._train, epoch, start)
            ),
            lambda _: cosine(training, self._progress(trainer)),
            step=step,
            accumulate=self.config.batch.accumulate,
            seed=partial(derive_seed, self.seed, 1),
            write=write,
            step_seconds=60.0 * self.config.trainer.checkpoint_minutes,
            where=" of the supernet",
        )
        return trainer

    def _progress(self, trainer: Trainer) -> float:
        """Return the share of the training that is done, at most 1."""
        seconds, place = self.config.training.seconds, trainer.position
        if seconds is not None:
            return min(1.0, self._used / seconds)
        count = len(self._train)
        return float(place.epoch * count + place.step) / (trainer.epochs * count)

    def _train_shared(self, trainer: Trainer) -> None:
        """Train to the end; after each epoch score the biggest and the smallest of some kinds."""
        ends = self.network.encoder.draws(random.Random(derive_seed(self.seed, _DRAWS)), 0)
        bar = tqdm(
            total=1.0,
            initial=self._progress(trainer),
            desc="supernet",
            bar_format="{desc} {percentage:3.0f}%|{bar}| {elapsed}<{remaining} {postfix}",
            # In a log file, an occasional line is enough.
            mininterval=1.0 if sys.stderr.isatty() else 30.0,
        )
        with bar, logging_redirect_tqdm():
            trainer.show = lambda batches: bar.update(self._progress(trainer) - bar.n)
            for position in trainer.run():
                position.stopping.stopped = (
                    self.config.training.seconds is not None and self._progress(trainer) >= 1.0
                )
                if not position.step:  # the time was spent at the end of the epoch before
                    continue
                names = ("loss", "smallest", "others")
                row = {name: round(position.mean(name), 5) for name in names}
                big, small = (self._score(genotype) for genotype in ends)
                row |= {"biggest_ter": round(big, 3), "smallest_ter": round(small, 3)}
                row["seconds"] = round(position.seconds, 2)
                self.history.append({"epoch": position.epoch + 1, **row})
                logger.info(
                    "supernet: epoch %d, loss %.3f, error of the biggest %.2f %%, of the smallest "
                    "%.2f %%",
                    position.epoch + 1,
                    row["loss"],
                    big,
                    small,
                )

    # -- scores -------------------------------------------------------------------------------

    def errors(self, genotype: Genotype) -> Iterator[float]:
        """Yield the token error rate on the validation data, in %."""
        yield self._score(genotype)

    def _score(self, genotype: Genotype) -> float:
        self.steps.scored = self._chosen(genotype)
        return self.steps.score(self._valid).ter

    def _chosen(self, genotype: Genotype) -> Chosen:
        if not self._batches:
            first = itertools.islice(epoch_of(self._train, 0), self.supernet.recalibration)
            self._batches = [batch.to(self.fabric.device) for batch in first]
        with self.fabric.autocast():
            batches = ((batch.features, batch.feature_lengths) for batch in self._batches)
            return Chosen(genotype, self.network.encoder.recalibrate(genotype, batches))

    def finish(self, folder: RunFolder, genotype: Genotype) -> None:
        """Write the weights of a genotype's network, a torch file of tensors by name.

        They are ``encoder.*``, as :func:`~nas_encoder.network.build_encoder` names them, and the
        ``classifier`` over the tokens.
        """
        weights: Mapping[str, Tensor] = self.network.inherit(self._chosen(genotype))
        buffer = io.BytesIO()
        torch.save({name: value.cpu() for name, value in weights.items()}, buffer)
        folder.write(INHERITED, buffer.getvalue())
