"""Packages that add entries to our tables, found by the entry points of installed packages.

The entry point names a function without arguments, or a module, that adds lines to
:mod:`nas_encoder.tables`::

    [project.entry-points."nas_encoder.extensions"]
    toy = "toy_package:register"

Extensions are loaded once per process, when a table is listed or lacks a name: scanning the
installed packages takes about 0.1 s. One that fails is logged with its traceback and breaks nothing
else; errors about unknown names then mention it. Entries that it added before it failed stay.

Environment:
    NAS_ENCODER_EXTENSIONS: ``0`` loads none.
"""

from __future__ import annotations

import logging
import os
import threading

GROUP = "nas_encoder.extensions"
SWITCH = "NAS_ENCODER_EXTENSIONS"

logger = logging.getLogger(__name__)


class Extensions:
    """The extensions of one group of entry points.

    Attributes:
        found: Installed extensions.
        failed: Extension -> what it raised.
        adding: The extension that is currently adding entries.
    """

    def __init__(self, group: str = GROUP) -> None:
        self.group = group
        self.found: list[str] = []
        self.failed: dict[str, str] = {}
        self.adding: str | None = None
        self._lock = threading.RLock()  # an extension's own look-ups come back here
        self._begun = self._loaded = False

    @property
    def enabled(self) -> bool:
        """Whether the environment leaves extensions on."""
        return os.environ.get(SWITCH, "").strip().lower() not in ("0", "false", "no", "off")

    def load(self) -> None:
        """Let every extension add its entries; a second call does nothing."""
        if self._loaded or not self.enabled:
            return
        with self._lock:
            if self._begun:
                return
            self._begun = True
            from importlib.metadata import entry_points  # 30 ms

            for point in entry_points(group=self.group):
                self.found.append(point.name)
                self.adding = point.name
                try:
                    register = point.load()
                    if callable(register):
                        register()
                except Exception as error:
                    self.fail(point.name, error)
            self.adding = None
            self._loaded = True

    def fail(self, name: str, error: Exception) -> None:
        """Log what an extension raised; call it in the ``except`` block."""
        self.failed[name] = f"{type(error).__name__}: {error}"
        logger.exception("extension '%s' failed; everything else works without it", name)

    def note(self) -> str:
        """Return what to add to a message about an unknown name; often empty."""
        if not self.enabled:
            return f"; extensions are switched off by {SWITCH}={os.environ[SWITCH]!r}"
        failed = ", ".join(f"'{name}' ({what})" for name, what in self.failed.items())
        return f"; extensions that failed to load: {failed}" if failed else ""


INSTALLED = Extensions()
