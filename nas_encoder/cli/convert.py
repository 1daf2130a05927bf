"""Turn a trained ESPnet model into a NeMo one, and back, weight for weight.

The encoder, the CTC layer and the computation of the features are carried over, so that the
result decodes the same text. An attention or transducer decoder is not: what is left out is
listed. The direction follows from the input. With --encoder-only, which always works, the result
is a folder with the encoder's weights, its block of the other toolkit's configuration, and the
genotype.

A model with the toolkit's own Transformer, Conformer, Branchformer or E-Branchformer (ESPnet) or
Conformer or FastConformer (NeMo) becomes the same model with our encoder: a genotype with the same
outputs, from which training or a search goes on. Its decoders stay. What our encoder cannot express
is refused by the option's name.
"""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nas_encoder.interchange.convert import Conversion

EXAMPLES = """examples:
  nas-encoder convert exp/asr_train_nas model.nemo
  nas-encoder convert exp/asr_train_nas model.nemo --checkpoint valid.cer_ctc.best.pth
  nas-encoder convert packed.zip model.nemo --bpe-model bpe.model
  nas-encoder convert model.nemo exp/from_nemo
  nas-encoder convert model.nemo encoder --encoder-only
  nas-encoder convert exp/asr_train_conformer exp/asr_nas
  nas-encoder convert fastconformer.nemo nas.nemo
  nas-encoder convert exp/asr_train_e_branchformer model.nemo --to nemo

ESPnet then reads exp/from_nemo/config.yaml and model.pth (--asr_train_config, --asr_model_file).
A bare encoder: in ESPnet --init_param encoder/encoder.pth:encoder:encoder with encoder.yaml in
the configuration; in NeMo +init_from_ptl_ckpt=encoder/encoder.ckpt with encoder.yaml as the
model's encoder block.
"""

_MOST = 5  # names listed in the text


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "input",
        help="ESPnet: folder with config.yaml, .pth file in one, packed .zip; NeMo: .nemo file",
    )
    parser.add_argument(
        "output", help="a .nemo file, or a folder for ESPnet and for a bare encoder"
    )
    parser.add_argument("--encoder-only", action="store_true", help="convert nothing else")
    parser.add_argument(
        "--checkpoint", metavar="NAME", help="which .pth file of the folder (default: the average)"
    )
    parser.add_argument(
        "--bpe-model", metavar="FILE", help="SentencePiece model, if not where the config says"
    )
    parser.add_argument(
        "--to",
        choices=("espnet", "nemo"),
        help="default: the other toolkit; the same if the encoder is the toolkit's own",
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of text")


def run(args: argparse.Namespace) -> int:
    """Convert; say what was written and what was left out."""
    from nas_encoder.interchange.convert import convert

    done = convert(
        args.input, args.output, args.encoder_only, args.checkpoint, args.bpe_model, args.to
    )
    print(json.dumps(done.to_dict(), indent=2) if args.json else "\n".join(_text(done)))
    return 0


def _text(done: Conversion) -> list[str]:
    facts = done.to_dict()
    encoder = facts["encoder"]
    name = encoder["kind"]
    if encoder["read_from"]:
        name = f"{encoder['read_from']} as {name}"
    if encoder["genotype"]:
        name += f", genotype {encoder['genotype']} ({encoder['hash']})"
    from nas_encoder.interchange.convert import TITLES

    lines = [
        f"{facts['input']} ({TITLES[facts['from']]}) -> {TITLES[facts['to']]}",
        f"  encoder    {name}, {encoder['parameters']:,} parameters",
    ]
    if done.rewritten:
        lines.append("  the rest   as it was")
    elif not done.encoder_only:
        lines.append(f"  CTC layer  {facts['tokens']} tokens with the blank")
        lines.append(f"  features   {TITLES[facts['features']]}'s, the same to the last bit")
    for reason, names in done.model.left_out.items():
        more = f" and {len(names) - _MOST} more" if len(names) > _MOST else ""
        lines.append(f"  left out   {', '.join(names[:_MOST])}{more} ({reason})")
    lines += [f"  note       {note}" for note in done.model.notes]
    lines += [f"  wrote      {file}" for file in done.files]
    return lines
