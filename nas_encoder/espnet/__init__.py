"""Our encoders as ESPnet2 encoder classes, and their registration in ESPnet2's tasks.

In a config: ``encoder: nas`` with ``encoder_conf: {genotype: asrnet_b, ...}``, or
``encoder: dfsmn_san``. The import hook of :mod:`nas_encoder.autoload` registers both names;
where it is not installed, ``nas_encoder.autoload.install()`` before ESPnet is used does.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_encoder.espnet.encoder import DFSMNSANEncoder, NASEncoder
    from nas_encoder.espnet.frame_level import DFSMNSANFrameEncoder, NASFrameEncoder

__all__ = ["DFSMNSANEncoder", "DFSMNSANFrameEncoder", "NASEncoder", "NASFrameEncoder"]

_HOME = {
    "DFSMNSANEncoder": "encoder",
    "DFSMNSANFrameEncoder": "frame_level",
    "NASEncoder": "encoder",
    "NASFrameEncoder": "frame_level",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
