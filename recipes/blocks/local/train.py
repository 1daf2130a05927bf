"""Trains one encoder with CTC, for some CPU seconds or some epochs.

The clock is the process's CPU time in steps of the weights: forward, backward, update. Preparing
batches (features are computed before), checkpoints and scoring do not count.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import random
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.fields import Declared, integer, number, option, section, share
from nas_encoder.data import Batch
from nas_encoder.data.fingerprint import data_changes, summaries
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.network.complexity import count_macs, count_parameters
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.training.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from nas_encoder.training.config import DataConfig, TrainerConfig
from nas_encoder.training.devices import open_fabric
from nas_encoder.training.diverged import DivergedError
from nas_encoder.training.loaders import epoch_of, open_data
from nas_encoder.training.lock import held
from nas_encoder.training.random_state import part_seed
from nas_encoder.training.steps import WeightSteps, feasible_ctc_loss
from nas_encoder.training.stopping import stoppable
from nas_encoder.training.trainer import State, Trainer
from recipes.blocks.local.encoders import build
from tools.scripts import command, write_json

logger = logging.getLogger(__name__)

FRAMES = 1000  # 10 s, for the multiply-adds
MODEL, FEATURES, RESULT = "model.pt", "features.json", "result.json"
_FOREVER = 10**6  # epochs of a training that a time ends


@dataclass(frozen=True)
class TrainConfig(Declared):
    """The document ``conf/train.yaml``: what all trainings have in common.

    Attributes:
        data: Tokens, features, augmentation and batches.
        factor: Utterances with more tokens than this many frames each can hold are left out, for
            all encoders alike.
        rising: Share of the training in which the learning rate rises linearly to its peak; it
            falls to 0 by a cosine.
        weight_decay: Of AdamW (Loshchilov and Hutter 2019).
        beta2: Of AdamW.
        grad_clip: Largest norm of a gradient.
        checkpoint_seconds: Time between two checkpoints.
    """

    data: DataConfig = option(DataConfig, section(DataConfig))
    factor: int = option(4, integer(1, 64))
    rising: float = option(0.15, share)
    weight_decay: float = option(0.01, number(0, 1))
    beta2: float = option(0.98, number(0, 0.9999))
    grad_clip: float = option(5.0, number(0, 1e6))
    checkpoint_seconds: float = option(20.0, number(0, 1e6))


@dataclass(frozen=True)
class Limit:
    """When a training ends: after some CPU seconds of steps, or after some epochs."""

    seconds: float | None = None
    epochs: int | None = None


def rate(peak: float, progress: float, rising: float) -> float:
    """Return the learning rate when a share ``progress`` of the training is done."""
    if progress < rising:
        return peak * progress / rising
    rest = (min(1.0, progress) - rising) / (1.0 - rising)
    return peak * 0.5 * (1.0 + math.cos(math.pi * rest))


class Training:
    """One training.

    Args:
        config: What all trainings have in common.
        spec: The encoder, a document of :func:`~recipes.blocks.local.encoders.write_spec`.
        paths: ``train`` and ``valid``: folders or manifests.
        peak: Peak learning rate.
        seed: Seed of weights, order, masks and dropout.
        limit: When it ends.
    """

    def __init__(
        self,
        config: TrainConfig,
        spec: Mapping[str, Any],
        paths: Mapping[str, str],
        peak: float,
        seed: int,
        limit: Limit,
    ) -> None:
        self.config, self.spec, self.peak = config, spec, peak
        self.seed, self.limit = seed, limit
        self.data = open_data(
            config.data, paths, factor=config.factor, min_length=1, progress=False
        )
        torch.manual_seed(seed)
        encoder = build(spec, config.data.features.num_mel_bins)
        self.model = CtcNetwork(encoder, len(self.data.tokens))
        options: dict[str, Any] = {
            "weight_decay": config.weight_decay,
            "betas": (0.9, config.beta2),
        }
        optimizer = torch.optim.AdamW(self.model.parameters(), lr=peak, **options)
        fabric = open_fabric(TrainerConfig(accelerator="cpu"))
        self.steps = WeightSteps(fabric, self.model, optimizer, config.grad_clip, feasible_ctc_loss)
        self.train = self.data.loader(self.data.cuts["train"], train=True, seed=seed)
        self.valid = self.data.loader(
            self.data.cuts["valid"], train=False, max_cuts=1, subsampling_factor=None
        )
        self.spent, self.losses, self.count = 0.0, list[float](), 0

    def run(self, folder: Path) -> dict[str, Any]:
        """Train what is left; write the model and return the results.

        ``folder`` gets checkpoints on the way, :data:`MODEL` and :data:`FEATURES` at the end. A
        training that diverges is kept, as one that recognizes nothing.
        """
        checkpoint, diverged = folder / "training.ckpt", None
        trainer = Trainer(
            self.steps,
            self.limit.epochs or _FOREVER,
            self._batches,
            lambda position: rate(self.peak, self._progress(position), self.config.rising),
            step=self._step,
            seed=self._seed_of,
            write=lambda state: self._save(checkpoint, state),
            step_seconds=self.config.checkpoint_seconds,
            epoch_seconds=self.config.checkpoint_seconds,
        )
        if (state := self._load(checkpoint)) is not None:
            trainer.restore(state)
            self.spent, self.count = state["spent"], state["count"]
            self.losses = state["losses"]
        self._warm_up(trainer.position.epoch)
        try:
            for position in trainer.run():
                if position.sums:
                    self.losses.append(round(position.mean("loss"), 4))
                    logger.info(
                        "epoch %d: loss %.3f, %.0f s", len(self.losses), self.losses[-1], self.spent
                    )
                position.stopping.stopped = self._over
            trainer.save()
        except DivergedError as error:
            diverged = str(error)
            logger.warning("%s", diverged)
        score = None if diverged else self.steps.score(self.valid)
        encoder: Any = self.model.encoder
        self._write_model(folder)
        return {
            "title": self.spec["title"],
            "role": self.spec["role"],
            "peak": self.peak,
            "seed": self.seed,
            "seconds": round(self.spent, 2),
            "steps": self.count,
            "epochs": round(self.count / max(1, len(self.train)), 2),
            "losses": self.losses,
            "diverged": diverged,
            "valid_error": 100.0 if score is None else score.ter,
            "encoder_parameters": count_parameters(encoder),
            "macs_10s": count_macs(encoder, FRAMES, encoder.input_size),
        }

    def _warm_up(self, epoch: int) -> None:
        """Compute features and compile what a toolkit compiles, before the clock starts."""
        for _ in epoch_of(self.train, epoch):
            pass
        with torch.random.fork_rng():
            encoder = build(self.spec, self.config.data.features.num_mel_bins)
            network = CtcNetwork(encoder, len(self.data.tokens))
            for batch in islice(epoch_of(self.train, epoch), 2):
                log_probs, _ = network(batch.features, batch.feature_lengths)
                log_probs.sum().backward()

    def _seed_of(self, epoch: int) -> int:
        seed = part_seed(self.seed, epoch)
        random.seed(seed)  # Zipformer draws from Python's generator too
        return seed

    # -- time ---------------------------------------------------------------------------------

    @property
    def _over(self) -> bool:
        return self.limit.seconds is not None and self.spent >= self.limit.seconds

    def _progress(self, position: Any) -> float:
        if self.limit.seconds is not None:
            return self.spent / self.limit.seconds
        assert self.limit.epochs is not None
        return float(position.epoch + position.step / len(self.train)) / self.limit.epochs

    def _batches(self, epoch: int, start: int) -> Iterator[Batch]:
        for batch in epoch_of(self.train, epoch, start):
            if self._over:
                return
            yield batch

    def _step(self, group: list[Batch], lr: float) -> dict[str, float]:
        began = time.process_time()
        loss = self.steps.weight_step(group, lr)
        self.spent += time.process_time() - began
        self.count += 1
        return {"loss": loss, "steps": 1}

    # -- files --------------------------------------------------------------------------------

    def _key(self) -> str:
        values = [self.config.to_dict(), self.spec, self.peak, self.seed, vars(self.limit)]
        return json.dumps(values, sort_keys=True, default=str)

    def _save(self, path: Path, state: State) -> None:
        sets = self.data.fingerprints
        more = {"key": self._key(), "spent": self.spent, "count": self.count, "losses": self.losses}
        more |= {"sets": summaries(sets), "rows": {name: own.pack() for name, own in sets.items()}}
        save_checkpoint(path, {**state, **more})

    def _load(self, path: Path) -> State | None:
        state = load_checkpoint(path, of="a training")
        if state is None or state["key"] != self._key():
            return None
        if problems := data_changes(state["sets"], state["rows"], self.data.fingerprints):
            anew = f"train with the data that it began with, or delete {path} to begin anew"
            raise CheckpointError(f"cannot go on from {path}", [*problems, anew])
        return state

    def _write_model(self, folder: Path) -> None:
        tokens, path = self.data.tokens, folder / MODEL
        state = {"spec": dict(self.spec), "bins": self.config.data.features.num_mel_bins}
        state |= {"tokens": list(tokens.tokens), "kind": tokens.kind}
        self.data.features.save(folder / FEATURES)
        delete_checkpoint(path)
        save_checkpoint(path, {**state, "model": self.model.state_dict()})


def read_config(path: Path, tokens: str) -> TrainConfig:
    """Read ``conf/train.yaml``, with the kind of tokens of a corpus."""
    document = dict(read_yaml(path, ConfigError))
    document["data"] = {**(document.get("data") or {}), "tokens": tokens}
    return TrainConfig.from_dict(document, str(path))


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--config", type=Path, required=True, help="conf/train.yaml")
    add("--spec", type=Path, required=True, help="the encoder")
    add("--train", required=True, help="folder or manifest")
    add("--valid", required=True, help="folder or manifest")
    add("--tokens", required=True, help="kind of the corpus's tokens")
    add("--rate", type=float, required=True, help="peak learning rate")
    add("--seed", type=int, required=True)
    limit = parser.add_mutually_exclusive_group(required=True)
    limit.add_argument("--seconds", type=float, help="CPU seconds of steps")
    limit.add_argument("--epochs", type=int)
    add("--output", type=Path, required=True, help=f"folder for {MODEL} and {RESULT}")
    args = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    torch.set_num_threads(1)
    with stoppable(), held(args.output / ".lock", f"training {args.output}"):
        training = Training(
            read_config(args.config, args.tokens),
            read_yaml(args.spec, ConfigError),
            {"train": args.train, "valid": args.valid},
            args.rate,
            args.seed,
            Limit(args.seconds, args.epochs),
        )
        result = training.run(args.output)
        write_json(args.output / RESULT, result)
        delete_checkpoint(args.output / "training.ckpt")
    print(
        f"{args.output}: {result['valid_error']:.2f} % on validation data after "
        f"{result['seconds']:.0f} s, {result['epochs']:.1f} epochs"
    )


if __name__ == "__main__":
    sys.exit(main())
