"""Streams test utterances with a trained model, which must give what it gives for them whole."""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path
from typing import Any

import torch

from nas_encoder.errors import DataError
from nas_encoder.network.ctc import log_probabilities
from nas_encoder.peers.streaming import streamed
from nas_encoder.training.decoding import greedy
from recipes.blocks.local.decode import open_model
from tools.scripts import command, write_json

_CLOSE = 1e-3  # of log-probabilities, in float32


def compare(folder: Path, test: str, count: int) -> dict[str, Any]:
    """Return how many utterances were streamed, how many texts are the same, and the distance.

    Args:
        folder: What :mod:`recipes.blocks.local.train` wrote.
        test: The test set.
        count: Utterances.

    Raises:
        CheckpointError: The model is missing or damaged.
        DataError: There is no utterance, or streaming gives other outputs.
    """
    network, loader, tokens = open_model(folder, test)
    encoder: Any = network.encoder
    done, same, furthest = 0, 0, 0.0
    with torch.inference_mode():
        for batch in islice(loader, count):
            whole, lengths = network(batch.features, batch.feature_lengths)
            x = batch.features[:, : int(batch.feature_lengths[0])]
            pieces = torch.cat(list(streamed(encoder, x)), 1)
            found = log_probabilities(network.classifier(pieces))
            whole = whole[:, : int(lengths[0])]
            apart = float((found - whole).abs().max()) if found.shape == whole.shape else torch.inf
            if not apart <= _CLOSE:
                rule = f"log-probabilities in chunks are {apart:.2g} away from those of the whole"
                raise DataError(batch.ids[0], [rule])
            texts = [tokens.decode(greedy(own[0])) for own in (found, whole)]
            done, same, furthest = done + 1, same + (texts[0] == texts[1]), max(furthest, apart)
    if not done:
        raise DataError(test, ["has no utterance"])
    return {"utterances": done, "same_texts": same, "furthest": furthest}


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--model", type=Path, required=True, help="folder of a training")
    add("--test", required=True, help="folder or manifest")
    add("--count", type=int, required=True, help="utterances")
    add("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    found = compare(args.model, args.test, args.count)
    write_json(args.output, found)
    print(f"{args.output}: {found}")


if __name__ == "__main__":
    sys.exit(main())
