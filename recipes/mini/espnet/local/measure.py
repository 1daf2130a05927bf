"""Measures encoders side by side, as ESPnet builds them from the configs that it saved."""

from __future__ import annotations

import sys
from pathlib import Path

from tools.experiments.measure import Measurable, main


def load(folder: Path) -> Measurable:
    """Return the model of a training's folder with its ``config.yaml``."""
    from espnet2.tasks.asr import ASRTask

    model, _ = ASRTask.build_model_from_file(folder / "config.yaml", None, "cpu")
    return model.eval(), model.encoder, model.frontend.output_size()


if __name__ == "__main__":
    sys.exit(main(load))
