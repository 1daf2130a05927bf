"""Lets NeMo build our encoders, and makes saved models independent of genotype files.

NeMo builds the parts of a model from its config through ``safe_instantiate``, which refuses
every ``_target_`` that does not start with an entry of
``nemo.core.classes.common.ALLOWED_TARGET_PREFIXES``, so that a downloaded model cannot run
arbitrary code (CVE-2025-23304). There is no official way to add a class. :func:`register` appends
the full paths of our encoder classes and nothing wider: a package prefix would let through
whatever can be reached under it. NeMo's own checks of what a path leads to stay unchanged; as NeMo
compares prefixes, what is reached from a class of ours (``NASEncoder.__base__``) is refused too.

The import hook (:mod:`nas_encoder.autoload`) calls it in every process, right after NeMo's module
has been executed. With ``NAS_ENCODER_AUTOLOAD=0`` it only adds to NeMo's message ("blocked ...
approved namespace") that our registration is switched off.
"""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from functools import partial
from types import ModuleType
from typing import Any

from nas_encoder.autoload import SWITCH, enabled
from nas_encoder.common.wrapping import wrap_once
from nas_encoder.errors import NasEncoderError
from nas_encoder.tables import BASELINES, encoder_targets

PACKAGE = "nas_encoder."


def targets() -> tuple[str, ...]:
    """Return the full paths of the classes that NeMo may build."""
    return (*encoder_targets().values(), "nas_encoder.nemo.ESPnetPreprocessor")


def register(module: ModuleType) -> tuple[str, ...]:
    """Put our class paths on the allow-list of ``nemo.core.classes.common``; return the new ones.

    A second call changes nothing.
    """
    wrap_once(module, "_unsafe_target_error", partial(_explained, module))
    if not enabled():
        return ()
    # Before anything is allowed: paths that merely start with one of ours stay refused.
    wrap_once(module, "_is_target_allowed", _exactly_ours)
    allowed: list[str] = module.ALLOWED_TARGET_PREFIXES
    added = tuple(target for target in targets() if target not in allowed)
    allowed.extend(added)
    wrap_once(module.Serialization, "from_config_dict", _portable_before)
    if added:
        _log(f"nas_encoder: NeMo may now build {', '.join(added)} (added to its allow-list)")
    return added


def make_portable(config: Any) -> None:
    """Write into an encoder's config what its constructor would look up elsewhere.

    That is the genotype itself instead of a name or path, ``feat_in`` (our defaults may change),
    and ``d_model``, which NeMo's transducers and learning-rate schedules read. The config becomes
    part of every checkpoint.

    Args:
        config: A mapping with ``_target_``; it is changed in place if that is a class of ours.
    """
    if not isinstance(config, MutableMapping) or config.get("_target_") not in targets():
        return
    from omegaconf import DictConfig, OmegaConf, open_dict

    from nas_encoder.nemo import encoder

    cls = getattr(encoder, str(config["_target_"]).rpartition(".")[2], None)
    if cls is None:  # the preprocessor, whose options are complete
        return
    plain = (
        OmegaConf.to_container(config, resolve=True) if isinstance(config, DictConfig) else config
    )
    try:
        values = cls.portable(plain)
    except NasEncoderError:
        return  # the constructor, called next, reports this with all other problems
    if isinstance(config, DictConfig):
        with open_dict(config):
            config.update(values)
    else:
        config.update(values)


def _exactly_ours(inner: Callable[..., bool], target: Any) -> bool:
    return (not str(target).startswith(PACKAGE) or target in targets()) and inner(target)


def _portable_before(
    inner: Callable[..., Any], cls: type, config: Any, *args: Any, **kw: Any
) -> Any:
    # NeMo passes the node of the model's config that it later saves, so changes are saved.
    make_portable(config)
    return inner(cls, config, *args, **kw)


def _explained(
    module: ModuleType, inner: Callable[..., ValueError], target: Any, key: str
) -> ValueError:
    error = inner(target, key)
    if str(target).startswith(PACKAGE):
        error.args = (f"{error.args[0]} {_hint(module)}", *error.args[1:])
    return error


def _hint(module: ModuleType) -> str:
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


def _log(text: str) -> None:
    import multiprocessing

    from nemo.utils import logging

    # Spawned data loader workers register too; the user has already seen the line.
    log = logging.info if multiprocessing.parent_process() is None else logging.debug
    log(text)
