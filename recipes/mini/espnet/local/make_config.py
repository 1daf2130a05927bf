"""Writes a training config for ESPnet from a template, at a given number of encoder parameters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from nas_encoder import build_encoder, load_genotype
from nas_encoder.baselines import BASELINES, build_baseline
from nas_encoder.errors import ConfigError
from tools.experiments.match_size import match_size, read_template, write_config
from tools.experiments.schedules import SCHEDULES, merge, steps_in_epoch
from tools.scripts import command

ENCODERS = ("nas", "transformer", "conformer", *BASELINES)


def build(encoder: str, options: Mapping[str, Any]) -> nn.Module:
    """Return one of the ENCODERS, built from ``encoder_conf`` and ``input_size``."""
    if encoder == "nas":
        return build_encoder(**options)
    if encoder == "transformer":
        from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

        transformer: nn.Module = TransformerEncoder(**options)
        return transformer
    if encoder == "conformer":
        from espnet2.asr.encoder.conformer_encoder import ConformerEncoder

        conformer: nn.Module = ConformerEncoder(**options)
        return conformer
    return build_baseline(encoder, options)


def make_config(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Return the config and the number of the encoder's parameters.

    Raises:
        ConfigError: A template is incomplete, or no width gives the size.
    """
    config, match = read_template(args.common, args.template, "encoder")
    encoder = config["encoder"]
    if encoder not in ENCODERS:
        rule = f"encoder: must be one of {list(ENCODERS)}, got '{encoder}'"
        raise ConfigError(str(args.template), [rule])
    options = dict(config.get("encoder_conf", {}))
    if args.genotype is not None:
        options["genotype"] = load_genotype(args.genotype).to_dict()
    bins = config["frontend_conf"]["n_mels"]
    options, count = match_size(
        lambda values: build(encoder, {"input_size": bins, **values}),
        options,
        match,
        args.parameters,
    )
    utterances = sum(1 for line in args.utterances.open(encoding="utf-8") if line.strip())
    config = merge(
        config,
        {
            "normalize_conf": {"stats_file": str(args.stats)},
            "token_type": "char",
            "token_list": str(args.tokens),
            "optim_conf": {"lr": config["scheduler_conf"]["max_lr"]},
            "seed": args.seed,
        },
    )
    config["encoder_conf"] = options
    steps = steps_in_epoch(utterances, config["batch_size"])
    return SCHEDULES["espnet"].with_steps(config, args.epochs, steps), count


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--template", type=Path, required=True, help="encoder, learning rate, what to match")
    add("--common", type=Path, required=True, help="what all encoders share")
    add("--genotype", help="file or zoo name, for 'encoder: nas'")
    add("--parameters", type=int, required=True, help="of the encoder")
    add("--epochs", type=int, required=True)
    add("--utterances", type=Path, required=True, help="training data: a line for each utterance")
    add("--stats", type=Path, required=True, help="ESPnet's feats_stats.npz")
    add("--tokens", type=Path, required=True, help="ESPnet's token list")
    add("--seed", type=int, required=True)
    add("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    config, count = make_config(args)
    write_config(args.output, config, count, args.parameters)


if __name__ == "__main__":
    sys.exit(main())
