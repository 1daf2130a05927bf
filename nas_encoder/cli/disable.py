"""Stop registering the encoders with ESPnet and NeMo in this Python environment.

Removes the start-up file ``nas_encoder_autoload.pth``, whether the package's installation or
``nas-encoder enable`` put it there. ``nas-encoder enable`` brings it back.
"""

from __future__ import annotations

import argparse

from nas_encoder.autoload import SWITCH
from nas_encoder.cli.enable import active_at_startup, hook_files
from nas_encoder.errors import ConfigError

EXAMPLES = """examples:
  nas-encoder disable
  NAS_ENCODER_AUTOLOAD=0 python train.py     # off for one run
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add no options."""


def run(args: argparse.Namespace) -> int:
    """Remove our start-up files; return 1 if the hook is still installed from elsewhere."""
    refused = []
    present = hook_files()
    for path in present:
        try:
            path.unlink()
        except OSError as error:
            refused.append(f"{path}: cannot be removed: {error.strerror or error}")
        else:
            print(f"disabled: removed {path}")
    if refused:
        raise ConfigError(
            "the start-up file is still there", [*refused, f"{SWITCH}=0 switches it off"]
        )
    if not present:
        print("already disabled: no start-up file in this environment")
    if active_at_startup():
        print(
            "but Python still starts with the hook, so something else loads it "
            f"(a sitecustomize module?); {SWITCH}=0 switches it off"
        )
        return 1
    return 0
