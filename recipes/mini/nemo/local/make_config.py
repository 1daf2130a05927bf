"""Writes training configs for NeMo from templates, at a given number of encoder parameters.

All of them in one process: importing NeMo takes longer than the rest.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_encoder import load_genotype
from nas_encoder.common.documents import read_yaml, write_atomically, write_yaml
from nas_encoder.data import TokenSet, ctc_frames_needed, open_cuts
from nas_encoder.data.tokens import BLANK, SPACE, UNK
from nas_encoder.errors import ConfigError, DataError, NasEncoderError
from recipes.mini.nemo.local.training_config import with_steps
from tools.experiments.match_size import Match, match_size
from tools.experiments.measure import named_paths
from tools.experiments.schedules import merge

NAS = "nas_encoder.nemo.NASEncoder"
COUNTED = (4, 8)  # subsampling factors for which infeasible utterances are counted


def build(options: Mapping[str, Any]) -> nn.Module:
    """Return the encoder, built as NeMo's models build it."""
    from nemo.collections.asr.models import EncDecCTCModel
    from omegaconf import OmegaConf

    with torch.device("cpu"):  # NeMo's encoders compute shapes with tensors, not on "meta"
        encoder: nn.Module = EncDecCTCModel.from_config_dict(OmegaConf.create(dict(options)))
    return encoder


def infeasible(needed: Sequence[int], frames: Sequence[int], factor: int) -> int:
    """Return how many utterances need more output frames for CTC than they have.

    Args:
        needed: Output frames that each utterance's characters need.
        frames: Feature frames of each utterance.
        factor: Feature frames per output frame.
    """
    return sum(least > -(-have // factor) for least, have in zip(needed, frames, strict=True))


class Writer:
    """Writes configs from what those of all encoders share.

    Args:
        args: The command line.

    Raises:
        DataError: The training manifest cannot be read.
        ConfigError: The common config cannot be read.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        self.common = read_yaml(args.common, ConfigError)
        features = self.common["model"]["preprocessor"]
        self.bins = features["features"]
        cuts = open_cuts(args.train)
        texts = [cut.supervisions[0].text for cut in cuts]
        tokens = TokenSet.build(texts, kind="char")
        self.utterances = len(texts)
        self.labels = [
            " " if token == SPACE else token for token in tokens.tokens if token not in (BLANK, UNK)
        ]
        hop = round(features["window_stride"] * features["sample_rate"])
        self.needed = [ctc_frames_needed(tokens.encode(text)) for text in texts]
        self.frames = [cut.num_samples // hop for cut in cuts]

    def config(self, name: str, template: Path) -> tuple[dict[str, Any], int]:
        """Return a system's config and its encoder's number of parameters.

        Raises:
            ConfigError: The template is incomplete, no width gives the size, or most utterances
                have more characters than the encoder has output frames.
        """
        config = merge(self.common, read_yaml(template, ConfigError))
        missing = [key for key in ("encoder", "optim") if key not in config["model"]]
        missing += [key for key in ("match",) if key not in config]
        if missing:
            raise ConfigError(str(template), [f"'{key}' is missing" for key in missing])
        options = {**config["model"]["encoder"], "feat_in": self.bins}
        if options["_target_"] == NAS:
            options["genotype"] = load_genotype(self.args.genotype).to_dict()
        match = Match.from_dict(config.pop("match"))
        options, count = match_size(build, options, match, self.args.parameters)
        factor = int(getattr(build(options), "subsampling_factor", 1))
        self.require_feasible(factor, template)
        data = {"sample_rate": self.common["model"]["sample_rate"], "labels": self.labels}
        model = {
            "labels": self.labels,
            "encoder": options,
            "decoder": {"vocabulary": self.labels},
            "train_ds": {"manifest_filepath": str(self.args.train), **data},
            "validation_ds": {"manifest_filepath": str(self.args.valid), **data},
        }
        config = merge(config, {"name": name, "seed": self.args.seed, "model": model})
        config["model"]["encoder"] = options
        batch_size = config["model"]["train_ds"]["batch_size"]
        return with_steps(config, self.args.epochs, max(self.utterances // batch_size, 1)), count

    def require_feasible(self, factor: int, template: Path) -> None:
        """Refuse a subsampling factor at which CTC learns nothing from most utterances.

        NeMo's loss would silently count them as zero.

        Raises:
            ConfigError: The factor is too large; the numbers are given.
        """
        lost = infeasible(self.needed, self.frames, factor)
        if 2 * lost > self.utterances:
            raise ConfigError(
                str(template),
                [
                    f"subsampling_factor: {factor} leaves {lost} of {self.utterances} utterances "
                    "with more characters than output frames"
                ],
            )

    def feasibility(self) -> dict[str, Any]:
        """Return the number of training utterances that CTC cannot align, by factor."""
        counts = {str(f): infeasible(self.needed, self.frames, f) for f in COUNTED}
        return {"utterances": self.utterances, "infeasible": counts}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("systems", nargs="+", metavar="NAME=TEMPLATE", help="encoder, learning rate, what to match")
    add("--common", type=Path, required=True, help="what all encoders share")
    add("--genotype", required=True, help="file or zoo name, for the searched encoder")
    add("--parameters", type=int, required=True, help="of the encoder")
    add("--epochs", type=int, required=True)
    add("--train", type=Path, required=True, help="NeMo manifest")
    add("--valid", type=Path, required=True, help="NeMo manifest")
    add("--seed", type=int, required=True)
    add("--output", type=Path, required=True, help="folder; gets NAME.yaml and ctc.json")
    args = parser.parse_args(arguments)
    try:
        templates = named_paths(args.systems)
        writer = Writer(args)
        args.output.mkdir(parents=True, exist_ok=True)
        for name, template in templates.items():
            config, count = writer.config(name, template)
            path = args.output / f"{name}.yaml"
            write_yaml(path, config, ConfigError)
            off = 100 * (count / args.parameters - 1)
            print(f"{path}: {count} encoder parameters, {off:+.2f} % off {args.parameters}")
        facts = json.dumps(writer.feasibility(), indent=1) + "\n"
        write_atomically(args.output / "ctc.json", facts.encode(), DataError)
    except NasEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
