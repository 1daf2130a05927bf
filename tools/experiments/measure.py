"""Measures encoders side by side: parameters, multiply-adds, real-time factor.

All are built by their toolkit from what their trainings saved, in one process with one thread,
and take turns, so that whatever else the machine does hits all of them alike.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import nn

from nas_encoder.bench.measure import EncoderSettings, benchmark
from nas_encoder.bench.subjects import of_module
from nas_encoder.errors import DataError
from nas_encoder.network.complexity import count_parameters
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
        repeats: Timed passes of each encoder, at least 3, after two untimed ones.
        seed: Seed of the features.

    Raises:
        DataError: The encoders differ in size by more than 5 %.
    """
    subjects = [
        of_module(name, encoder, bins, SECONDS / FRAMES)
        for name, (_, encoder, bins) in systems.items()
    ]
    counts = {subject.label: subject.parameters or 0 for subject in subjects}
    spread = max(counts.values()) / min(counts.values()) - 1
    if spread > SPREAD:
        rule = f"must be equal within {100 * SPREAD:.0f} %, differ by {100 * spread:.1f} %"
        raise DataError("sizes of the encoders", [f"{rule}: {counts}"])
    settings = EncoderSettings(
        speech=(SECONDS,), training=False, seconds=0.0, repeats=max(3, repeats), seed=seed
    )
    rows = {row["label"]: row for row in benchmark(subjects, settings)["networks"]}
    return {
        name: {
            "encoder_parameters": counts[name],
            "parameters": count_parameters(model),
            "macs_10s": rows[name]["macs"],
            "memory_mib": rows[name]["memory_mib"]["inference"],
            "rtf": rows[name]["inference"]["1"]["rtf"],
            "rtf_each": [ms / 1e3 / SECONDS for ms in rows[name]["inference"]["1"]["each_ms"]],
        }
        for name, (model, _, _) in systems.items()
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
    write_measures(args.output, measure(systems, args.repeats, args.seed))
