"""Writes a model card beside every checkpoint of a NeMo model with an encoder of ours.

It holds what the model knows: its configuration, training manifests and the trainer's metrics. All
else is marked as unknown. A card that cannot be written is a warning; saving never fails for it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nas_encoder import __version__
from nas_encoder.interchange import card as cards

PACKAGE = "nas_encoder.nemo."


def is_ours(model: Any) -> bool:
    """Return whether a model's encoder is one of ours."""
    encoder = getattr(model, "encoder", None)
    return any(cls.__module__.startswith(PACKAGE) for cls in type(encoder).__mro__)


def card(model: Any, title: str | None = None) -> str:
    """Return the card of a NeMo model with an encoder of ours.

    ``title`` is by default the name in its configuration or that of its class.
    """
    config = _plain(getattr(model, "cfg", None))
    genotype = getattr(model.encoder.network, "genotype", None)
    sections = {
        "Model": _model(model, config, genotype),
        "Provenance": _provenance(config),
        "Data": _data(config),
        "Numbers": _numbers(model),
    }
    return cards.render(
        title or str(config.get("name") or type(model).__name__), "nemo", genotype, sections
    )


def write_model_card(model: Any, path: str | Path) -> Path:
    """Write the card of a model beside its ``.nemo`` file; return the card's path.

    Raises:
        CheckpointError: It cannot be written.
    """
    path = Path(path).expanduser()
    target = cards.card_path(path)
    cards.write(target, card(model, path.name.removesuffix(".nemo")))
    return target


def write_after_saving(cls: type) -> None:
    """Make ``save_to`` and ``on_save_checkpoint`` of NeMo's ``ASRModel`` write cards too.

    Only models with an encoder of ours get one. A second call changes nothing.
    """
    inner_save: Any = cls.save_to  # type: ignore[attr-defined]
    inner_checkpoint: Any = cls.on_save_checkpoint  # type: ignore[attr-defined]
    if hasattr(inner_save, "nas_encoder_card"):
        return

    @functools.wraps(inner_save)
    def save_to(self: Any, save_path: Any, *args: Any, **kwargs: Any) -> Any:
        result = inner_save(self, save_path, *args, **kwargs)
        if is_ours(self) and Path(save_path).expanduser().is_file():
            _try(lambda: write_model_card(self, save_path))
        return result

    @functools.wraps(inner_checkpoint)
    def on_save_checkpoint(self: Any, checkpoint: Any) -> Any:
        result = inner_checkpoint(self, checkpoint)
        if is_ours(self):
            _try(lambda: _beside_lightning(self))
        return result

    save_to.nas_encoder_card = True  # type: ignore[attr-defined]
    cls.save_to = save_to  # type: ignore[attr-defined]
    cls.on_save_checkpoint = on_save_checkpoint  # type: ignore[attr-defined]


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
    target = _at(config, "encoder", "_target_")
    sizes = {
        name: value
        for name, value in (config.get("encoder") or {}).items()
        if name not in ("_target_", "genotype")
    }
    vocabulary = _at(config, "decoder", "vocabulary") or config.get("labels")
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "encoder": target or type(encoder).__qualname__,
        "genotype": f"{genotype.name}, hash {genotype.hash}" if genotype else "none (a baseline)",
        "encoder options": sizes,
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
    found: dict[str, Any] = {}
    for title, key in (
        ("training", "train_ds"),
        ("validation", "validation_ds"),
        ("test", "test_ds"),
    ):
        block = config.get(key)
        block = block if isinstance(block, Mapping) else {}
        places = ("manifest_filepath", "tarred_audio_filepaths", "input_cfg", "shar_path")
        found[title] = next((block[name] for name in places if block.get(name)), None)
    return found


def _numbers(model: Any) -> dict[str, Any]:
    trainer = getattr(model, "_trainer", None)
    metrics = getattr(trainer, "callback_metrics", None) or {}
    found: dict[str, Any] = {name: float(value) for name, value in sorted(metrics.items())}
    if trainer is None or not trainer.global_step:
        return found
    return {
        **found,
        "epochs": trainer.current_epoch,
        "steps": trainer.global_step,
    }


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
