"""Decodes a test set with a trained model, greedily and one utterance at a time.

Alone in its batch no utterance is padded, so that no encoder suffers from its toolkit's padding.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import write_atomically
from nas_encoder.data import AsrLoader, FeatureExtractor, LoaderConfig, TokenSet, open_cuts
from nas_encoder.errors import CheckpointError, DataError
from nas_encoder.network.ctc import CtcNetwork
from nas_encoder.training.checkpoint import load_checkpoint
from nas_encoder.training.decoding import greedy
from recipes.blocks.local.encoders import build
from recipes.blocks.local.train import FEATURES, MODEL
from tools.scripts import command


def open_model(folder: Path, test: str) -> tuple[CtcNetwork, AsrLoader, TokenSet]:
    """Return a trained network, the utterances of a test set one by one, and the tokens.

    Args:
        folder: What :mod:`recipes.blocks.local.train` wrote.
        test: The test set.

    Raises:
        CheckpointError: The model is missing or damaged.
    """
    saved = load_checkpoint(folder / MODEL, of="a model")
    if saved is None:
        raise CheckpointError(str(folder / MODEL), ["is missing"])
    tokens = TokenSet(saved["tokens"], saved["kind"])
    network = CtcNetwork(build(saved["spec"], saved["bins"]), len(tokens))
    network.load_state_dict(saved["model"])
    network.eval()
    features = FeatureExtractor.load(folder / FEATURES)
    loader = AsrLoader(
        # Texts of the test set may hold other characters; the network's ids stay as they are.
        open_cuts(test), tokens.with_unk(), features, LoaderConfig(max_cuts=1, cache=False)
    )  # fmt: skip
    return network, loader, tokens


def decode(folder: Path, test: str) -> dict[str, str]:
    """Return the recognized text of every utterance of a test set.

    Args:
        folder: What :mod:`recipes.blocks.local.train` wrote.
        test: The test set.

    Raises:
        CheckpointError: The model is missing or damaged.
        DataError: An utterance is too short for the encoder.
    """
    network, loader, tokens = open_model(folder, test)
    found: dict[str, str] = {}
    with torch.inference_mode():
        for batch in loader:
            log_probs, lengths = network(batch.features, batch.feature_lengths)
            found[batch.ids[0]] = tokens.decode(greedy(log_probs[0, : int(lengths[0])]))
    return found


def write_text(path: Path, found: dict[str, str]) -> None:
    """Write a Kaldi ``text`` file."""
    lines = "".join(f"{key} {text}".rstrip() + "\n" for key, text in sorted(found.items()))
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, lines.encode(), DataError)


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add: Any = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a training")
    add("--test", required=True, help="folder or manifest")
    add("--output", type=Path, required=True, help="Kaldi text to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = decode(args.model, args.test)
    write_text(args.output, found)
    print(f"{args.output}: {len(found)} utterances")


if __name__ == "__main__":
    sys.exit(main())
