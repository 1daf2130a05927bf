"""Hydra plug-in: ``--config-name=nas_ctc_char`` finds our NeMo configurations.

Hydra imports every module below ``hydra_plugins`` in every Hydra application of the environment,
so what this one imports is kept to a millisecond: neither torch nor a toolkit, and of our own
package only what needs nothing else. If that import fails (a package that is half removed),
Hydra prints a warning and the application runs. ``hydra_plugins`` itself is a namespace package
that many distributions share: it must not get an ``__init__.py``.
"""

from __future__ import annotations

import sys
from pathlib import Path

from hydra.core.config_search_path import ConfigSearchPath
from hydra.plugins.search_path_plugin import SearchPathPlugin

from nas_encoder import autoload
from nas_encoder.common import resources

PROVIDER = "nas_encoder"


class NasEncoderSearchPath(SearchPathPlugin):
    """Appends the shipped NeMo configurations to the search path of a Hydra application."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Append the folder behind the application's own, whose files so win over ours.

        As a file path and not ``pkg://``: in an editable install the configurations lie beside
        the package, not in it.

        Where one of our configurations is asked for and the application's own folder does not
        exist, ours takes its place, since Hydra would stop there. NeMo's RNN-T scripts name a
        folder that NeMo no longer has, and a script copied out of NeMo's folder has none.

        The import hook is installed here too, for a package that is used from a folder on
        PYTHONPATH, where no ``.pth`` file does it. An application looks for its configuration
        before it builds a model, so this comes early enough.
        """
        autoload.install()
        folder = resources.conf_root() / "train" / "nemo"
        if not folder.is_dir():  # Hydra's shell completion fails on a folder that is not there
            return
        search_path.append(PROVIDER, f"file://{folder}")
        if asked_for(sys.argv[1:]) in resources.list_configs("train/nemo"):
            for element in search_path.get_path():
                if element.provider == "main" and is_missing(element.path):
                    element.path = f"file://{folder}"


def asked_for(arguments: list[str]) -> str | None:
    """Return the value of ``--config-name`` on a command line, without ``.yaml``."""
    for place, argument in enumerate(arguments):
        option, _, value = argument.partition("=")
        if option in ("--config-name", "-cn"):
            return (value or "".join(arguments[place + 1 : place + 2])).removesuffix(".yaml")
    return None


def is_missing(path: str) -> bool:
    """Return whether an element of the search path is a folder that does not exist."""
    scheme, separator, place = path.rpartition("://")
    return (not separator or scheme == "file") and not Path(place).is_dir()
