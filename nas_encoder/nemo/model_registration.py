"""Adds our trained models to NeMo's list, and a model card to every checkpoint.

The import hook (:mod:`nas_encoder.autoload`) calls :func:`register` right after NeMo's module has
been executed, so it costs nothing if no model is used.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType

from nas_encoder.nemo.model_card import write_after_saving

MODELS = "nas_encoder.nemo.models"


def register(module: ModuleType) -> None:
    """Register with ``nemo.collections.asr.models.asr_model``; a second call changes nothing.

    NeMo's model list walks all subclasses of ``ASRModel``, so importing ours is enough.
    """
    if MODELS not in sys.modules:  # else it is the one that is importing NeMo's module
        import_module(MODELS)
    write_after_saving(module.ASRModel)
