"""Keeps the configurations that ESPnet3 saves independent of genotype files.

ESPnet3 builds a task's model from a namespace of its own and saves the user's configuration, in
which the genotype is still a name or a path. :func:`register` wraps the functions that save it:
they get a copy in its portable form.
"""

from __future__ import annotations

import argparse
import copy
import inspect
import sys
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

from nas_encoder.common.wrapping import wrap_once
from nas_encoder.espnet.registration import prepare

# Module -> its function, and the name of the configuration among the arguments.
SAVING = {
    "espnet3.utils.task_utils": ("save_espnet_config", "config"),
    "espnet3.utils.publication_utils": ("pack_model", "training_config"),
}


def register(module: ModuleType) -> None:
    """Wrap the saving function of one of ESPnet3's modules; a second call changes nothing."""
    name, argument = SAVING[module.__name__]
    original = getattr(module, name)
    wrap_once(module, name, partial(_save_portable, argument))
    for place, other in list(sys.modules.items()):
        # Those that imported it by name, where the import hook was installed late.
        if place.startswith("espnet3.") and getattr(other, name, None) is original:
            setattr(other, name, getattr(module, name))


def _save_portable(argument: str, save: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    given = inspect.signature(save).bind(*args, **kwargs)
    config = given.arguments[argument]
    task = given.arguments.get("task") or config.get("task")
    given.arguments[argument] = portable_config(config, task)
    return save(*given.args, **given.kwargs)


def portable_config(config: Any, task: str | None) -> Any:
    """Return a training configuration with the genotype of its model inline.

    Args:
        config: A mapping, or OmegaConf's; it is not changed. The encoder is in its ``model``.
        task: The path of the task's class; without one, ``model`` names a class of its own, which
            has no table of encoders.

    Raises:
        NasEncoderError: The encoder is ours, and its options are no mapping or not for it.
    """
    if not task or not config.get("model"):
        return config
    from hydra.utils import get_class
    from omegaconf import OmegaConf, flag_override

    result = copy.deepcopy(config) if OmegaConf.is_config(config) else OmegaConf.create(config)
    model: Any = OmegaConf.to_container(result.model, resolve=True)
    namespace = argparse.Namespace(**model)
    cls: Any = get_class(task)
    for choices in cls.class_choices_list:
        prepare(namespace, choices)
    with flag_override(result, ["readonly", "struct"], False):
        for name, value in vars(namespace).items():
            if value != model.get(name):  # an encoder of ours, or its options
                OmegaConf.update(result, f"model.{name}", value, merge=False)
    return result
