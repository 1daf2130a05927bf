"""Trains a character CTC model with NeMo, in the pattern of NeMo's example scripts.

    python -m recipes.mini.nemo.local.train --config-path DIR --config-name NAME [key=value ...]

It goes on from the last epoch's checkpoint where it finds one.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from nemo.collections.asr.models import EncDecCTCModel
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig


class EpochLines(pl.Callback):
    """Prints where the training is, as ``recipes.mini.local.training_log`` reads it."""

    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say which epoch begins."""
        print(f"INFO: {trainer.current_epoch + 1}/{trainer.max_epochs}epoch started", flush=True)

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Say how the epoch's model does on the validation data, which NeMo has decoded."""
        found = {key: float(value) for key, value in trainer.callback_metrics.items()}
        print(
            f"INFO: {trainer.current_epoch + 1}epoch results: "
            f"[train] loss={found['train_loss']:.3f}, "
            f"[valid] loss={found['val_loss']:.3f}, cer_ctc={found['val_wer']:.4f}",
            flush=True,
        )


@hydra_runner(config_path="../conf", config_name="common")  # type: ignore[untyped-decorator]
def main(cfg: DictConfig) -> Any:
    """Train."""
    pl.seed_everything(cfg.seed)
    trainer = pl.Trainer(**cfg.trainer, callbacks=[EpochLines()])
    exp_manager(trainer, cfg.exp_manager)
    model = EncDecCTCModel(cfg=cfg.model, trainer=trainer)
    trainer.fit(model)


if __name__ == "__main__":
    main()
