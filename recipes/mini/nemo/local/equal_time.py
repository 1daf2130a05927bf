"""Writes the NeMo config with which an encoder trains as long as another one did."""

from __future__ import annotations

import sys

from recipes.mini.nemo.local import training_config
from tools.experiments.equal_time import main

if __name__ == "__main__":
    sys.exit(main(training_config))
