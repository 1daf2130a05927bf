"""Build hook: ships the .pth file that registers the encoders, in wheels and editable installs.

It does what hatchling's static ``force-include`` cannot: that one *moves* a file, and this one
must also stay inside the package, from where ``nas-encoder enable`` copies it; and that one
would copy ``conf/`` into editable installs too, where the copies would grow stale beside the
checkout that is actually used.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PTH = "nas_encoder_autoload.pth"


class AutoloadHook(BuildHookInterface[Any]):
    """Puts the .pth file into site-packages itself."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Add the file to what is about to be built.

        Args:
            version: Kind of build: ``"standard"`` or ``"editable"``.
            build_data: Changed in place; ``force_include_editable``, where it is not empty,
                is all that an editable install gets beside the path to the checkout.
        """
        # Hatchling leaves a forced file out of its own place only if it lies in the checkout.
        self._folder = tempfile.TemporaryDirectory()
        copy = shutil.copy(Path(self.root) / "nas_encoder" / PTH, self._folder.name)
        kind = "force_include_editable" if version == "editable" else "force_include"
        build_data[kind][copy] = PTH

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Delete the copy."""
        self._folder.cleanup()
