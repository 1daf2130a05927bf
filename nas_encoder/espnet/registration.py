"""Adds our encoders to the tables of ESPnet's tasks.

Every task module of ESPnet2 and ESPnet3 holds ``ClassChoices`` tables, from which its command line
and its models are built. :func:`register` adds ``nas`` and the baselines to the encoder table of
one such module; the import hook (:mod:`nas_encoder.autoload`) calls it right after the module was
executed.

It also wraps ``build_model`` of the module's tasks: before a model is built, a genotype given by
name or path is replaced by the document itself in ``args.<encoder>_conf``. ESPnet writes
``config.yaml`` from those ``args`` *after* building the model ("they are allowed to modify args"),
so that file is enough to rebuild the model, whatever process wrote it. ``encoder:`` becomes
``nas_encoder`` there, so that ESPnet names the package where it is missing. What a constructor
cannot know is checked there too (:mod:`.advice`). ESPnet3 saves another config, see
:mod:`.espnet3`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from nas_encoder.common.problems import show
from nas_encoder.common.wrapping import wrap_once
from nas_encoder.errors import ConfigError, NasEncoderError, RegistryError
from nas_encoder.tables import BASELINES, NAS, saved_name

# Encoder tables of the modules in which the table is not "encoder_choices": copies of their
# sub-tasks' tables, made on import.
TABLES: dict[str, tuple[str, ...]] = {
    "espnet2.tasks.enh_s2t": ("asr_encoder_choices", "st_encoder_choices", "diar_encoder_choices"),
    "espnet2.tasks.gan_tok": ("asr_encoder_choices",),
}

# Tasks whose "encoder" is something else, and why ours cannot take its place.
EXCLUDED: dict[str, str] = {
    "espnet2.tasks.beats": "is the whole pre-training model, on patches of a spectrogram",
    "espnet2.tasks.enh": "maps a waveform to a spectrum that a decoder inverts",
    "espnet2.tasks.enh_tse": "maps a waveform to a spectrum that a decoder inverts",
    "espnet2.tasks.hubert": "is the whole pre-training model with masking and targets",
    "espnet2.tasks.ssl": "must keep the frame rate: its loss looks masked input frames up in "
    "the output of every layer",
}

# Tasks that do not call their encoder with (features, lengths): module and mixin for each.
INTERFACES = {
    "espnet2.tasks.spk": "frame_level:FrameLevel",
    "espnet2.tasks.lid": "frame_level:FrameLevel",
    "espnet2.tasks.s2t_ctc": "prompted:Prompted",
}
# The frontend with NeMo's features, for tasks whose models use ESPnet's default frontend.
FRONTENDS = {"nemo": "NeMoFrontend"}


def encoder_class(module_name: str, name: str) -> type:
    """Return our class for a task module and a name used in configs."""
    encoder = import_module("nas_encoder.espnet.encoder")
    home, _, mixin = INTERFACES.get(module_name, "encoder:NetworkEncoder").partition(":")
    variant = getattr(import_module(f"nas_encoder.espnet.{home}"), mixin)
    result: type = encoder.encoder_class(name, variant)
    return result


def register(module: ModuleType) -> tuple[str, ...]:
    """Register our encoders in one module of tasks; a second call changes nothing.

    Returns:
        The names of the tables that now hold our encoders; none for a module without any.

    Raises:
        RegistryError: Another class has the name, or it has no class (a baseline of another
            package that cannot be imported). The others are registered.
    """
    name = module.__name__
    if name in EXCLUDED:
        return ()
    tables = [table for table in TABLES.get(name, ("encoder_choices",)) if hasattr(module, table)]
    classes, problems = _classes(name) if tables else ({}, [])
    for table in tables:
        choices = getattr(module, table)
        for key, encoder in classes.items():
            for word in (key, saved_name(key)):
                present = choices.classes.setdefault(word.lower(), encoder)
                if present is not encoder:
                    rule = f"{name}.{table} has another encoder '{word}' already"
                    problems.append(f"{rule}: {present!r}")
    if tables:
        _register_frontends(module)
        for task in list(vars(module).values()):
            if isinstance(task, type) and task.__module__ == name and "build_model" in vars(task):
                wrap_once(task, "build_model", _prepare_and_build)
    if problems:
        raise RegistryError("; ".join(problems))
    return tuple(tables)


def _classes(module_name: str) -> tuple[dict[str, type], list[str]]:
    """Return our classes by their names in configs, and the problems of the others."""
    classes, problems = {}, []
    for name in (NAS, *BASELINES):
        try:
            classes[name] = encoder_class(module_name, name)
        except Exception as error:  # another package's baseline must not prevent ours
            if name == NAS:
                raise
            problems.append(f"encoder '{name}': {type(error).__name__}: {error}")
    return classes, problems


def _register_frontends(module: ModuleType) -> None:
    choices = getattr(module, "frontend_choices", None)
    if choices is None or "default" not in choices.classes:
        return
    home = import_module("nas_encoder.espnet.frontend")
    for key, name in FRONTENDS.items():
        for word in (key, saved_name(key)):
            choices.classes.setdefault(word, getattr(home, name))


def prepare(args: Any, choices: Any) -> bool:
    """Replace ``args.<encoder>_conf`` by its portable form if the table's encoder is ours.

    Returns:
        Whether it is.

    Raises:
        ConfigError: The encoder is given what ESPnet gives it itself.
        InputError: The model is built for a program that decodes streams in a way of its own.
    """
    chosen = getattr(args, choices.name, None)
    conf = getattr(args, f"{choices.name}_conf", None)
    encoder: Any = choices.classes.get(chosen.lower()) if isinstance(chosen, str) else None
    portable_conf = getattr(encoder, "portable_conf", None)
    if portable_conf is None:
        return False
    conf = {} if conf is None else conf  # "encoder_conf:" with nothing behind it
    if not isinstance(conf, dict) or not all(isinstance(name, str) for name in conf):
        raise ConfigError(f"{choices.name}_conf", [f"must be a mapping of names, got {show(conf)}"])
    setattr(args, f"{choices.name}_conf", conf)
    import_module("nas_encoder.espnet.advice").refuse_streaming(chosen)
    if "input_size" in conf:
        raise _own_size(encoder, conf, f"{choices.name}_conf")
    # What cannot be loaded is reported by the constructor, called next, with all other problems.
    with contextlib.suppress(NasEncoderError):
        setattr(args, f"{choices.name}_conf", portable_conf(conf))
        setattr(args, choices.name, saved_name(encoder.kind))
    return True


def _own_size(encoder: Any, conf: dict[str, Any], subject: str) -> ConfigError:
    """Return the error about ``input_size`` and everything else that is wrong with a config."""
    problems = [
        "input_size: is not set here, because ESPnet passes the number of its features; remove it "
        "and set frontend_conf.n_mels (for features without a frontend, input_size beside encoder)"
    ]
    try:
        encoder(80, **{name: value for name, value in conf.items() if name != "input_size"})
    except ConfigError as error:
        problems += error.problems
    return ConfigError(subject, problems)


def _prepare_and_build(build: Callable[..., Any], task: Any, *args: Any, **kwargs: Any) -> Any:
    namespace: Any = kwargs.get("args", args[0] if args else None)
    ours = [prepare(namespace, choices) for choices in task.class_choices_list]
    if str(getattr(namespace, "frontend", None)) in FRONTENDS:
        namespace.frontend = saved_name(namespace.frontend)
    model = build(task, *args, **kwargs)
    if any(ours):
        import_module("nas_encoder.espnet.advice").advise(model, namespace)
    return model
