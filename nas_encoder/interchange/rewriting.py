"""Writes a toolkit's model again with our encoder in the place of its own; the rest stays."""

from __future__ import annotations

from pathlib import Path

import yaml
from torch import Tensor

from nas_encoder.common.documents import plain, write_atomically, write_yaml
from nas_encoder.errors import CheckpointError
from nas_encoder.interchange import espnet_files, nemo_files
from nas_encoder.interchange.files import dump_tensors, make_folder, write_tar
from nas_encoder.interchange.model import PREFIX, Model
from nas_encoder.tables import saved_name

TAPS = "interctc_layer_idx"


def rewrite_espnet(model: Model, folder: Path) -> list[Path]:
    """Write ``config.yaml`` and ``model.pth`` of an ESPnet model; return the files.

    Raises:
        CheckpointError: Something cannot be written.
    """
    make_folder(folder)
    block = espnet_files.espnet_encoder(model.encoder)
    taps = (model.config.get("encoder_conf") or {}).get(TAPS)
    if taps:
        block["encoder_conf"][TAPS] = taps
    block["encoder"] = saved_name(model.encoder.kind)
    config, weights = folder / espnet_files.CONFIG, folder / espnet_files.WEIGHTS
    write_atomically(weights, dump_tensors(_state(model)), CheckpointError)
    write_yaml(config, plain({**model.config, **block}), CheckpointError)
    return [config, weights]


def rewrite_nemo(model: Model, path: Path) -> list[Path]:
    """Write the ``.nemo`` archive of a NeMo model; return the file.

    Raises:
        CheckpointError: It cannot be written.
    """
    config = {**model.config, "encoder": nemo_files.nemo_encoder(model.encoder)}
    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    files = {f"./{name}": data for name, data in model.files.items()}
    files[f"./{nemo_files.CONFIG}"] = text.encode()
    files[f"./{nemo_files.WEIGHTS}"] = dump_tensors(_state(model))
    write_tar(path, files)
    return [path]


def _state(model: Model) -> dict[str, Tensor]:
    rest = {name: t for name, t in model.state.items() if not name.startswith(PREFIX)}
    return {**model.encoder.state, **rest}
