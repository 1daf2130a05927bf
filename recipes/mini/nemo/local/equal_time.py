"""Writes the NeMo config with which an encoder trains as long as another one did."""

from __future__ import annotations

import sys

from recipes.mini.local.equal_time import main
from recipes.mini.nemo.local import training_config

if __name__ == "__main__":
    sys.exit(main(training_config))
