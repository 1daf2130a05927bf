"""Converts one toolkit's checkpoint to the other's."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder import __version__
from nas_encoder.common.documents import parse_yaml, plain, write_atomically, write_yaml
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.interchange import card
from nas_encoder.interchange.espnet_files import CONFIG as ESPNET_CONFIG
from nas_encoder.interchange.espnet_files import (
    espnet_encoder,
    read_espnet,
    write_espnet,
)
from nas_encoder.interchange.files import (
    Archive,
    dump_tensors,
    load_tensors,
    make_folder,
    read_file,
)
from nas_encoder.interchange.model import PREFIX, Encoder, Model, own_options, take
from nas_encoder.interchange.nemo_files import CONFIG as NEMO_CONFIG
from nas_encoder.interchange.nemo_files import (
    nemo_encoder,
    read_nemo,
    write_nemo,
)
from nas_encoder.tables import encoder_stems, encoder_targets

# The files of a bare encoder; its weights have the names of a whole model.
BLOCK, GENOTYPE = "encoder.yaml", "genotype.yaml"
CARD = f"model{card.SUFFIX}"  # in a folder
ENCODER_WEIGHTS = {"nemo": "encoder.ckpt", "espnet": "encoder.pth"}
TITLES = {"espnet": "ESPnet", "nemo": "NeMo"}
OTHER = {"espnet": "nemo", "nemo": "espnet"}


@dataclass
class Conversion:
    """Result of a conversion.

    Attributes:
        model: What was read, with what was left out.
        target: ``espnet`` or ``nemo``.
        files: The files written.
        encoder_only: Whether only the encoder was requested.
    """

    model: Model
    target: str
    files: list[Path]
    encoder_only: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the result in plain JSON types."""
        model, encoder = self.model, self.model.encoder
        genotype = encoder.genotype
        return {
            "input": model.source,
            "from": model.toolkit,
            "to": self.target,
            "files": [str(file) for file in self.files],
            "encoder": {
                "kind": encoder.kind,
                "genotype": genotype.name if genotype else None,
                "hash": genotype.hash if genotype else None,
                "parameters": encoder.parameters,
            },
            "encoder_only": self.encoder_only,
            "tokens": len(model.head.tokens) if model.head and not self.encoder_only else None,
            "features": model.features.style if model.features and not self.encoder_only else None,
            "left_out": model.left_out,
            "notes": model.notes,
        }


def toolkit_of(path: Path) -> str:
    """Return whose checkpoint a path is: ``espnet`` or ``nemo``.

    Raises:
        CheckpointError: It is neither's.
    """
    if path.is_dir():
        marks = (
            (ENCODER_WEIGHTS["nemo"], "nemo"),
            (ENCODER_WEIGHTS["espnet"], "espnet"),
            (NEMO_CONFIG, "nemo"),
            (ESPNET_CONFIG, "espnet"),
        )
        for name, toolkit in marks:
            if (path / name).is_file():
                return toolkit
        raise CheckpointError(
            str(path), [f"holds neither {ESPNET_CONFIG} (ESPnet) nor {NEMO_CONFIG} (NeMo)"]
        )
    if path.suffix == ".pth":
        return "espnet"
    archive = Archive(path)
    for name, toolkit in ((NEMO_CONFIG, "nemo"), ("meta.yaml", "espnet")):
        if name in archive:
            return toolkit
    raise CheckpointError(
        str(path), [f"holds neither {NEMO_CONFIG} (NeMo) nor meta.yaml (packed ESPnet model)"]
    )


def read(path: Path, checkpoint: str | None = None, bpe_model: str | None = None) -> Model:
    """Read a checkpoint of either toolkit; arguments and errors as in the two readers."""
    toolkit = toolkit_of(path)
    if path.is_dir() and (path / ENCODER_WEIGHTS[toolkit]).is_file():
        return _read_encoder(path, toolkit)
    if toolkit == "espnet":
        return read_espnet(path, checkpoint, bpe_model)
    if checkpoint is not None:
        raise ConfigError("--checkpoint", ["is for folders of ESPnet; a .nemo file has one"])
    return read_nemo(path)


