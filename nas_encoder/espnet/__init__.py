"""Our encoders as ESPnet2 encoder classes, and their registration in ESPnet2's tasks.

In a config: ``encoder: nas`` with ``encoder_conf: {genotype: asrnet_b, ...}``, or
``encoder: dfsmn_san``. The import hook of :mod:`nas_encoder.autoload` registers both names;
without it, call ``nas_encoder.autoload.install()`` before using ESPnet.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from nas_encoder.tables import encoder_stems

if TYPE_CHECKING:
    from nas_encoder.espnet.encoder import DFSMNSANEncoder, NASEncoder

__all__ = ["DFSMNSANEncoder", "NASEncoder"]  # and a class for every other baseline


def __getattr__(name: str) -> Any:
    # Imported on demand, because it needs ESPnet.
    if not name.endswith("Encoder") or name not in __dir__():
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.encoder"), name)


def __dir__() -> list[str]:
    return sorted(f"{stem}Encoder" for stem in encoder_stems().values())
