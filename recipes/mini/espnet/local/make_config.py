"""Writes a training config for ESPnet from a template, at a given number of encoder parameters."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from nas_encoder import build_encoder, load_genotype
from nas_encoder.baselines import BASELINES, build_baseline
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.errors import ConfigError, NasEncoderError
from recipes.mini.espnet.local.training_config import steps_in_epoch, with_steps
from tools.experiments.match_size import Match, match_size
from tools.experiments.schedules import merge


def _nas(options: Mapping[str, Any]) -> nn.Module:
    return build_encoder(**options)


def _transformer(options: Mapping[str, Any]) -> nn.Module:
    from espnet2.asr.encoder.transformer_encoder import TransformerEncoder

    encoder: nn.Module = TransformerEncoder(**options)
    return encoder


# The template's encoder -> how to build it from encoder_conf and input_size
BUILDERS: dict[str, Callable[[Mapping[str, Any]], nn.Module]] = {
    "nas": _nas,
    "transformer": _transformer,
    **{name: partial(build_baseline, name) for name in BASELINES},
}


def make_config(args: argparse.Namespace) -> tuple[dict[str, Any], int]:
    """Return the config and the number of the encoder's parameters.

    Raises:
        ConfigError: A template is incomplete, or no width gives the size.
    """
    config = merge(read_yaml(args.common, ConfigError), read_yaml(args.template, ConfigError))
    missing = [f"'{key}' is missing" for key in ("encoder", "match") if key not in config]
    if not missing and config["encoder"] not in BUILDERS:
        missing.append(f"encoder: must be one of {list(BUILDERS)}, got '{config['encoder']}'")
    if missing:
        raise ConfigError(str(args.template), missing)
    match = Match.from_dict(config.pop("match"))
    options = dict(config.get("encoder_conf", {}))
    if args.genotype is not None:
        options["genotype"] = load_genotype(args.genotype).to_dict()
    builder = BUILDERS[config["encoder"]]
    bins = config["frontend_conf"]["n_mels"]
    options, count = match_size(
        lambda values: builder({"input_size": bins, **values}), options, match, args.parameters
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
    return with_steps(config, args.epochs, steps_in_epoch(utterances, config["batch_size"])), count


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
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
    try:
        config, count = make_config(args)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        write_yaml(args.output, config, ConfigError)
    except NasEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    off = 100 * (count / args.parameters - 1)
    print(f"{args.output}: {count} encoder parameters, {off:+.2f} % off {args.parameters}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
