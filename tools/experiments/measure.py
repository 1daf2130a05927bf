"""Measures encoders side by side: parameters, multiply-adds, real-time factor.

All are built by their toolkit from what their trainings saved, in one process with one thread,
and take turns, so that whatever else the machine does hits all of them alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nas_encoder.deploy import timing
from nas_encoder.errors import DataError
from nas_encoder.network.complexity import count_macs, count_parameters
from tools.scripts import command, write_json

SECONDS = 10.0
FRAMES = 1000  # of 10 ms
SPREAD = 0.05  # the largest encoder may exceed the smallest by this fraction of parameters


Measurable = tuple[nn.Module, nn.Module, int]
"""A model in evaluation mode, its encoder with ``forward(x (B, T, F), lengths (B,))``, and F."""


def measure(
    systems: Mapping[str, Measurable], repeats: int, seed: int
) -> dict[str, dict[str, Any]]:
    """Return the measurements of each system.

    Args:
        systems: The systems by name.
        repeats: Timed passes of each encoder, after an untimed one.
        seed: Seed of the features.

    Raises:
        DataError: The encoders differ in size by more than 5 %.
    """
    torch.set_num_threads(1)
    counts = {name: count_parameters(encoder) for name, (_, encoder, _) in systems.items()}
    spread = max(counts.values()) / min(counts.values()) - 1
    if spread > SPREAD:
        rule = f"must be equal within {100 * SPREAD:.0f} %, differ by {100 * spread:.1f} %"
        raise DataError("sizes of the encoders", [f"{rule}: {counts}"])
    generator, lengths = torch.Generator().manual_seed(seed), torch.tensor([FRAMES])
    calls = {
        name: partial(encoder, torch.randn(1, FRAMES, bins, generator=generator), lengths)
        for name, (_, encoder, bins) in systems.items()
    }
    with torch.inference_mode():
        taken = timing.measure(calls, repeats)
    return {
        name: {
            "encoder_parameters": counts[name],
            "parameters": count_parameters(model),
            "macs_10s": count_macs(encoder, FRAMES, bins),
            "rtf": taken[name].median / SECONDS,
            "rtf_each": [value / SECONDS for value in taken[name].times],
        }
        for name, (model, encoder, bins) in systems.items()
    }


def write_measures(path: Path, found: Mapping[str, Mapping[str, Any]]) -> None:
    """Write the result of :func:`measure` as JSON, and print it."""
    write_json(path, {"machine_threads": 1, "systems": found})
    for name, values in found.items():
        print(
            f"{name}: {values['encoder_parameters']} encoder parameters, "
            f"{values['macs_10s'] / 1e6:.1f} M MACs, RTF {values['rtf']:.4f}"
        )


def named_path(text: str) -> tuple[str, Path]:
    """Read a command line's ``NAME=PATH``."""
    name, sign, path = text.partition("=")
    if not sign:
        raise argparse.ArgumentTypeError(f"must be NAME=PATH, got '{text}'")
    return name, Path(path)


@command
def main(load: Callable[[Path], Measurable], arguments: list[str] | None = None) -> None:
    """Run the command with a toolkit's function to load a model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "systems", nargs="+", type=named_path, metavar="NAME=PATH", help="what trainings saved"
    )
    parser.add_argument("--repeats", type=int, default=9, help="timed passes (default 9)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    systems = {name: load(path) for name, path in args.systems}
    write_measures(args.output, measure(systems, max(1, args.repeats), args.seed))