def convert(
    source: str | Path,
    output: str | Path,
    encoder_only: bool = False,
    checkpoint: str | None = None,
    bpe_model: str | None = None,
) -> Conversion:
    """Convert a checkpoint of one toolkit to the other.

    Args:
        source: ESPnet: a folder, a ``.pth`` file or a packed ``.zip``; NeMo: a ``.nemo`` file or
            its unpacked folder; or the output of ``encoder_only``.
        output: A ``.nemo`` file for NeMo, a folder for ESPnet and for a bare encoder.
        encoder_only: Write only the encoder's weights, configuration and genotype.
        checkpoint: The ``.pth`` file in the folder.
        bpe_model: The SentencePiece model, if that of ESPnet's config is not found.

    Raises:
        CheckpointError: Something cannot be read, converted or written.
        ConfigError: ``output`` cannot take the result.
    """
    source, output = Path(source), Path(output)
    model = read(source, checkpoint, bpe_model)
    target = OTHER[model.toolkit]
    if not encoder_only and (model.obstacles or model.head is None or model.features is None):
        raise CheckpointError(
            model.source,
            [
                *(model.obstacles or ["holds nothing but an encoder"]),
                "only the encoder can be converted (--encoder-only)",
            ],
        )
    file_wanted = target == "nemo" and not encoder_only
    if file_wanted and (output.suffix != ".nemo" or output.is_dir()):
        raise ConfigError("output", [f"must be a .nemo file, got {str(output)!r}"])
    if not file_wanted and (output.suffix == ".nemo" or output.is_file()):
        raise ConfigError("output", [f"must be a folder, got {str(output)!r}"])
    if file_wanted and output.parent.is_file():
        raise ConfigError("output", [f"its folder is a file, got {str(output)!r}"])
    if not file_wanted:
        _spare(output)
    if encoder_only:
        files = _write_encoder(model, target, output)
        model.left_out = {"not part of the encoder": _rest(model)} if _rest(model) else {}
    elif target == "nemo":
        files = write_nemo(model, output)
    else:
        files = write_espnet(model, output)
    files.append(_write_card(model, target, output))
    return Conversion(model, target, files, encoder_only)


def _spare(folder: Path) -> None:
    """Refuse a folder with a model that this command did not write: file names would clash."""
    found = [name for name in (ESPNET_CONFIG, NEMO_CONFIG) if (folder / name).exists()]
    if found and not (folder / CARD).exists():
        raise ConfigError(
            "output", [f"the folder {str(folder)!r} holds another model ({found[0]})"]
        )


def _write_card(model: Model, target: str, output: Path) -> Path:
    """Write a model card beside the result: what the source knows, and the origin."""
    encoder = model.encoder
    genotype = encoder.genotype
    sizes = {name: value for name, value in encoder.options.items() if name != "genotype"}
    data = ("training", "validation")
    sections: dict[str, dict[str, Any]] = {
        "Model": {
            "encoder": encoder.kind,
            "genotype": f"{genotype.name}, hash {genotype.hash}" if genotype else "none",
            "encoder options": sizes,
            "parameters of the encoder": encoder.parameters,
        },
        "Provenance": {
            "written": card.today(),
            "converted from": f"{TITLES[model.toolkit]}, {Path(model.source).name}",
            "by": f"nas-encoder convert {__version__}",
            **{name: value for name, value in model.facts.items() if name not in data},
        },
        "Data": {name: model.facts.get(name) for name in data},
        "Numbers": {},
    }
    folder = output.is_dir()
    path = output / CARD if folder else card.card_path(output)
    card.write(path, card.render(output.name.removesuffix(".nemo"), target, genotype, sections))
    return path


def _rest(model: Model) -> list[str]:
    names = [name for group in model.left_out.values() for name in group]
    if model.head is not None:
        names.append("the CTC layer")
    if model.features is not None:
        names.append("the feature extraction")
    return names


def _write_encoder(model: Model, target: str, folder: Path) -> list[Path]:
    make_folder(folder)
    encoder = model.encoder
    state: dict[str, Any] = {f"{PREFIX}{name}": t for name, t in encoder.weights.items()}
    if target == "nemo":
        block: dict[str, Any] = {"encoder": nemo_encoder(encoder)}
        state = {"state_dict": state}  # what NeMo's init_from_ptl_ckpt reads
    else:
        block = espnet_encoder(encoder) | {"input_size": encoder.options["input_size"]}
    files = [folder / BLOCK, folder / ENCODER_WEIGHTS[target]]
    write_yaml(files[0], plain(block), CheckpointError)
    write_atomically(files[1], dump_tensors(state), CheckpointError)
    genotype = encoder.genotype
    if genotype is not None:
        files.append(folder / GENOTYPE)
        genotype.save(files[2])
    return files


def _read_encoder(folder: Path, toolkit: str) -> Model:
    place = str(folder / BLOCK)
    document = parse_yaml(read_file(folder / BLOCK), place, CheckpointError)
    block = document.get("encoder") if isinstance(document, dict) else None
    if toolkit == "nemo":
        target = block.get("_target_") if isinstance(block, dict) else None
        kind = next((kind for kind, name in encoder_targets().items() if name == target), None)
        given, words = block, {"feat_in": "input_size", "d_model": "output_size"}
    else:
        kind = block if isinstance(block, str) and block in encoder_stems() else None
        given, words = document.get("encoder_conf") if kind else None, {}
    if kind is None or not isinstance(given, dict):
        raise CheckpointError(place, ["encoder: is none of ours"])
    options, _ = own_options(kind, given, words)
    if toolkit == "espnet":
        options["input_size"] = document.get("input_size")
    weights = folder / ENCODER_WEIGHTS[toolkit]
    state = load_tensors(weights, str(weights))
    model = Model(str(folder), toolkit, Encoder(kind, options, take(state, PREFIX)))
    model.check()
    return model
