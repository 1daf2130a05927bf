"""Hydra plug-in: ``--config-name=nas_ctc_char`` finds our NeMo configurations.

Hydra imports every module below ``hydra_plugins`` in every Hydra application of the environment,
so what this one imports is kept to a millisecond: neither torch nor a toolkit, and of our own
package only what needs nothing else. If that import fails (a package that is half removed),
Hydra prints a warning and the application runs. ``hydra_plugins`` itself is a namespace package
that many distributions share: it must not get an ``__init__.py``.
"""

from __future__ import annotations

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from nas_encoder import autoload, resources

PROVIDER = "nas_encoder"


class NasEncoderSearchPath(SearchPathPlugin):
    """Appends the shipped NeMo configurations to the search path of a Hydra application."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder behind the application's own, whose files so win over ours.

        As a file path and not ``pkg://``: in an editable install the configurations lie beside
        the package, not in it.

        The import hook is installed here too, for a package that is used from a folder on
        PYTHONPATH, where no ``.pth`` file does it. An application looks for its configuration
        before it builds a model, so this comes early enough.
        """
        autoload.install()
        folder = resources.conf_root() / "train" / "nemo"
        if folder.is_dir():  # Hydra's shell completion fails on a folder that is not there
            search_path.append(PROVIDER, f"file://{folder}")
