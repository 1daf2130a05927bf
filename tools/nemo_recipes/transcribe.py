"""Transcribes test sets with a model of NeMo's, by one of its decoders.

Writes ``OUTPUT/TEST/text`` (Kaldi), and ``nemo.json`` beside it with the error rates that NeMo
itself counts, and the sizes of the model.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import write_lines
from nas_encoder.data.phones import FOLDINGS, fold
from nas_encoder.errors import CheckpointError, DataError
from tools.experiments.measure import named_path
from tools.nemo_recipes.manifests import read_manifest
from tools.scripts import command, write_json

BEAM = 10
# Decoder -> way of decoding -> what changes in its configuration: NeMo's batched searches.
DECODING: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "ctc": {
        "greedy": {"strategy": "greedy_batch"},
        "beam": {"strategy": "beam_batch", "beam": {"beam_size": BEAM}},
    },
    "rnnt": {
        "greedy": {"strategy": "greedy_batch"},
        "beam": {"strategy": "malsd_batch", "beam": {"beam_size": BEAM}},
    },
}


def choose(model: Any, head: str, way: str) -> None:
    """Make a model decode with one of its decoders.

    Raises:
        CheckpointError: It has no such decoder.
    """
    from omegaconf import OmegaConf, open_dict

    hybrid = hasattr(model, "cur_decoder")
    own = "rnnt" if hasattr(model, "joint") else "ctc"
    if head != own and not hybrid:
        raise CheckpointError(type(model).__name__, [f"has no decoder '{head}'"])
    held = model.cfg.aux_ctc.decoding if hybrid and head == "ctc" else model.cfg.decoding
    config = OmegaConf.create(OmegaConf.to_container(held, resolve=True))
    with open_dict(config):
        config = OmegaConf.merge(config, OmegaConf.create(dict(DECODING[head][way])))
    if hybrid:
        model.change_decoding_strategy(config, decoder_type=head, verbose=False)
    else:
        model.change_decoding_strategy(config, verbose=False)


def transcribe(model: Any, rows: Sequence[Mapping[str, Any]], batch: int) -> list[str]:
    """Return the text of each line of a manifest."""
    files = [row["audio_filepath"] for row in rows]
    found = model.transcribe(files, batch_size=batch, num_workers=0, verbose=False)
    if len(found) != len(rows):
        raise DataError("transcripts", [f"{len(found)} of {len(rows)} utterances came back"])
    return [" ".join(hypothesis.text.split()) for hypothesis in found]


def decode(model: Any, test: Path, folder: Path, batch: int) -> None:
    """Write the transcripts of a test set, and NeMo's error rates."""
    from nemo.collections.asr.metrics.wer import word_error_rate

    rows = read_manifest(test)
    texts = transcribe(model, rows, batch)
    wanted = [" ".join(row["text"].split()) for row in rows]
    rates = {
        unit: word_error_rate(texts, wanted, use_cer=unit == "char") for unit in ("word", "char")
    }
    for unit, folding in FOLDINGS.items():  # which change nothing but phones
        folded = ([" ".join(fold(one.split(), folding)) for one in of] for of in (texts, wanted))
        rates[unit] = word_error_rate(*folded)
    parameters = sum(value.numel() for value in model.parameters())
    encoder = sum(value.numel() for value in model.encoder.parameters())
    write_json(folder / "nemo.json", {"rates": rates, "parameters": parameters, "encoder": encoder})
    lines = [f"{row['utt_id']} {text}".strip() for row, text in zip(rows, texts, strict=True)]
    write_lines(folder / "text", lines)
    print(json.dumps({"test": folder.name, **rates}), flush=True)


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("tests", nargs="+", type=named_path, metavar="TEST=MANIFEST")
    add("--model", type=Path, required=True, help=".nemo")
    add("--head", choices=tuple(DECODING), required=True, help="the decoder")
    add("--decoding", choices=("greedy", "beam"), default="greedy")
    add("--ngpu", type=int, default=0)
    add("--batch", type=int, default=16, help="utterances at a time (default 16)")
    add("--output", type=Path, required=True, help="folder")
    args = parser.parse_args(arguments)
    from nemo.collections.asr.models import ASRModel

    device = torch.device("cuda" if args.ngpu else "cpu")
    model = ASRModel.restore_from(str(args.model), map_location=device).eval()
    choose(model, args.head, args.decoding)
    for name, manifest in args.tests:
        decode(model, manifest, args.output / name, args.batch)


if __name__ == "__main__":
    sys.exit(main())
