"""Speech encoders found by neural architecture search, for ESPnet2 and NVIDIA NeMo.

Importing this package loads neither torch nor a toolkit: public names are resolved on first use.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nas_encoder.genotype import Genotype, list_genotypes, load_genotype
    from nas_encoder.network import build_encoder

__version__ = "0.1.0"
__all__ = ["Genotype", "__version__", "build_encoder", "list_genotypes", "load_genotype"]

_HOME = {
    "Genotype": "nas_encoder.genotype",
    "load_genotype": "nas_encoder.genotype",
    "list_genotypes": "nas_encoder.genotype",
    "build_encoder": "nas_encoder.network",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
