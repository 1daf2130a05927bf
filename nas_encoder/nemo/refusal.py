"""Explains why NeMo refuses a class of ours.

NeMo's own message ("blocked ... approved namespace") does not say that our registration is switched
off or that a class is misspelled. Only the message is changed here, never what is refused.
"""

from __future__ import annotations

import functools
import os
from types import ModuleType
from typing import Any

from nas_encoder.autoload import SWITCH, enabled
from nas_encoder.tables import BASELINES, encoder_targets

PACKAGE = "nas_encoder."


def targets() -> tuple[str, ...]:
    """Return the full paths of the classes that NeMo may build."""
    return (*encoder_targets().values(), "nas_encoder.nemo.ESPnetPreprocessor")


def register(module: ModuleType) -> None:
    """Add a hint to the refusals of ``nemo.core.classes.common``; a second call changes nothing."""
    original: Any = module._unsafe_target_error
    if hasattr(original, "nas_encoder_hint"):
        return

    @functools.wraps(original)
    def unsafe_target_error(target_path: Any, config_key: str) -> ValueError:
        error: ValueError = original(target_path, config_key)
        if str(target_path).startswith(PACKAGE):
            error.args = (f"{error.args[0]} {hint(module)}", *error.args[1:])
        return error

    unsafe_target_error.nas_encoder_hint = True  # type: ignore[attr-defined]
    module._unsafe_target_error = unsafe_target_error  # type: ignore[attr-defined]


def hint(module: ModuleType) -> str:
    """Return what to do if something in our package is refused."""
    ours = ", ".join(targets())
    if all(target in module.ALLOWED_TARGET_PREFIXES for target in targets()):
        return f"Of nas_encoder, NeMo may build {ours}, and nothing else{BASELINES.note()}."
    if not enabled():
        return (
            f"nas_encoder is switched off by {SWITCH}={os.environ[SWITCH]!r} in the environment; "
            f"unset it (or set {SWITCH}=1) to let NeMo build {ours}."
        )
    return (
        "nas_encoder is not registered in this process: 'nas-encoder doctor' says why; "
        "nas_encoder.autoload.install() before the model is built registers it."
    )
