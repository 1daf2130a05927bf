"""Prints a Lightning training's progress for :mod:`tools.experiments.job_costs`."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl


class EpochLines(pl.Callback):
    """Prints a line when an epoch starts, and one with its losses and error rate when it ends.

    NeMo saves its checkpoint in the validation at the end of an epoch. A resumed training first
    ends that same epoch again, without a batch; nothing is printed for this second end.

    Args:
        error: What the error rate is called: ``cer_ctc`` if it is of characters, or ``val_wer``.
    """

    def __init__(self, error: str = "cer_ctc") -> None:
        self._error = error
        self._begun: int | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Print the epoch that starts."""
        if batch_idx == 0:
            self._begun = trainer.current_epoch
            if trainer.is_global_zero:  # once for all GPUs
                print(f"INFO: {self._begun + 1}/{trainer.max_epochs}epoch started", flush=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Print how the epoch's model does on the validation data, which NeMo has decoded."""
        found = {key: float(value) for key, value in trainer.callback_metrics.items()}
        # Models with a transducer do not compute its loss of the validation data.
        valid = f"loss={found['val_loss']:.3f}, " if "val_loss" in found else ""
        if trainer.current_epoch == self._begun and trainer.is_global_zero:
            print(
                f"INFO: {trainer.current_epoch + 1}epoch results: "
                f"[train] loss={found['train_loss']:.3f}, "
                f"[valid] {valid}{self._error}={found['val_wer']:.4f}",
                flush=True,
            )
