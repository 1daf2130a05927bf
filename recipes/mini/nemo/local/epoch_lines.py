"""Prints where a Lightning training is, as :mod:`tools.experiments.job_progress` reads it."""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl


class EpochLines(pl.Callback):
    """A line where an epoch begins, and one with its losses and error rate where it ends.

    NeMo saves its checkpoint in the validation at the end of an epoch. Whoever goes on from it is
    first brought to the end of that same epoch, without a batch; nothing is printed for it, because
    it was printed the first time.
    """

    def __init__(self) -> None:
        self._begun: int | None = None

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Say which epoch begins."""
        if batch_idx == 0:
            self._begun = trainer.current_epoch
            print(f"INFO: {self._begun + 1}/{trainer.max_epochs}epoch started", flush=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how the epoch's model does on the validation data, which NeMo has decoded."""
        found = {key: float(value) for key, value in trainer.callback_metrics.items()}
        if trainer.current_epoch == self._begun:
            print(
                f"INFO: {trainer.current_epoch + 1}epoch results: "
                f"[train] loss={found['train_loss']:.3f}, "
                f"[valid] loss={found['val_loss']:.3f}, cer_ctc={found['val_wer']:.4f}",
                flush=True,
            )
