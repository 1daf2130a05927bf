"""Trains the network of one genotype from scratch and measures its errors on the test set."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from nas_encoder import build_encoder, load_genotype
from nas_encoder.common.documents import read_yaml
from nas_encoder.data import FeatureConfig, SpecAugmentConfig
from nas_encoder.data.fingerprint import data_changes, summaries
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import count_macs
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.spaces import get_space
from nas_encoder.training.checkpoint import delete_checkpoint, load_checkpoint, save_checkpoint
from nas_encoder.training.config import BatchConfig, DataConfig, TrainerConfig
from nas_encoder.training.devices import open_fabric
from nas_encoder.training.loaders import epoch_of, open_data
from nas_encoder.training.lock import held
from nas_encoder.training.optimizers import one_cycle
from nas_encoder.training.random_state import part_seed
from nas_encoder.training.steps import WeightSteps
from nas_encoder.training.stopping import stoppable
from nas_encoder.training.trainer import State, Trainer
from tools.experiments.match_size import Match, match_size
from tools.scripts import command, write_json

FRAMES = 1000  # 10 s, for the multiply-adds
KEYS = ("network", "match", "features", "tokens", "augment", "max_lr", "grad_clip", "batch")


class Training:
    """One training.

    Args:
        config: The document ``conf/train.yaml``.
        genotype: The genotype to train.
        data: ``train`` and ``test``, folders or manifests.
        parameters: Number of parameters of the encoder, within 2 %.
        steps: Number of updates.
        seed: Seed of weights, order, masks and dropout.
    """

    def __init__(
        self,
        config: dict[str, Any],
        genotype: Genotype,
        data: dict[str, str],
        parameters: int,
        steps: int,
        seed: int,
    ) -> None:
        self.config, self.genotype, self.steps, self.seed = config, genotype, steps, seed
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True)
        features = FeatureConfig(**config["features"])
        options, self.parameters = match_size(
            lambda values: build_encoder(genotype, input_size=features.num_mel_bins, **values),
            config["network"],
            Match(**config["match"]),
            parameters,
        )
        self.encoder_config: Any = get_space(genotype.space).options.from_dict(
            {"input_size": features.num_mel_bins, **options}
        )
        factor = self.encoder_config.subsampling_factor
        speech = open_data(
            DataConfig(
                tokens=config["tokens"],
                features=features,
                augment=SpecAugmentConfig(**config["augment"]),
                batch=BatchConfig(config["batch"], longest_utterance=10**7, shortest_utterance=1),
            ),
            data,
            factor=factor,
            min_length=1,
            progress=False,
        )
        self.tokens, self.sets = speech.tokens, speech.fingerprints
        encoder = build_encoder(genotype, **asdict(self.encoder_config))
        self.model = CtcNetwork(encoder, len(self.tokens))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["max_lr"])
        self.train = speech.loader(speech.cuts["train"], train=True, shuffle=False, seed=seed)
        self.test = speech.loader(speech.cuts["test"], train=False, subsampling_factor=None)
        self.losses: list[float] = []

    def run(self, checkpoint: Path) -> dict[str, Any]:
        """Train what is left and return the results; ``checkpoint`` is written after each pass.

        Raises:
            DivergedError: The loss or a weight is NaN or infinite.
        """
        count, rates = len(self.train), one_cycle(self.config["max_lr"], self.steps, rising=0.2)
        fabric = open_fabric(TrainerConfig(accelerator="cpu"))
        steps = WeightSteps(fabric, self.model, self.optimizer, self.config["grad_clip"])
        spent = 0.0
        with tqdm(total=self.steps, unit="step", disable=None) as bar:
            trainer = Trainer(
                steps,
                -(-self.steps // count),
                lambda epoch, start: itertools.islice(
                    epoch_of(self.train, epoch, start), self.steps - epoch * count - start
                ),
                lambda position: rates[position.epoch * count + position.step],
                seed=partial(part_seed, self.seed),
                write=lambda state: self._save(checkpoint, state, time.process_time() - began),
                show=bar.update,
            )
            state = self._load(checkpoint)
            if state is not None:
                trainer.restore(state)
                self.losses, spent = state["losses"], state["seconds"]
                bar.update(trainer.position.epoch * count)
            began = time.process_time() - spent
            for position in trainer.run():
                self.losses.append(round(position.mean("loss"), 4))
        seconds = time.process_time() - began
        score = steps.score(self.test)
        return {
            "genotype": self.genotype.name,
            "hash": self.genotype.hash,
            "seed": self.seed,
            "steps": self.steps,
            "encoder_parameters": self.parameters,
            "macs_10s": count_macs(self.model.encoder, FRAMES, self.encoder_config.input_size),
            "channels": self.encoder_config.channels,
            "output_size": self.encoder_config.output_size,
            "losses": self.losses,
            "training_seconds": round(seconds, 2),
            "edits": score.edits,
            "tokens": score.tokens,
            "cer": score.ter,
        }

    def _key(self) -> str:
        return f"{self.genotype.hash} {self.seed} {self.steps} {self.encoder_config}"

    def _save(self, path: Path, state: State, seconds: float) -> None:
        rows = {name: found.pack() for name, found in self.sets.items()}
        more = {"key": self._key(), "seconds": seconds, "losses": self.losses}
        more |= {"sets": summaries(self.sets), "rows": rows}
        save_checkpoint(path, {**state, **more})

    def _load(self, path: Path) -> State | None:
        state = load_checkpoint(path, of="a training", unsealed=True)
        if state is None or state["key"] != self._key():
            return None
        kept = state.get("sets", summaries(self.sets))
        if problems := data_changes(kept, state.get("rows", {}), self.sets):
            anew = f"train with the data that it began with, or delete {path} to begin anew"
            raise CheckpointError(
                f"cannot go on from {path}, its data have changed", [*problems, anew]
            )
        if "model" in state:  # as the first version wrote it
            state |= {"position": {"epoch": state["epoch"]}, "random": []}
            state |= {"network": state["model"], "weights_optimizer": state["optimizer"]}
        return state


def read_config(path: Path) -> dict[str, Any]:
    """Read ``conf/train.yaml``; ConfigError if keys are missing or unknown."""
    document = read_yaml(path, ConfigError)
    problems = [f"{key}: is missing" for key in KEYS if key not in document]
    problems += [f"{key}: unknown key" for key in document if key not in KEYS]
    if problems:
        raise ConfigError(str(path), problems)
    config: dict[str, Any] = document
    return config


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--config", type=Path, required=True, help="conf/train.yaml")
    add("--genotype", required=True, help="file or zoo name")
    add("--train", required=True, help="folder or manifest")
    add("--test", required=True, help="folder or manifest")
    add("--parameters", type=int, required=True, help="of the encoder")
    add("--steps", type=int, required=True, help="updates")
    add("--seed", type=int, required=True)
    add("--output", type=Path, required=True, help="JSON file to write")
    args = parser.parse_args(arguments)
    with stoppable(), held(args.output.with_suffix(".lock"), f"training {args.output}"):
        training = Training(
            read_config(args.config),
            load_genotype(args.genotype),
            {"train": args.train, "test": args.test},
            args.parameters,
            args.steps,
            args.seed,
        )
        checkpoint = args.output.with_suffix(".ckpt")
        result = training.run(checkpoint)
        write_json(args.output, result)
        delete_checkpoint(checkpoint)
    print(f"{args.output}: CER {result['cer']:.1f} %, {result['encoder_parameters']} parameters")


if __name__ == "__main__":
    sys.exit(main())
