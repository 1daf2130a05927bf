"""Trains a character CTC model with NeMo, in the pattern of NeMo's example scripts.

    python -m recipes.mini.nemo.local.train --config-path DIR --config-name NAME [key=value ...]

It resumes from the last epoch's checkpoint if there is one.
"""

from __future__ import annotations

from typing import Any

import lightning.pytorch as pl
from nemo.collections.asr.models import EncDecCTCModel
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig

from tools.nemo_recipes.epoch_lines import EpochLines


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
