"""Measures encoders side by side: parameters, multiply-adds, real-time factor.

All are built by ESPnet from the configs that it saved, in one process with one thread, and take
turns, so that whatever else the machine does hits all of them alike.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import torch

from nas_encoder.errors import DataError, InputError, NasEncoderError
from nas_encoder.genotype.io import write_atomically
from nas_encoder.network.complexity import count_macs, count_parameters

SECONDS = 10.0
FRAMES = 1000  # of 10 ms
SPREAD = 0.05  # the largest encoder may have this much more parameters than the smallest


def measure(folders: dict[str, Path], repeats: int, seed: int) -> dict[str, dict[str, Any]]:
    """Return the measures of each system.

    Args:
        folders: Name -> ESPnet's output folder with ``config.yaml``.
        repeats: Timed passes of each encoder, after one that is not timed.
        seed: Of the features.

    Raises:
        DataError: The encoders differ in size by more than 5 %.
    """
    from espnet2.tasks.asr import ASRTask

    torch.set_num_threads(1)
    models, sizes = {}, {}
    for name, folder in folders.items():
        model, _ = ASRTask.build_model_from_file(folder / "config.yaml", None, "cpu")
        models[name] = model.eval()
        sizes[name] = model.frontend.output_size()
    counts = {name: count_parameters(model.encoder) for name, model in models.items()}
    spread = max(counts.values()) / min(counts.values()) - 1
    if spread > SPREAD:
        rule = f"must be equal within {100 * SPREAD:.0f} %, differ by {100 * spread:.1f} %"
        raise DataError("sizes of the encoders", [f"{rule}: {counts}"])
    generator = torch.Generator().manual_seed(seed)
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for repeat in range(repeats + 1):
        for name, model in models.items():
            features = torch.randn(1, FRAMES, sizes[name], generator=generator)
            lengths = torch.tensor([FRAMES])
            with torch.inference_mode():
                began = time.perf_counter()
                model.encoder(features, lengths)
                if repeat:
                    seconds[name].append(time.perf_counter() - began)
    return {
        name: {
            "encoder_parameters": counts[name],
            "parameters": count_parameters(model),
            "macs_10s": count_macs(model.encoder, FRAMES, sizes[name]),
            "rtf": statistics.median(seconds[name]) / SECONDS,
            "rtf_each": [value / SECONDS for value in seconds[name]],
        }
        for name, model in models.items()
    }


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("systems", nargs="+", metavar="NAME=DIR", help="ESPnet's output folders")
    parser.add_argument("--repeats", type=int, default=9, help="timed passes (default 9)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="JSON to write")
    args = parser.parse_args(arguments)
    try:
        folders = {}
        for text in args.systems:
            name, sign, folder = text.partition("=")
            if not sign:
                raise InputError(f"systems: must be NAME=DIR, got '{text}'")
            folders[name] = Path(folder)
        found = measure(folders, max(1, args.repeats), args.seed)
        args.output.parent.mkdir(parents=True, exist_ok=True)
        data = json.dumps({"machine_threads": 1, "systems": found}, indent=2) + "\n"
        write_atomically(args.output, data.encode(), DataError)
    except NasEncoderError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, values in found.items():
        print(
            f"{name}: {values['encoder_parameters']} encoder parameters, "
            f"{values['macs_10s'] / 1e6:.1f} M MACs, RTF {values['rtf']:.4f}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
