"""Trains a model of NeMo's, in the pattern of NeMo's example scripts.

    python -m tools.nemo_recipes.train --config-path DIR --config-name NAME \
        exp_manager.explicit_log_dir=FOLDER [key=value ...]

The configuration's ``target`` is NeMo's class. A stopped training goes on from its last epoch.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import lightning.pytorch as pl
from nemo.collections.asr import models
from nemo.core.config import hydra_runner
from nemo.utils.exp_manager import exp_manager
from omegaconf import DictConfig

from tools.nemo_recipes.epoch_lines import EpochLines


@hydra_runner(config_path=None, config_name="config")  # type: ignore[untyped-decorator]
def main(cfg: DictConfig) -> Any:
    """Train."""
    pl.seed_everything(cfg.seed, workers=True)
    lines = EpochLines("cer_ctc" if cfg.model.get("use_cer") else "val_wer")
    trainer = pl.Trainer(**cfg.trainer, callbacks=[lines])
    folder = exp_manager(trainer, cfg.exp_manager)
    model = getattr(models, cfg.target)(cfg=cfg.model, trainer=trainer)
    trainer.fit(model)
    # A training that was killed after its last epoch has nothing left to do, and then NeMo does not
    # write the model.
    path = Path(folder, "checkpoints", f"{cfg.exp_manager.name}.nemo")
    if trainer.is_global_zero and not path.is_file():
        model.save_to(str(path))


if __name__ == "__main__":
    main()
