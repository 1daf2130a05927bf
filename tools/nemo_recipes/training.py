"""Writes the configuration of a training by one of the recipes.

It is one of conf/train/nemo with the data, the tokens and the recipe's options. Speed is perturbed
while training, as often as in ESPnet's three copies of a corpus: an epoch sees a third of that, and
there are three times as many.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from nas_encoder.cli.scale import parse_count
from nas_encoder.common.documents import read_yaml, write_yaml
from nas_encoder.common.resources import find_config
from nas_encoder.data import TokenSet, ctc_frames_needed
from nas_encoder.errors import ConfigError, DataError
from nas_encoder.nemo.options import build_network
from nas_encoder.tables import encoder_targets
from tools.espnet_recipes.standalone import OWN_SIZE, SIZE_OF, millions_of
from tools.experiments.schedules import merge
from tools.experiments.searched import read_genotype
from tools.nemo_recipes.configs import (
    LOSSES,
    Choice,
    choice_of,
    loss_name,
    table,
    with_tokens,
)
from tools.nemo_recipes.genotypes import with_genotype
from tools.nemo_recipes.manifests import read_manifest
from tools.scripts import command

SPEEDS = (0.9, 1.0, 1.1)
LOST = 0.1  # most training texts that may be too long for CTC
# Does everything run? A network of the table's `tiny` sizes, an epoch, batches of 4.
TINY_HIDDEN = 16
TINY_BATCH = 4


@dataclass(frozen=True)
class Options:
    """What a recipe's options say about a training.

    Attributes:
        kind: Of tokens, ``char`` or ``bpe``.
        speed: Whether to perturb the speed.
        rnnt_loss: One of :data:`LOSSES`.
        ngpu: Number of GPUs.
        seed: Of the training.
        tiny: Whether to train a network that is small enough for a test.
    """

    kind: str
    speed: bool = False
    rnnt_loss: str = "auto"
    ngpu: int = 0
    seed: int = 1
    tiny: bool = False


def shipped(choice: Choice) -> dict[str, Any]:
    """Return the configuration as it is shipped, without its tokens."""
    config = read_yaml(find_config(choice.config_name, "train/nemo"), ConfigError)
    model = config["model"]
    for part in (model, model["train_ds"], model["validation_ds"], model["test_ds"]):
        part.pop("labels", None)
    for name in ("tokenizer", "use_cer"):
        model.pop(name, None)
    for decoder in (model["decoder"], model.get("aux_ctc", {}).get("decoder", {})):
        if "vocabulary" in decoder:
            decoder["vocabulary"] = []
    if "aux_ctc" in model:
        model["aux_ctc"]["use_cer"] = False
    return dict(config)


def read_labels(folder: Path) -> list[str]:
    """Return the characters that :mod:`tools.nemo_recipes.tokens` wrote."""
    return (folder / "vocab.txt").read_text(encoding="utf-8").removesuffix("\n").split("\n")


def training_config(
    choice: Choice, options: Options, train: Path, valid: Path, tokens: Path
) -> dict[str, Any]:
    """Return the configuration that :mod:`tools.nemo_recipes.train` reads.

    Args:
        choice: Which one.
        options: See :class:`Options`.
        train: NeMo manifest.
        valid: NeMo manifest.
        tokens: Folder with ``vocab.txt`` of characters, or a tokenizer.
    """
    config = shipped(choice)
    labels = read_labels(tokens) if options.kind == "char" else None
    config = with_tokens(config, options.kind, labels, str(tokens))
    gpus = {"accelerator": "gpu", "devices": options.ngpu}
    model: dict[str, Any] = {
        "train_ds": {"manifest_filepath": str(train)},
        "validation_ds": {"manifest_filepath": str(valid)},
    }
    trainer: dict[str, Any] = gpus if options.ngpu else {"accelerator": "cpu", "devices": 1}
    trainer |= {"enable_progress_bar": False, "enable_model_summary": False}
    if not options.ngpu:
        model["train_ds"]["pin_memory"] = model["validation_ds"]["pin_memory"] = False
    if options.speed:
        model["train_ds"]["augmentor"] = {
            "speed": {
                "prob": 1.0,
                "sr": config["model"]["sample_rate"],
                "resample_type": "kaiser_fast",
                "min_speed_rate": SPEEDS[0],
                "max_speed_rate": SPEEDS[-1],
                "num_rates": len(SPEEDS),
            }
        }
        trainer["max_epochs"] = len(SPEEDS) * config["trainer"]["max_epochs"]
    if choice.loss != "ctc":
        model["loss"] = {"loss_name": loss_name(options.rnnt_loss, options.ngpu)}
    target = table()["losses"][choice.loss]["classes"][options.kind]
    config = merge(config, {"model": model, "trainer": trainer})
    config["exp_manager"] |= {
        "explicit_log_dir": None,  # given on the command line
        "create_tensorboard_logger": bool(options.ngpu),
    }
    config |= {"target": target, "seed": options.seed}
    return tiny(choice, config) if options.tiny else config


def tiny(choice: Choice, config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration with a network that is small enough for a test."""
    part = {"batch_size": TINY_BATCH, "num_workers": 0}
    model: dict[str, Any] = {
        "train_ds": part,
        "validation_ds": part,
        "encoder": table()["encoders"][choice.encoder]["tiny"],
        "optim": {"sched": {"warmup_steps": 1}},
    }
    if choice.loss != "ctc":
        model["model_defaults"] = {"pred_hidden": TINY_HIDDEN, "joint_hidden": TINY_HIDDEN}
    trainer = {"max_epochs": 1, "accumulate_grad_batches": 1}
    return merge(config, {"model": model, "trainer": trainer})


