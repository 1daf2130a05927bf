"""Measures all encoders in one process, alone and in turns: 10 s whole and in chunks.

The chunks are as long as the encoder may see ahead, as whole output frames and a toolkit's own
streaming allow.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import read_yaml
from nas_encoder.deploy import timing
from nas_encoder.errors import ConfigError
from nas_encoder.peers.streaming import chunk_of, streamed
from recipes.blocks.local.encoders import build
from recipes.blocks.local.latency import FRAMES, measure, write
from recipes.streaming.local.bounded import FRAME_MS
from tools.experiments.measure import named_path
from tools.scripts import command

_PASSES = 3  # in chunks, at least: they take long


def in_chunks(
    specs: Mapping[str, Mapping[str, Any]], bins: int, repeats: int
) -> dict[str, dict[str, float]]:
    """Return the median ``streamed_ms`` of 10 s of features, the quartiles' distance, ``chunk_ms``.

    Args:
        specs: Documents of :func:`~recipes.blocks.local.encoders.write_spec`, by name.
        bins: F.
        repeats: Passes of each.
    """
    x = torch.randn(1, FRAMES, bins, generator=torch.Generator().manual_seed(0))
    encoders: dict[str, Any] = {name: build(spec, bins).eval() for name, spec in specs.items()}
    bounds = {name: int(spec["lookahead_ms"] / FRAME_MS) for name, spec in specs.items()}

    def call(name: str) -> Any:
        return lambda: list(streamed(encoders[name], x, bounds[name]))

    with torch.inference_mode():
        taken = timing.measure({name: call(name) for name in encoders}, repeats)
    return {
        name: {
            "streamed_ms": 1e3 * own.median,
            "streamed_iqr_ms": 1e3 * own.iqr,
            "chunk_ms": FRAME_MS * chunk_of(encoders[name], bounds[name]),
        }
        for name, own in taken.items()
    }


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("specs", nargs="+", type=named_path, metavar="NAME=PATH", help="encoders")
    add("--bins", type=int, required=True, help="features of a frame")
    add("--repeats", type=int, required=True, help="timed passes of whole utterances")
    add("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    specs = {name: read_yaml(path, ConfigError) for name, path in args.specs}
    found = measure(specs, args.bins, args.repeats, 0.0)
    chunks = in_chunks(specs, args.bins, min(args.repeats, _PASSES))
    rows = {name: {**found[name], **chunks[name]} for name in specs}
    write(args.output, rows)
    for name, values in rows.items():
        size = f"chunks of {values['chunk_ms']:g} ms"
        print(f"{name}: {values['ms']:.2f} ms, {values['streamed_ms']:.2f} ms in {size}")


if __name__ == "__main__":
    sys.exit(main())
