"""Ends a diverged training without losing anything, and keeps the batch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from nas_encoder.data import Batch
from nas_encoder.errors import NasEncoderError
from nas_encoder.training.devices import any_process

if TYPE_CHECKING:
    from lightning.fabric import Fabric


class DivergedError(NasEncoderError):
    """The loss or a weight is NaN or infinite, on this batch."""

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


def require_finite(fabric: Fabric, modules: Sequence[nn.Module], batch: Batch, place: str) -> None:
    """Refuse weights that a step on ``batch`` has made NaN or infinite, in all processes together.

    Raises:
        DivergedError: A weight is NaN or infinite; the message names the ``place`` in the search.
    """
    finite = all(bool(torch.isfinite(p).all()) for module in modules for p in module.parameters())
    if any_process(fabric, not finite):
        raise DivergedError(
            f"a weight is NaN or infinite after {place}, whose last batch is of "
            f"{', '.join(batch.ids[:4])}; lower weights.lr or architecture.lr, or look at that "
            "data",
            batch,
        )


def save_batch(error: DivergedError, folder: Path, fabric: Fabric) -> None:
    """Save the batch of an error to a folder, one file per process, and add its path to it."""
    rank = f"_{fabric.global_rank}" if fabric.world_size > 1 else ""
    path = folder / f"diverged_batch{rank}.pt"
    torch.save({**vars(error.batch.to("cpu"))}, path)
    error.args = (f"{error.args[0]}; the batch was saved to {path}",)
