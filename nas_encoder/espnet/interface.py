"""The ESPnet classes that we build on, wherever ESPnet keeps them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nas_encoder.errors import MissingDependencyError

try:
    from espnet2.asr.encoder.abs_encoder import AbsEncoder
    from espnet2.asr.encoder.contextual_block_conformer_encoder import (
        ContextualBlockConformerEncoder,
    )
    from espnet2.asr.frontend.abs_frontend import AbsFrontend
except ModuleNotFoundError as error:
    if error.name not in ("espnet2", "espnet2.asr"):
        raise
    raise MissingDependencyError("espnet", "espnet", "nas_encoder.espnet") from error

if TYPE_CHECKING:
    TooShortUttError: type[Exception]
else:
    try:  # its place in newer versions
        from espnet2.legacy.nets.pytorch_backend.transformer.subsampling import TooShortUttError
    except ModuleNotFoundError:
        from espnet.nets.pytorch_backend.transformer.subsampling import TooShortUttError

__all__ = ["AbsEncoder", "AbsFrontend", "ContextualBlockConformerEncoder", "TooShortUttError"]
