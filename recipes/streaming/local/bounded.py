"""Writes the document that builds an encoder, if its lookahead is within its bound.

The lookahead is what the encoder says, chunks included, and it is measured too, by changing frames
of random features. The encoder's streaming must give what it gives for the whole utterance.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import read_yaml
from nas_encoder.errors import ConfigError
from nas_encoder.peers.streaming import seen_ahead, streamed
from recipes.blocks.local.encoders import build, read_encoders, write_spec
from tools.scripts import command, write_json

FRAME_MS = 10.0
_SECONDS = 3.0  # of the utterance whose frames are changed
_CLOSE = 1e-4  # of outputs of about 1, in float32


def lookahead(encoder: Any, bound_ms: float, name: str) -> dict[str, float]:
    """Return the bound, what an encoder says that it sees ahead, and what was measured, in ms.

    Raises:
        ConfigError: It does not stream, sees further than it may or says, or streams other outputs
            than those of the whole utterance.
    """
    said = FRAME_MS * encoder.lookahead()
    frames = round(1000 * _SECONDS / FRAME_MS)
    found = FRAME_MS * seen_ahead(encoder, frames)
    problems = []
    if said > bound_ms:
        problems.append(f"sees {said:g} ms ahead, and may see {bound_ms:g} ms")
    if found > said:
        problems.append(f"says that it sees {said:g} ms ahead, and sees {found:g} ms")
    x = torch.randn(1, frames, encoder.input_size, generator=torch.Generator().manual_seed(0))
    encoder.eval()
    with torch.inference_mode():
        whole, _ = encoder(x, torch.tensor([frames]))
        pieces = torch.cat(list(streamed(encoder, x)), 1)
    if pieces.shape != whole.shape or (pieces - whole).abs().max() > _CLOSE:
        problems.append("gives other outputs in chunks than for the whole utterance")
    if problems:
        raise ConfigError(name, problems)
    return {"bound_ms": bound_ms, "lookahead_ms": said, "measured_ms": found}


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--encoders", type=Path, required=True, help="conf/encoders.yaml")
    add("--name", required=True, help="of the encoder there")
    add("--genotype", type=Path, help="what a search found")
    add("--search", type=Path, help="its configuration, for the network's size")
    add("--bins", type=int, required=True, help="features of a frame")
    add("--output", type=Path, required=True, help="document to write")
    add("--lookahead", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    encoder = read_encoders(args.encoders)[args.name]
    if encoder.lookahead_ms is None:
        raise ConfigError(args.name, ["lookahead_ms: is missing"])
    searched = read_yaml(args.search, ConfigError) if args.search else {}
    torch.set_num_threads(1)
    torch.manual_seed(0)
    made = args.output.with_suffix(".new")
    write_spec(made, encoder, args.genotype, searched.get("network") or {})
    network = build(read_yaml(made, ConfigError), args.bins)
    found = lookahead(network, encoder.lookahead_ms, args.name)
    write_json(args.lookahead, found)
    made.rename(args.output)
    print(f"{args.output}: {found}")


if __name__ == "__main__":
    sys.exit(main())
