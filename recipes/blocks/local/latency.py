"""Measures the latency of all encoders in one process, alone on the machine, in turns."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch

from nas_encoder.common.documents import read_yaml
from nas_encoder.common.provenance import environment
from nas_encoder.deploy import timing
from nas_encoder.errors import ConfigError
from recipes.blocks.local.encoders import build
from tools.experiments.measure import named_path
from tools.scripts import command, write_json

SECONDS = 10.0
FRAMES = 1000  # of 10 ms


def measure(
    specs: Mapping[str, Mapping[str, Any]], bins: int, repeats: int, seconds: float
) -> dict[str, dict[str, Any]]:
    """Return the median ``ms`` of 10 s of features, the quartiles' distance and each time.

    Args:
        specs: Documents of :func:`~recipes.blocks.local.encoders.write_spec`, by name.
        bins: F.
        repeats: Least number of timed passes of each.
        seconds: Least time of each.
    """
    torch.set_num_threads(1)
    x = torch.randn(1, FRAMES, bins, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([FRAMES])
    # The same peer on several corpora is measured once.
    same = {
        name: json.dumps([s["build"], s["options"]], sort_keys=True) for name, s in specs.items()
    }
    firsts = {key: specs[name] for name, key in reversed(same.items())}
    calls = {key: partial(build(spec, bins).eval(), x, lengths) for key, spec in firsts.items()}
    with torch.inference_mode():
        taken = timing.measure(calls, repeats, seconds, warm_up=3)
    return {
        name: {
            "ms": 1e3 * taken[key].median,
            "iqr_ms": 1e3 * taken[key].iqr,
            "each_ms": [round(1e3 * value, 3) for value in taken[key].times],
        }
        for name, key in same.items()
    }


def write(path: Path, rows: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the figures of all encoders, and of the machine."""
    about = {"seconds": SECONDS, "threads": 1, "machine": environment()}
    # Of the last minute: more than 1 says that something else ran beside.
    load = round(os.getloadavg()[0], 2)
    write_json(path, {**about, "load": load, "ms": rows})


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("specs", nargs="+", type=named_path, metavar="NAME=PATH", help="encoders")
    add("--bins", type=int, required=True, help="features of a frame")
    add("--repeats", type=int, default=30, help="timed passes (default 30)")
    add("--seconds", type=float, default=0.0, help="least time of each encoder")
    add("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    specs = {name: read_yaml(path, ConfigError) for name, path in args.specs}
    found = measure(specs, args.bins, args.repeats, args.seconds)
    write(args.output, found)
    for name, values in found.items():
        print(f"{name}: {values['ms']:.2f} ms")


if __name__ == "__main__":
    sys.exit(main())
