"""Averages the checkpoints of a training with the lowest development error.

As NeMo's script checkpoint_averaging.py does: weights and statistics are averaged, counters are
not. NeMo's wheel does not hold the script. The model that the training wrote is copied with the
averaged weights in the place of the last ones; its configuration and tokenizer stay.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError
from nas_encoder.interchange.files import Archive, dump_tensors, load_tensors, write_tar
from nas_encoder.interchange.nemo_files import WEIGHTS
from tools.scripts import command

LAST, UNFINISHED = "-last.ckpt", "-unfinished"
SHOWN = 3


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints that the training kept, without the last one's copy.

    Raises:
        CheckpointError: There is none, or one was not written to its end.
    """
    found = sorted(path for path in folder.glob("*.ckpt") if not path.name.endswith(LAST))
    broken = [f"{path.name}: was not written to its end" for path in folder.glob(f"*{UNFINISHED}")]
    if broken or not found:
        raise CheckpointError(str(folder), broken or ["holds no checkpoint (*.ckpt)"])
    return found


def average(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of all floating-point values; of others, those of the last state.

    Raises:
        CheckpointError: The states hold different values.
    """
    first, *rest = states
    for state in rest:
        if different := first.keys() ^ state.keys():
            shown = ", ".join(sorted(different)[:SHOWN])
            raise CheckpointError("checkpoints", [f"hold different weights: {shown}"])
    mean = {}
    for key, value in first.items():
        if value.is_floating_point():
            total = sum((state[key].double() for state in rest), value.double())
            mean[key] = (total / len(states)).to(value.dtype)
        else:
            mean[key] = states[-1][key]
    return mean


def read(path: Path) -> dict[str, Tensor]:
    """Return the weights of a checkpoint of Lightning's, without reading its optimizer's state."""
    # NeMo's checkpoints hold configurations, which are no tensors; this one we have written.
    document = torch.load(path, map_location="cpu", weights_only=False, mmap=True)
    state: dict[str, Tensor] = document["state_dict"]
    return state


def averaged_model(model: Path, states: Sequence[Mapping[str, Tensor]]) -> dict[str, bytes]:
    """Return the files of a ``.nemo`` archive with the averaged weights.

    Raises:
        CheckpointError: Its weights are not those of the checkpoints.
    """
    archive, mean = Archive(model), average(states)
    own = load_tensors(archive.read(WEIGHTS), f"{model}: {WEIGHTS}")
    if different := own.keys() ^ mean.keys():
        shown = ", ".join(sorted(different)[:SHOWN])
        raise CheckpointError(str(model), [f"has other weights than its checkpoints: {shown}"])
    files = {f"./{name}": archive.read(name) for name in sorted(archive.names)}
    files[f"./{WEIGHTS}"] = dump_tensors({key: mean[key] for key in own})
    return files


@command
def main(arguments: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True, help=".nemo beside its checkpoints")
    parser.add_argument("--output", type=Path, required=True, help=".nemo to write")
    args = parser.parse_args(arguments)
    found = checkpoints(args.model.parent)
    for path in found:
        print(f"averaged: {path.name}")
    write_tar(args.output, averaged_model(args.model, [read(path) for path in found]))


if __name__ == "__main__":
    sys.exit(main())
