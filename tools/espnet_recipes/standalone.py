"""Writes the configuration of a training without a checkout of ESPnet.

It is that of ``run.sh`` in ESPnet's recipe, with what its asr.sh would add on the command line.
Speed is perturbed while training instead of in three copies of the corpus, so an epoch sees a third
of the speech, and there are three times as many.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nas_encoder.cli.scale import parse_count
from nas_encoder.common.documents import write_yaml
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.spaces import get_space
from nas_encoder.tables import encoder_stems
from tools.espnet_recipes.configs import Choice, choices, decode_configs, table, train_config
from tools.experiments.schedules import merge
from tools.experiments.searched import read_genotype, require_names
from tools.scripts import command

FACTORS = (0.9, 1.0, 1.1)
RATE = 16000  # Hz, of all these corpora
# Encoders of genotypes are trained like these: without a size of their own, or with one.
LIKE, LIKE_SIZED = "nas", "blocks"
OWN_SIZE = "own"
SIZE_OF = "dfsmn_san"  # and have its number of parameters, if no other is given
# Does everything run? A network of TINY sizes, an epoch, batches of 25 s.
TINY_TRAINING: Mapping[str, Any] = {
    "max_epoch": 1,
    "batch_bins": 400_000,
    "accum_grad": 1,
    "num_workers": 0,
    "use_amp": False,
}


def choice_of(corpus: str, name: str) -> Choice:
    """Return the configuration of that name.

    Raises:
        ConfigError: There is none.
    """
    known = {choice.name: choice for choice in choices(corpus)}
    if name not in known:
        raise ConfigError("--encoders", [f"must be of {', '.join(known)}; got '{name}'"])
    return known[name]


def choices_of(corpus: str, names: Sequence[str], others: Sequence[str]) -> dict[str, Choice]:
    """Return the configurations of encoders by their names.

    Args:
        corpus: Its name in the table.
        names: Those of ``--encoders``.
        others: Names of encoders with genotypes of their own.

    Raises:
        ConfigError: A name is unknown, or has two meanings, or there is no encoder at all.
    """
    found = {name: choice_of(corpus, name) for name in names}
    require_names(found, others, "neither --search nor --genotype does")
    return found


def choice_for(corpus: str, sized: bool, loss: str) -> Choice:
    """Return the configuration by which a genotype is trained.

    Args:
        corpus: Its name in the table.
        sized: Whether genotypes of its space have widths and depths of their own.
        loss: ``hybrid``, ``ctc`` or ``transducer``.
    """
    return Choice(corpus, LIKE_SIZED if sized else LIKE, loss)


def bins_of(choice: Choice) -> int:
    """Return the number of features of a frame."""
    return int(train_config(choice)["frontend_conf"]["n_mels"])


def millions_of(corpus: str) -> float:
    """Return the size that encoders of genotypes have by default, in millions of parameters."""
    return float(table()["corpora"][corpus]["encoders"][SIZE_OF]["millions"])


def averaged(choice: Choice) -> str:
    """Return the file of averaged checkpoints that is decoded."""
    ((split, criterion, _),) = train_config(choice)["best_model_criterion"]
    return f"{split}.{criterion}.ave.pth"


def decoding_file(choice: Choice, kind: str = "beam") -> str:
    """Return the decoding configuration for a loss.

    Args:
        choice: The training.
        kind: ``beam``, ``greedy``, ``lm``, ``ngram`` or ``streaming``.

    Raises:
        ConfigError: Models with this loss are not decoded so.
    """
    loss = "ctc" if choice.loss == "interctc" else choice.loss
    name = "_".join(["decode", loss, *([kind] if kind != "beam" else [])])
    known = decode_configs(choice.corpus)
    if name not in known:
        own = [key.removeprefix(f"decode_{loss}").lstrip("_") for key in known if loss in key]
        rule = f"must be of {', '.join(one or 'beam' for one in own)} for {choice.name}"
        raise ConfigError("--decoding", [f"{rule}; got '{kind}'"])
    return f"{name}.yaml"


def tiny(choice: Choice, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with a network that is small enough for a test."""
    about = table()["encoders"][choice.encoder]
    sizes = dict(about["tiny"])
    if choice.loss == "interctc":
        sizes["interctc_layer_idx"] = about["tiny_taps"]
    decoder = table()["losses"][choice.loss].get("tiny", {})
    return merge(config, {"encoder_conf": sizes, **decoder, **TINY_TRAINING})


def with_genotype(
    choice: Choice, config: Mapping[str, Any], genotype: Genotype, parameters: int | None
) -> dict[str, Any]:
    """Return a configuration with a genotype in its encoder.

    Args:
        choice: The configuration.
        config: Its content, or that of a tiny one.
        genotype: See :func:`sized_options`.
        parameters: See :func:`sized_options`.

    Raises:
        ConfigError: No size comes near that number.
    """
    bins = config["frontend_conf"]["n_mels"]
    options = sized_options(config["encoder_conf"], genotype, bins, parameters)
    return {**config, "encoder_conf": options}


