"""Converts one toolkit's checkpoint to the other's, or to one with our encoder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder import __version__
from nas_encoder.common.documents import plain, write_atomically, write_yaml
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.interchange import card, espnet_files, nemo_files, rewriting
from nas_encoder.interchange.espnet_files import CONFIG as ESPNET_CONFIG
from nas_encoder.interchange.files import (
    Archive,
    dump_tensors,
    load_tensors,
    make_folder,
    parse_config,
    read_file,
)
from nas_encoder.interchange.model import Model
from nas_encoder.interchange.nemo_files import CONFIG as NEMO_CONFIG

# The files of a bare encoder; its weights have the names of a whole model.
BLOCK, GENOTYPE = "encoder.yaml", "genotype.yaml"
CARD = f"model{card.SUFFIX}"  # in a folder
ENCODER_WEIGHTS = {"nemo": "encoder.ckpt", "espnet": "encoder.pth"}
TITLES = card.TITLES
OTHER = {"espnet": "nemo", "nemo": "espnet"}


@dataclass
class Conversion:
    """What was read (and left out), for which toolkit, and the files that were written."""

    model: Model
    target: str
    files: list[Path]
    encoder_only: bool

    @property
    def rewritten(self) -> bool:
        """Whether it is the same toolkit's model, with our encoder instead of the toolkit's."""
        return self.target == self.model.toolkit and not self.encoder_only

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
                "read_from": encoder.adopted or None,
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
    """Return ``espnet`` or ``nemo``, whose checkpoint it is; CheckpointError if neither's."""
    if path.is_dir():
        held = {file.name for file in path.iterdir()}
        marks = {name: toolkit for toolkit, name in ENCODER_WEIGHTS.items()}
        marks |= {NEMO_CONFIG: "nemo", ESPNET_CONFIG: "espnet"}
    elif path.suffix == ".pth":
        return "espnet"
    else:
        held, marks = Archive(path).names, {NEMO_CONFIG: "nemo", "meta.yaml": "espnet"}
    for name, toolkit in marks.items():
        if name in held:
            return toolkit
    named = [f"{name} ({TITLES[toolkit]})" for name, toolkit in marks.items()]
    raise CheckpointError(str(path), [f"holds none of {', '.join(named)}"])


def read(
    path: Path,
    checkpoint: str | None = None,
    bpe_model: str | None = None,
    convertible: bool = True,
    adopting: bool = False,
) -> Model:
    """Read a checkpoint of either toolkit; arguments and errors as in the two readers."""
    toolkit = toolkit_of(path)
    if path.is_dir() and (path / ENCODER_WEIGHTS[toolkit]).is_file():
        return _read_encoder(path, toolkit)
    if toolkit == "espnet":
        return espnet_files.read_espnet(path, checkpoint, bpe_model, convertible, adopting)
    if checkpoint is not None:
        raise ConfigError("--checkpoint", ["is for folders of ESPnet; a .nemo file has one"])
    return nemo_files.read_nemo(path, adopting)


def convert(
    source: str | Path,
    output: str | Path,
    encoder_only: bool = False,
    checkpoint: str | None = None,
    bpe_model: str | None = None,
    to: str | None = None,
) -> Conversion:
    """Convert a checkpoint of one toolkit to the other.

    One with an encoder of the toolkit's own that is a network of ours (the table ``ADOPTED``) gets
    ours instead, with the same outputs, and by default stays the toolkit's: all else in it is kept.

    Args:
        source: ESPnet: a folder, a ``.pth`` file or a packed ``.zip``; NeMo: a ``.nemo`` file or
            its unpacked folder; or the output of ``encoder_only``.
        output: A ``.nemo`` file for NeMo, a folder for ESPnet and for a bare encoder.
        encoder_only: Write only the encoder's weights, configuration and genotype.
        checkpoint: The ``.pth`` file in the folder.
        bpe_model: The SentencePiece model, if that of ESPnet's config is not found.
        to: ``espnet`` or ``nemo``; None for the other toolkit than the source's, or the same if
            its encoder is the toolkit's own.

    Raises:
        CheckpointError: Something cannot be read, converted or written.
        ConfigError: ``output`` cannot take the result, or the source's encoder is not in a space.
    """
    source, output = Path(source), Path(output)
    model = read(source, checkpoint, bpe_model, adopting=True)
    adopted = bool(model.encoder.adopted)
    target = to or (model.toolkit if adopted else OTHER[model.toolkit])
    same = target == model.toolkit
    if same and not adopted:
        raise ConfigError(
            "--to", [f"{model.source} is {TITLES[target]}'s already, with our encoder"]
        )
    if not encoder_only and not same:
        model.whole()
    if same and source.resolve() == output.resolve():
        raise ConfigError("output", [f"is the input, {str(output)!r}"])
    if same and not encoder_only and source.is_file() and source.suffix == ".zip":
        # Its configuration names files in it.
        raise CheckpointError(str(source), ["is packed; unpack it and give its .pth file"])
    _check_output(output, a_file=target == "nemo" and not encoder_only)
    if encoder_only:
        files = _write_encoder(model, target, output)
        model.left_out = {"not part of the encoder": _rest(model)} if _rest(model) else {}
    elif same:
        rewrite = {"espnet": rewriting.rewrite_espnet, "nemo": rewriting.rewrite_nemo}[target]
        files, model.left_out = rewrite(model, output), {}
    elif target == "nemo":
        files = nemo_files.write_nemo(model, output)
    else:
        files = espnet_files.write_espnet(model, output)
    files.append(_write_card(model, target, output))
    return Conversion(model, target, files, encoder_only)


