"""Writes the configuration of a training without a checkout of ESPnet.

It is that of ``run.sh`` in ESPnet's recipe, with what its asr.sh would add on the command line.
Speed is perturbed while training instead of in three copies of the corpus, so an epoch sees a third
of the speech, and there are three times as many.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder.common.documents import write_yaml
from nas_encoder.errors import ConfigError
from tools.espnet_recipes.configs import Choice, choices, table, train_config
from tools.experiments.schedules import merge
from tools.scripts import command

FACTORS = (0.9, 1.0, 1.1)
RATE = 16000  # Hz, of all these corpora
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


def bins_of(choice: Choice) -> int:
    """Return the number of features of a frame."""
    return int(train_config(choice)["frontend_conf"]["n_mels"])


def averaged(choice: Choice) -> str:
    """Return the file of averaged checkpoints that is decoded."""
    ((split, criterion, _),) = train_config(choice)["best_model_criterion"]
    return f"{split}.{criterion}.ave.pth"


def decoding(choice: Choice, kind: str = "") -> str:
    """Return the decoding configuration for a loss; ``kind`` is for example ``greedy``."""
    loss = "ctc" if choice.loss == "interctc" else choice.loss
    return "_".join(["decode", loss, *([kind] if kind else [])]) + ".yaml"


def tiny(choice: Choice, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with a network that is small enough for a test."""
    about = table()["encoders"][choice.encoder]
    sizes = dict(about["tiny"])
    if choice.loss == "interctc":
        sizes["interctc_layer_idx"] = about["tiny_taps"]
    decoder = table()["losses"][choice.loss].get("tiny", {})
    return merge(config, {"encoder_conf": sizes, **decoder, **TINY_TRAINING})


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
    add("--speed", action="store_true", help="perturb the speed")
    add("--tiny", action="store_true", help="a network for a test")
    add("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    choice = choice_of(args.corpus, args.name)
    config = training_config(
        choice, args.tokens, args.stats, args.token_type, args.bpemodel, args.speed
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(args.output, tiny(choice, config) if args.tiny else config, ConfigError)


if __name__ == "__main__":
    sys.exit(main())
