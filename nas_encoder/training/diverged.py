"""Ends of a training whose numbers left the range: nothing is lost, and the batch is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from lightning.fabric import Fabric
from torch import nn

from nas_encoder.data import Batch
from nas_encoder.errors import NasEncoderError
from nas_encoder.training.devices import any_process


class DivergedError(NasEncoderError):
    """The loss or a weight is NaN or infinite.

    Args:
        message: What to say.
        batch: On which it is.
    """

    def __init__(self, message: str, batch: Batch) -> None:
        super().__init__(message)
        self.batch = batch


def require_finite(fabric: Fabric, modules: Sequence[nn.Module], batch: Batch, place: str) -> None:
    """Refuse weights that a step has ruined.

    Args:
        fabric: Its processes stop together.
        modules: What the step has moved.
        batch: On which.
        place: Where in the search that was.

    Raises:
        DivergedError: A weight is NaN or infinite.
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
    """Save the batch of an error into a folder, one for each process, and say so in the error."""
    rank = f"_{fabric.global_rank}" if fabric.world_size > 1 else ""
    path = folder / f"diverged_batch{rank}.pt"
    torch.save({**vars(error.batch.to("cpu"))}, path)
    error.args = (f"{error.args[0]}; the batch is saved as {path}",)