def _check_output(path: Path, a_file: bool) -> None:
    if a_file and (path.suffix != ".nemo" or path.is_dir()):
        problem = "must be a .nemo file"
    elif a_file and path.parent.is_file():
        problem = "its folder is a file"
    elif not a_file and (path.suffix == ".nemo" or path.is_file()):
        problem = "must be a folder"
    elif not a_file and not (path / CARD).exists():  # a folder that this command did not write
        found = [name for name in (ESPNET_CONFIG, NEMO_CONFIG) if (path / name).exists()]
        problem = f"the folder holds another model ({found[0]})" if found else ""
    else:
        problem = ""
    if problem:
        raise ConfigError("output", [f"{problem}, got {str(path)!r}"])


def _write_card(model: Model, target: str, output: Path) -> Path:
    """Write a model card beside the result: what the source knows, and the origin."""
    encoder = model.encoder
    genotype = encoder.genotype
    data = ("training", "validation")
    sections: dict[str, dict[str, Any]] = {
        "Model": {
            "encoder": encoder.kind,
            "genotype": f"{genotype.name}, hash {genotype.hash}" if genotype else "none",
            "encoder options": {n: v for n, v in encoder.options.items() if n != "genotype"},
            "parameters of the encoder": encoder.parameters,
        },
        "Provenance": {
            "written": card.today(),
            "converted from": f"{TITLES[model.toolkit]}, {Path(model.source).name}",
            "encoder of the source": encoder.adopted or encoder.kind,
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
    parts = {"the CTC layer": model.head, "the feature extraction": model.features}
    return [*names, *(name for name, part in parts.items() if part is not None)]


def _write_encoder(model: Model, target: str, folder: Path) -> list[Path]:
    make_folder(folder)
    encoder = model.encoder
    state: dict[str, Any] = encoder.state
    if target == "nemo":
        block: dict[str, Any] = {"encoder": nemo_files.nemo_encoder(encoder)}
        state = {"state_dict": state}  # what NeMo's init_from_ptl_ckpt reads
    else:
        block = espnet_files.espnet_encoder(encoder)
        block["input_size"] = encoder.options["input_size"]
    files = [folder / BLOCK, folder / ENCODER_WEIGHTS[target]]
    write_yaml(files[0], plain(block), CheckpointError)
    write_atomically(files[1], dump_tensors(state), CheckpointError)
    genotype = encoder.genotype
    if genotype is not None:
        files.append(folder / GENOTYPE)
        genotype.save(files[2])
    return files


def _read_encoder(folder: Path, toolkit: str) -> Model:
    place, weights = str(folder / BLOCK), folder / ENCODER_WEIGHTS[toolkit]
    document = parse_config(read_file(folder / BLOCK), place)
    state = load_tensors(weights, str(weights))
    files = {"nemo": nemo_files, "espnet": espnet_files}[toolkit]
    encoder, notes = files.read_encoder(place, document, state)
    model = Model(str(folder), toolkit, encoder, notes=notes)
    model.check({}, {})
    return model
