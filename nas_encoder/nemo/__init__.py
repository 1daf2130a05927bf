"""Our encoders as NeMo modules.

In a config: ``_target_: nas_encoder.nemo.NASEncoder`` (or ``DFSMNSANEncoder``) under
``model.encoder``. NeMo refuses classes that are not on its allow-list; the import hook of
:mod:`nas_encoder.autoload` puts our class paths on it (see
:mod:`nas_encoder.nemo.registration`). If the hook is not installed, importing this package before
building a model installs it in the process, unless the environment switches it off.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas_encoder import autoload
from nas_encoder.tables import encoder_stems

if TYPE_CHECKING:
    from nas_encoder.nemo.encoder import DFSMNSANEncoder, NASEncoder
    from nas_encoder.nemo.models import NASModel
    from nas_encoder.nemo.preprocessor import ESPnetPreprocessor

# Plus a class for every other baseline.
__all__ = ["DFSMNSANEncoder", "ESPnetPreprocessor", "NASEncoder", "NASModel"]
_HOME = {"ESPnetPreprocessor": "preprocessor", "NASModel": "models"}


def __getattr__(name: str) -> Any:
    # Imported on demand, because it needs NeMo.
    if not name.endswith(("Encoder", *_HOME)) or name not in __dir__():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME.get(name, 'encoder')}"), name)


def __dir__() -> list[str]:
    return sorted([*_HOME, *(f"{stem}Encoder" for stem in encoder_stems().values())])


autoload.install()  # last: it may import our modules for parts of NeMo already loaded
