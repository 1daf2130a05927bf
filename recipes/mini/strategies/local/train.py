"""Trains the network of one genotype from scratch and measures its errors on the test set."""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from nas_encoder import build_encoder, load_genotype
from nas_encoder.common.documents import read_yaml, write_atomically
from nas_encoder.data import (
    AsrLoader,
    FeatureConfig,
    FeatureExtractor,
    SpecAugmentConfig,
    TokenSet,
    open_cuts,
    texts,
)
from nas_encoder.errors import ConfigError, DataError, NasEncoderError
from nas_encoder.genotype import Genotype
from nas_encoder.network.complexity import count_macs
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.search.gradient.steps import ctc_loss
from nas_encoder.spaces.cells.config import EncoderConfig
from nas_encoder.training.checkpoint import load_checkpoint, save_checkpoint
from nas_encoder.training.decoding import collapse
from tools.experiments.match_size import Match, match_size

FRAMES = 1000  # 10 s, for the multiply-adds
KEYS = ("network", "match", "features", "tokens", "augment", "max_lr", "grad_clip", "batch")


class Training:
    """One training.

    Args:
        config: The document ``conf/train.yaml``.
        genotype: What is trained.
        data: ``train`` and ``test``, folders or manifests.
        parameters: Of the encoder, within 2 %.
        steps: Updates.
        seed: Of weights, order, masks and dropout.
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
            Match.from_dict(config["match"]),
            parameters,
        )
        self.encoder_config = EncoderConfig.from_dict(
            {"input_size": features.num_mel_bins, **options}
        )
        train, test = open_cuts(data["train"]), open_cuts(data["test"])
        self.tokens = TokenSet.build(texts(train), kind=config["tokens"])
        extractor = FeatureExtractor.fit(features, train, progress=False)
        encoder = build_encoder(genotype, **asdict(self.encoder_config))
        self.model = CtcNetwork(encoder, len(self.tokens))
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config["max_lr"])
        self.schedule = torch.optim.lr_scheduler.OneCycleLR(
            self.optimizer, config["max_lr"], steps, pct_start=0.2, cycle_momentum=False
        )
        self.train = AsrLoader(
            train,
            self.tokens,
            extractor,
            max_cuts=config["batch"],
            seed=seed,
            spec_augment=SpecAugmentConfig(**config["augment"]),
            subsampling_factor=self.encoder_config.subsampling_factor,
        )
        self.test = AsrLoader(test, self.tokens, extractor, max_cuts=config["batch"], shuffle=False)
        self.step = 0

    def run(self, checkpoint: Path) -> dict[str, Any]:
        """Train what is left, and return what there is to know.

        Args:
            checkpoint: Goes on from it, writes it after each pass over the data, and deletes it.
        """
        spent, epoch, losses = self._load(checkpoint)
        began = time.process_time() - spent
        with tqdm(total=self.steps, initial=self.step, unit="step", disable=None) as bar:
            while self.step < self.steps:
                torch.manual_seed(self.seed * 1000 + epoch)
                self.train.set_epoch(epoch)
                losses.append(self._epoch(bar))
                epoch += 1
                self._save(checkpoint, time.process_time() - began, epoch, losses)
        seconds = time.process_time() - began
        error = self.error(self.test)
        return {
            "genotype": self.genotype.name,
            "hash": self.genotype.hash,
            "seed": self.seed,
            "steps": self.steps,
            "encoder_parameters": self.parameters,
            "macs_10s": count_macs(self.model.encoder, FRAMES, self.encoder_config.input_size),
            "channels": self.encoder_config.channels,
            "output_size": self.encoder_config.output_size,
            "losses": losses,
            "training_seconds": round(seconds, 2),
            **error,
        }

    def _epoch(self, bar: Any) -> float:
        self.model.train()
        total, count = 0.0, 0
        for batch in self.train:
            log_probs, lengths = self.model(batch.features, batch.feature_lengths)
            loss = ctc_loss(log_probs, lengths, batch)
            if not bool(torch.isfinite(loss)):
                raise DataError(
                    f"training of {self.genotype.name}",
                    [f"the loss is {float(loss.detach())} in step {self.step + 1}"],
                )
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config["grad_clip"])
            self.optimizer.step()
            self.schedule.step()
            total, count = total + float(loss.detach()), count + 1
            self.step += 1
            bar.update()
            if self.step == self.steps:
                break
        return round(total / max(1, count), 4)

    @torch.no_grad()
    def error(self, batches: Iterable[Any]) -> dict[str, Any]:
        """Return edits, tokens and the greedy token error rate."""
        from kaldialign import edit_distance

        self.model.eval()
        edits = tokens = 0
        for batch in batches:
            log_probs, lengths = self.model(batch.features, batch.feature_lengths)
            for row, length, target, size in zip(
                log_probs.argmax(-1).tolist(),
                lengths.tolist(),
                batch.targets.tolist(),
                batch.target_lengths.tolist(),
                strict=True,
            ):
                edits += edit_distance(target[:size], collapse(row[:length]))["total"]
                tokens += size
        return {"edits": edits, "tokens": tokens, "cer": 100.0 * edits / max(1, tokens)}

    def _key(self) -> str:
        return f"{self.genotype.hash} {self.seed} {self.steps} {self.encoder_config}"

    def _save(self, path: Path, seconds: float, epoch: int, losses: list[float]) -> None:
        save_checkpoint(
            path,
            {
                "key": self._key(),
                "step": self.step,
                "seconds": seconds,
                "epoch": epoch,
                "losses": losses,
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "schedule": self.schedule.state_dict(),
            },
        )

    def _load(self, path: Path) -> tuple[float, int, list[float]]:
        state = load_checkpoint(path, of="a training", unsealed=True)
        if state is None or state["key"] != self._key():
            return 0.0, 0, []
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
        self.step = int(state["step"])
        return float(state["seconds"]), int(state["epoch"]), list(state["losses"])


def read_config(path: Path) -> dict[str, Any]:
    """Read ``conf/train.yaml``.

    Raises:
        ConfigError: A key is missing or unknown.
    """
    document = read_yaml(path, ConfigError)
    problems = [f"{key}: is missing" for key in KEYS if key not in document]
    problems += [f"{key}: unknown key" for key in document if key not in KEYS]
    if problems:
        raise ConfigError(str(path), problems)
    config: dict[str, Any] = document
    return config


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
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
    try:
        training = Training(
            read_config(args.config),
            load_genotype(args.genotype),
            {"train": args.train, "test": args.test},
            args.parameters,
            args.steps,
            args.seed,
        )
        args.output.parent.mkdir(parents=True, exist_ok=True)
        checkpoint = args.output.with_suffix(".ckpt")
        result = training.run(checkpoint)
        write_atomically(
            args.output, (json.dumps(result, indent=2) + "\n").encode("utf-8"), DataError
        )
        checkpoint.unlink(missing_ok=True)
    except NasEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.output}: CER {result['cer']:.1f} %, {result['encoder_parameters']} parameters")
    return 0


if __name__ == "__main__":
    sys.exit(main())
