"""Lets NeMo build our encoders, and makes saved models independent of genotype files.

NeMo builds the parts of a model from its config through ``safe_instantiate``, which refuses
every ``_target_`` that does not start with an entry of
``nemo.core.classes.common.ALLOWED_TARGET_PREFIXES``, so that a downloaded model cannot run
arbitrary code (CVE-2025-23304). There is no official way to add a class. :func:`register` appends
the full paths of our encoder classes and nothing wider: a package prefix would let through
whatever can be reached under it. NeMo's own checks of what a path leads to stay unchanged; as NeMo
compares prefixes, what is reached from a class of ours (``NASEncoder.__base__``) is refused too.

The import hook (:mod:`nas_encoder.autoload`) calls it in every process, right after NeMo's module
has been executed; ``NAS_ENCODER_AUTOLOAD=0`` switches it off.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, MutableMapping
from types import ModuleType
from typing import Any

from nas_encoder.errors import NasEncoderError
from nas_encoder.nemo import refusal
from nas_encoder.nemo.refusal import PACKAGE, targets


def register(module: ModuleType) -> tuple[str, ...]:
    """Put our class paths on NeMo's allow-list; a second call changes nothing.

    Args:
        module: ``nemo.core.classes.common``.

    Returns:
        The paths that this call added.
    """
    _nothing_behind_ours(module)  # first: if this fails, nothing is allowed
    allowed: list[str] = module.ALLOWED_TARGET_PREFIXES
    added = tuple(target for target in targets() if target not in allowed)
    allowed.extend(added)
    refusal.register(module)
    _portable_before_build(module.Serialization)
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


def _nothing_behind_ours(module: ModuleType) -> None:
    """Make NeMo refuse paths that merely start with one of ours."""
    inner: Callable[[Any], bool] = module._is_target_allowed
    if hasattr(inner, "nas_encoder_exact"):
        return

    @functools.wraps(inner)
    def is_target_allowed(target: Any) -> bool:
        ours = str(target).startswith(PACKAGE)
        return (not ours or target in targets()) and inner(target)

    is_target_allowed.nas_encoder_exact = True  # type: ignore[attr-defined]
    module._is_target_allowed = is_target_allowed  # type: ignore[attr-defined]


def _portable_before_build(serialization: Any) -> None:
    """Wrap ``from_config_dict`` so that it calls :func:`make_portable` on the model's own config.

    NeMo passes it the node of the model's config that it later saves, so changes there are saved.
    """
    inner: Callable[..., Any] = serialization.__dict__["from_config_dict"].__func__
    if hasattr(inner, "nas_encoder_portable"):
        return

    @functools.wraps(inner)
    def from_config_dict(cls: type, config: Any, *args: Any, **kwargs: Any) -> Any:
        make_portable(config)
        return inner(cls, config, *args, **kwargs)

    from_config_dict.nas_encoder_portable = True  # type: ignore[attr-defined]
    serialization.from_config_dict = classmethod(from_config_dict)


def _log(text: str) -> None:
    import multiprocessing

    from nemo.utils import logging

    # Spawned data loader workers register too; the user has already seen the line.
    log = logging.info if multiprocessing.parent_process() is None else logging.debug
    log(text)
