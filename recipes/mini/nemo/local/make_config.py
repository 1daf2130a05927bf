"""Writes training configs for NeMo from templates, at a given number of encoder parameters.

All of them in one process: importing NeMo takes longer than the rest.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_encoder import load_genotype
from nas_encoder.common.documents import read_yaml
from nas_encoder.data import TokenSet, ctc_frames_needed, open_cuts
from nas_encoder.data.splitting import BLANK, SPACE, UNK
from nas_encoder.errors import ConfigError
from tools.experiments.match_size import match_size, read_template, write_config
from tools.experiments.measure import named_path
from tools.experiments.schedules import SCHEDULES, merge, steps_in_epoch
from tools.scripts import command, write_json

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
    """Return how many utterances need more output frames than their ``frames`` give at a factor."""
    return sum(least > -(-have // factor) for least, have in zip(needed, frames, strict=True))


class Writer:
    """Makes configs from the command line and the training data."""

    def __init__(self, args: argparse.Namespace) -> None:
        self.args = args
        features = read_yaml(args.common, ConfigError)["model"]["preprocessor"]
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
        config, match = read_template(self.args.common, template, "model.encoder", "model.optim")
        options = {**config["model"]["encoder"], "feat_in": self.bins}
        if options["_target_"] == NAS:
            options["genotype"] = load_genotype(self.args.genotype).to_dict()
        options, count = match_size(build, options, match, self.args.parameters)
        factor = int(getattr(build(options), "subsampling_factor", 1))
        self.require_feasible(factor, template)
        data = {"sample_rate": config["model"]["sample_rate"], "labels": self.labels}
        model = {
            "labels": self.labels,
            "encoder": options,
            "decoder": {"vocabulary": self.labels},
            "train_ds": {"manifest_filepath": str(self.args.train), **data},
            "validation_ds": {"manifest_filepath": str(self.args.valid), **data},
        }
        config = merge(config, {"name": name, "seed": self.args.seed, "model": model})
        config["model"]["encoder"] = options
        steps = steps_in_epoch(self.utterances, config["model"]["train_ds"]["batch_size"])
        return SCHEDULES["nemo"].with_steps(config, self.args.epochs, steps), count

    def require_feasible(self, factor: int, template: Path) -> None:
        """Refuse a subsampling factor at which CTC learns nothing from most utterances.

        NeMo's loss would silently count them as zero.
        """
        lost = infeasible(self.needed, self.frames, factor)
        if 2 * lost > self.utterances:
            rule = "utterances with more characters than output frames"
            raise ConfigError(
                str(template),
                [f"subsampling_factor: {factor} leaves {lost} of {self.utterances} {rule}"],
            )

    def feasibility(self) -> dict[str, Any]:
        """Return the number of training utterances that CTC cannot align, by factor."""
        counts = {str(f): infeasible(self.needed, self.frames, f) for f in COUNTED}
        return {"utterances": self.utterances, "infeasible": counts}


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add(
        "systems", nargs="+", type=named_path, metavar="NAME=TEMPLATE",
        help="encoder, learning rate, what to match",
    )  # fmt: skip
    add("--common", type=Path, required=True, help="what all encoders share")
    add("--genotype", required=True, help="file or zoo name, for the searched encoder")
    add("--parameters", type=int, required=True, help="of the encoder")
    add("--epochs", type=int, required=True)
    add("--train", type=Path, required=True, help="NeMo manifest")
    add("--valid", type=Path, required=True, help="NeMo manifest")
    add("--seed", type=int, required=True)
    add("--output", type=Path, required=True, help="folder; gets NAME.yaml and ctc.json")
    args = parser.parse_args(arguments)
    writer = Writer(args)
    for name, template in args.systems:
        config, count = writer.config(name, template)
        write_config(args.output / f"{name}.yaml", config, count, args.parameters)
    write_json(args.output / "ctc.json", writer.feasibility(), indent=1)


if __name__ == "__main__":
    sys.exit(main())
