"""Adds our trained models to NeMo's list, and a model card to every checkpoint of ours.

A card holds what the model knows: its configuration, training manifests and the trainer's metrics.
All else is marked as unknown. A card that cannot be written is a warning, and saving succeeds.

The import hook (:mod:`nas_encoder.autoload`) calls :func:`register` right after NeMo's module has
been executed, so it costs nothing if no model is used.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from nas_encoder import __version__
from nas_encoder.common.wrapping import wrap_once
from nas_encoder.interchange import card as cards

PACKAGE = "nas_encoder.nemo."
MODELS = f"{PACKAGE}models"


def is_ours(model: Any) -> bool:
    """Return whether a model's encoder is one of ours."""
    encoder = getattr(model, "encoder", None)
    return any(cls.__module__.startswith(PACKAGE) for cls in type(encoder).__mro__)


def card(model: Any, title: str | None = None) -> str:
    """Return a model's card; its title is by default the name in the config or of the class."""
    config = _plain(getattr(model, "cfg", None))
    genotype = getattr(model.encoder.network, "genotype", None)
    sections = {
        "Model": _model(model, config, genotype),
        "Provenance": _provenance(config),
        "Data": _data(config),
        "Numbers": _numbers(model),
    }
    title = title or str(config.get("name") or type(model).__name__)
    return cards.render(title, "nemo", genotype, sections)


def write_model_card(model: Any, path: str | Path) -> Path:
    """Write a model's card beside its ``.nemo`` file; CheckpointError if it cannot be written."""
    path = Path(path).expanduser()
    target = cards.card_path(path)
    cards.write(target, card(model, path.name.removesuffix(".nemo")))
    return target


def register(module: ModuleType) -> None:
    """Register with ``nemo.collections.asr.models.asr_model``; a second call changes nothing.

    NeMo's model list walks all subclasses of ``ASRModel``, so importing ours is enough.
    """
    if MODELS not in sys.modules:  # else it is the one that is importing NeMo's module
        import_module(MODELS)
    wrap_once(module.ASRModel, "save_to", _after_save_to)
    wrap_once(module.ASRModel, "on_save_checkpoint", _after_checkpoint)


def _after_save_to(inner: Any, model: Any, save_path: Any, *args: Any, **kwargs: Any) -> Any:
    result = inner(model, save_path, *args, **kwargs)
    if is_ours(model) and Path(save_path).expanduser().is_file():
        _try(lambda: write_model_card(model, save_path))
    return result


def _after_checkpoint(inner: Any, model: Any, checkpoint: Any) -> Any:
    result = inner(model, checkpoint)
    if is_ours(model):
        _try(lambda: _beside_lightning(model))
    return result


def _beside_lightning(model: Any) -> None:
    """Write a card into the folder of Lightning's checkpoints (``.ckpt``)."""
    trainer: Any = getattr(model, "_trainer", None)
    callback = getattr(trainer, "checkpoint_callback", None)
    folder = getattr(callback, "dirpath", None)
    if folder is None or not trainer.is_global_zero or not Path(folder).is_dir():
        return
    cards.write(Path(folder) / f"checkpoints{cards.SUFFIX}", card(model))


def _try(write: Any) -> None:
    try:
        write()
    except Exception as error:  # a failing card must not lose a finished training
        from nemo.utils import logging

        logging.warning(
            f"nas_encoder could not write the model card: {type(error).__name__}: {error}"
        )


def _model(model: Any, config: Mapping[str, Any], genotype: Any) -> dict[str, Any]:
    encoder = model.encoder
    block = dict(config.get("encoder") or {})
    target, _ = block.pop("_target_", None), block.pop("genotype", None)
    vocabulary = _at(config, "decoder", "vocabulary") or config.get("labels")
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "encoder": target or type(encoder).__qualname__,
        "genotype": f"{genotype.name}, hash {genotype.hash}" if genotype else "none (a baseline)",
        "encoder options": block,
        "parameters of the encoder": sum(p.numel() for p in encoder.parameters()),
        "parameters of the model": sum(p.numel() for p in model.parameters()),
        "frame rate": f"1 output frame for {encoder.subsampling_factor} input frames",
        "sample rate (Hz)": config.get("sample_rate"),
        "features": _at(config, "preprocessor", "_target_"),
        "classes": len(vocabulary) if vocabulary else None,
    }


def _provenance(config: Mapping[str, Any]) -> dict[str, Any]:
    import nemo
    import torch

    return {
        "written": cards.today(),
        "nas_encoder": __version__,
        "nemo": str(nemo.__version__),
        "torch": str(torch.__version__),
        "initialised from": next(
            (config[key] for key in config if str(key).startswith("init_from_")), "nothing"
        ),
        "optimizer": config.get("optim"),
    }


def _data(config: Mapping[str, Any]) -> dict[str, Any]:
    places = ("manifest_filepath", "tarred_audio_filepaths", "input_cfg", "shar_path")
    return {
        title: next((given for name in places if (given := _at(config, key, name))), None)
        for title, key in (
            ("training", "train_ds"),
            ("validation", "validation_ds"),
            ("test", "test_ds"),
        )
    }


def _numbers(model: Any) -> dict[str, Any]:
    trainer = getattr(model, "_trainer", None)
    metrics = getattr(trainer, "callback_metrics", None) or {}
    found: dict[str, Any] = {name: float(value) for name, value in sorted(metrics.items())}
    if trainer is not None and trainer.global_step:
        found |= {"epochs": trainer.current_epoch, "steps": trainer.global_step}
    return found


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import DictConfig, OmegaConf

    if isinstance(config, DictConfig):
        config = OmegaConf.to_container(config, resolve=False)
    return dict(config) if isinstance(config, Mapping) else {}


def _at(config: Mapping[str, Any], *keys: str) -> Any:
    value: Any = config
    for key in keys:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value
