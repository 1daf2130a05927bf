"""Build hook: an editable install ships the .pth file alone.

Hatchling's static ``force-include`` would copy ``conf/`` into site-packages as well, where
the copies would grow stale beside the checkout that is actually used.
"""

from __future__ import annotations

from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PTH = "nas_encoder_autoload.pth"


class EditableHook(BuildHookInterface[Any]):
    """Limits what is force-included into an editable wheel."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Choose the files of an editable build; leave a standard build as configured.

        Args:
            version: Kind of build: ``"standard"`` or ``"editable"``.
            build_data: What hatchling is about to build, changed in place.
        """
        if version == "editable":
            build_data["force_include_editable"] = {f"nas_encoder/{PTH}": PTH}