def sized_options(
    options: Mapping[str, Any], genotype: Genotype, bins: int, parameters: int | None
) -> dict[str, Any]:
    """Return the options of an encoder with a genotype in it.

    Args:
        options: Those of ``build_encoder``.
        genotype: Written into them as a whole.
        bins: Features of a frame.
        parameters: Of the encoder, within 10 % if the genotype has a width of its own, else within
            2 %, by its channels and layers; None for the genotype's own size, or that of the
            configuration.

    Raises:
        ConfigError: No size comes near that number.
    """
    from nas_encoder import build_encoder
    from nas_encoder.network.complexity import count_parameters
    from tools.experiments.match_size import Match, match_size

    space, options = get_space(genotype.space), {**options, "genotype": genotype.to_dict()}
    if space.has("scaling"):
        options = {key: options[key] for key in options if key not in ("channels", "layers")}
        if parameters is not None:
            plain = {key: options[key] for key in options if key != "genotype"}
            plain["input_size"] = bins
            read = space.options.from_dict(plain, "encoder", None, genotype.architecture)
            options |= space.scaling.scale(genotype, parameters, read)[1]
    elif parameters is not None:
        import torch

        with torch.device("meta"):
            own = count_parameters(build_encoder(**options, input_size=bins))
        # Parameters grow with the square of the channels.
        near, layers = round(options["channels"] * (parameters / own) ** 0.5), options["layers"]
        match = Match(
            fine="layers",
            fine_range=(layers * 2 // 3, layers * 4 // 3),
            coarse="channels",
            coarse_range=(max(near - 3, 2), near + 3),
        )
        options, _ = match_size(
            lambda sizes: build_encoder(**sizes, input_size=bins), options, match, parameters
        )
    return options


def require_streaming(config: Mapping[str, Any]) -> None:
    """Check that a configuration's encoder streams in ESPnet.

    Raises:
        ConfigError: It does not; says why.
    """
    import torch

    from nas_encoder.baselines import try_build

    encoder, bins = config["encoder"], config["frontend_conf"]["n_mels"]
    found = [f"encoder: {encoder} takes whole utterances in ESPnet"]
    if encoder in encoder_stems():
        network: Any
        with torch.device("meta"):
            network, found = try_build(encoder, {**config["encoder_conf"], "input_size": bins}, {})
        if network is not None:
            try:
                network.lookahead()
            except ConfigError as error:
                found = list(error.problems)
    if found:
        raise ConfigError("--decoding streaming", found)


def training_config(
    choice: Choice, tokens: Path, stats: Path, token_type: str, bpemodel: Path | None, speed: bool
) -> dict[str, Any]:
    """Return the configuration that ``espnet2.bin.asr_train`` reads."""
    config = train_config(choice) | {
        "token_type": token_type,
        "token_list": str(tokens),
        "bpemodel": None if bpemodel is None else str(bpemodel),
        "normalize": "global_mvn",
        "normalize_conf": {"stats_file": str(stats)},
    }
    if speed:
        changed = [factor for factor in FACTORS if factor != 1]
        config["preprocessor_conf"] = {
            "fs": RATE,
            "data_aug_prob": round(len(changed) / len(FACTORS), 3),
            "data_aug_effects": [
                [1 / len(changed), "speed_perturb", {"factor": factor}] for factor in changed
            ],
        }
        config["max_epoch"] *= len(FACTORS)
    return config


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--corpus", choices=table()["corpora"], required=True)
    add("--name", required=True, help="of the configuration, without train_asr_")
    add("--tokens", type=Path, required=True, help="ESPnet's token list")
    add("--token_type", choices=("char", "bpe", "word"), required=True)
    add("--bpemodel", type=Path)
    add("--stats", type=Path, required=True, help="ESPnet's feats_stats.npz")
    add("--genotype", help="of the encoder, in the place of the configuration's: file or name")
    add("--parameters", help=f"of that encoder, like 14M, or {OWN_SIZE} (default: as {SIZE_OF})")
    add("--seed", type=int, required=True, help="of the training")
    add("--speed", action="store_true", help="perturb the speed")
    add("--streaming", action="store_true", help="the encoder must stream")
    add("--tiny", action="store_true", help="a network for a test")
    add("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    choice = choice_of(args.corpus, args.name)
    config = training_config(
        choice, args.tokens, args.stats, args.token_type, args.bpemodel, args.speed
    )
    config["seed"] = args.seed
    if args.tiny:
        config = tiny(choice, config)
    if args.genotype is not None:
        size = args.parameters or str(round(1e6 * millions_of(args.corpus)))
        wanted = None if args.tiny or size == OWN_SIZE else parse_count(size)
        config = with_genotype(choice, config, read_genotype(args.genotype), wanted)
    if args.streaming:
        require_streaming(config)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(args.output, config, ConfigError)


if __name__ == "__main__":
    sys.exit(main())