def output_frames(encoder: Mapping[str, Any], bins: int, frames: Sequence[int]) -> list[int]:
    """Return the outputs of an encoder for numbers of frames of features.

    Args:
        encoder: ``model.encoder``.
        bins: Features of a frame.
        frames: Numbers of them.
    """
    kinds = {target: kind for kind, target in encoder_targets().items()}
    kind = kinds.get(encoder["_target_"])
    if kind is None:  # one of NeMo's, whose convolutions with a stride are padded
        factor = int(encoder["subsampling_factor"])
        return [-(-count // factor) for count in frames]
    options = {key: value for key, value in encoder.items() if key != "_target_"}
    with torch.device("meta"):
        network, _ = build_network(kind, {**options, "feat_in": bins})
    found: list[int] = network.output_lengths(torch.tensor(list(frames))).tolist()
    return found


def left_out(config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> int:
    """Return how many utterances NeMo leaves out of the training because of their length."""
    limits = config["model"]["train_ds"]
    low, high = limits["min_duration"], limits["max_duration"]
    return sum(not low <= row["duration"] <= high for row in rows)


def known_tokens(config: Mapping[str, Any], folder: Path) -> TokenSet:
    """Return the tokens of a training, given their folder."""
    if "labels" not in config["model"]:
        return TokenSet.load(folder / "tokenizer.model")
    labels = ("<space>" if label == " " else label for label in config["model"]["labels"])
    return TokenSet(["<blank>", "<unk>", *labels], "char")


def infeasible(
    config: Mapping[str, Any], rows: Sequence[Mapping[str, Any]], known: TokenSet, speed: bool
) -> int:
    """Return how many texts have more tokens than the encoder has outputs, if spoken fastest.

    NeMo's CTC loss counts them as zero without a word.
    """
    features = config["model"]["preprocessor"]
    hop = features["window_stride"] * (SPEEDS[-1] if speed else 1.0)
    frames = [int(row["duration"] / hop) for row in rows]
    there = output_frames(config["model"]["encoder"], features["features"], frames)
    needed = [ctc_frames_needed(known.encode(row["text"])) for row in rows]
    return sum(most < least for most, least in zip(there, needed, strict=True))


def check(choice: Choice, config: Mapping[str, Any], options: Options, tokens: Path) -> list[str]:
    """Return what is to be said about the training data.

    Raises:
        DataError: CTC cannot learn from too many of the texts, or no utterance is left.
    """
    parts = (config["model"][name]["manifest_filepath"] for name in ("train_ds", "validation_ds"))
    rows, others = (read_manifest(Path(manifest)) for manifest in parts)
    known = known_tokens(config, tokens)
    gone = left_out(config, rows)
    said = [f"{gone} of {len(rows)} training utterances are left out: too long or too short"]
    if gone == len(rows):
        raise DataError("training data", ["all utterances are too long or too short"])
    # NeMo leaves unknown characters out of the texts, also where it counts development errors.
    lacking = known.missing((row["utt_id"], row["text"]) for row in others)
    said.append(f"{lacking.count} of {lacking.total} tokens of development texts are unknown")
    if "ctc" in choice.heads:
        lost = infeasible(config, rows, known, options.speed)
        said.append(f"{lost} of {len(rows)} texts have more tokens than the encoder has outputs")
        if lost > LOST * len(rows):
            remedy = "take larger units, or an encoder that subsamples less"
            raise DataError(f"training data of {choice.name}", [f"{said[-1]}; {remedy}"])
    return said


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--corpus", choices=table()["corpora"], required=True)
    add("--name", required=True, help="of the configuration, without the corpus")
    add("--train", type=Path, required=True, help="NeMo manifest")
    add("--valid", type=Path, required=True, help="NeMo manifest")
    add("--tokens", type=Path, required=True, help="folder")
    add("--kind", choices=("char", "bpe"), required=True, help="of tokens")
    add("--speed", action="store_true", help="perturb the speed")
    add("--rnnt_loss", default="auto", help=", ".join(LOSSES))
    add("--ngpu", type=int, default=0)
    add("--seed", type=int, default=1)
    add("--tiny", action="store_true", help="a network for a test")
    add("--genotype", help="of the encoder, in the place of the configuration's: file or name")
    add("--parameters", help=f"of that encoder, like 14M, or {OWN_SIZE} (default: as {SIZE_OF})")
    add("--output", type=Path, required=True)
    args = parser.parse_args(arguments)
    choice = choice_of(args.corpus, args.name)
    options = Options(args.kind, args.speed, args.rnnt_loss, args.ngpu, args.seed, args.tiny)
    config = training_config(choice, options, args.train, args.valid, args.tokens)
    if args.genotype is not None:
        size = args.parameters or str(round(1e6 * millions_of(args.corpus)))
        wanted = None if args.tiny or size == OWN_SIZE else parse_count(size)
        config = with_genotype(config, read_genotype(args.genotype), wanted)
    for line in check(choice, config, options, args.tokens):
        print(line)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    write_yaml(args.output, config, ConfigError)


if __name__ == "__main__":
    sys.exit(main())
