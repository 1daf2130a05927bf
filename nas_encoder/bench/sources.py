"""What to measure, as a user names it: ``[LABEL=]NAME[{options}]`` or ``[LABEL=]FILE[{options}]``.

F is the number of features of a frame.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from nas_encoder.baselines import options_of
from nas_encoder.common.documents import parse_yaml, read_yaml
from nas_encoder.common.problems import one_line, show
from nas_encoder.deploy.engines import ENGINES
from nas_encoder.errors import ConfigError, MissingDependencyError
from nas_encoder.interchange import convert, espnet_files, nemo_files
from nas_encoder.interchange.files import Archive, parse_config, read_file
from nas_encoder.interchange.frames import frame_shift, nemo_features, section
from nas_encoder.tables import BLOCK_OPTIONS, PEERS, encoder_stems, encoder_targets, saved_name

OWN, GENOTYPE, ESPNET, NEMO, PEER, ONNX = "own", "genotype", "espnet", "nemo", "peer", "onnx"
_LABEL = re.compile(r"(?P<label>[^={}/]+)=(?P<rest>.+)", re.DOTALL)
_BRACES = re.compile(r"(?P<name>[^{}]*)(?P<options>\{.*\})", re.DOTALL)
_YAML = (".yaml", ".yml")
_INTERCTC = ("interctc_layer_idx", "interctc_use_conditioning")
_OURS = {target: kind for kind, target in encoder_targets().items()}


@dataclass(frozen=True)
class Source:
    """An encoder that can be built.

    Attributes:
        label: Its name in tables.
        text: As it was given.
        kind: Which builder: ``own``, ``genotype``, ``espnet``, ``nemo``, ``peer``, ``onnx``.
        name: Its name for the builder: a genotype, an encoder, a class path, a file.
        options: Its options under its toolkit's names.
        features: F, if the source says it.
        shift: Seconds between two frames, if the source says it.
    """

    label: str
    text: str
    kind: str
    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    features: int | None = None
    shift: float | None = None


def read_source(text: str) -> Source:
    """Read a source; nothing is built, and no toolkit is imported.

    Raises:
        ProblemsError: It is of no known form, or a file of it cannot be read.
        RegistryError: There is no such encoder.
        MissingDependencyError: A package that is needed to read it is not installed.
    """
    # os.path, unlike pathlib, takes a text that is too long for a path for no file.
    label, rest = "", text
    if not os.path.exists(text) and (found := _LABEL.fullmatch(text)):
        label, rest = found["label"].strip(), found["rest"]
    is_file = os.path.exists(rest)
    rest = rest if is_file else rest.strip()
    given_as = Path(rest).resolve().name if is_file else rest
    options: dict[str, Any] = {}
    if found := _BRACES.fullmatch(rest):
        rest, given = found["name"], parse_yaml(found["options"], text, ConfigError)
        if not isinstance(given, dict) or not all(isinstance(key, str) for key in given):
            raise ConfigError(text, [f"the options must be a mapping in YAML, got {show(given)}"])
        options = given
    elif not is_file and (problem := _unbalanced(rest)):
        raise ConfigError(text, [problem])
    source = _read(rest.strip(), options)
    return replace(source, label=label or given_as, text=text)


def _unbalanced(text: str) -> str:
    """Return what is wrong with the braces of a text that does not end with options."""
    if "{" not in text:
        return "has a '}', but no '{' that its options begin with" if "}" in text else ""
    if "}" in text:
        after = text.rpartition("}")[2]
        return f"must end with the '}}' of its options, has {show(after)} after it"
    return "the brace of its options is not closed; end it with '}'"


def _read(name: str, options: dict[str, Any]) -> Source:
    path = Path(name)
    if name.startswith("espnet:"):
        return _of_espnet(name, name.partition(":")[2], options)
    if re.fullmatch(r"(nemo|nas_encoder\.nemo)(\.\w+)+", name) and not os.path.exists(name):
        return _of_nemo(name, {"_target_": name, **options})
    if name in PEERS and name != GENOTYPE:
        return Source(name, name, PEER, name, options)
    if path.suffix == ".onnx":
        return _exported(Source(name, name, ONNX, name, options))
    if os.path.isdir(name) or path.suffix in (".pth", ".zip", ".nemo"):
        return _of_model(path, options)
    if path.suffix in _YAML and os.path.isfile(name):
        document = read_yaml(path, ConfigError)
        if isinstance(document, Mapping) and isinstance(document.get("encoder"), str):
            return _of_espnet_config(name, document, options)
        if isinstance(document, Mapping) and isinstance(_model(document).get("encoder"), Mapping):
            return _of_nemo_config(name, document, options)
    return Source(name, name, GENOTYPE, name, options)


def _exported(source: Source) -> Source:
    """Refuse options that exported files have not."""
    engine = source.options.get("runtime", ENGINES[0])
    if {*source.options} - {"runtime"} or engine not in ENGINES:
        rule = f"takes the option runtime, {' or '.join(ENGINES)}, got {show(source.options)}"
        raise ConfigError(source.name, [rule])
    return source


def _model(document: Mapping[str, Any]) -> Mapping[str, Any]:
    inner = document.get("model")
    return inner if isinstance(inner, Mapping) else document


def _of_model(path: Path, options: Mapping[str, Any]) -> Source:
    """Read the configuration of a trained model; its weights do not matter here."""
    toolkit = convert.toolkit_of(path)
    read: Callable[[str], bytes]
    if path.is_dir() or path.suffix == ".pth":
        folder = path if path.is_dir() else path.parent
        read = lambda name: read_file(folder / name)  # noqa: E731
    else:
        read = Archive(path).read
    name = espnet_files.CONFIG if toolkit == ESPNET else nemo_files.CONFIG
    if toolkit == ESPNET and path.suffix == ".zip":
        meta = parse_config(read("meta.yaml"), f"{path}: meta.yaml")
        name = espnet_files.member(path, meta, "yaml_files", "asr_train_config")
    document = parse_config(read(name), f"{path}: {name}")
    of = _of_espnet_config if toolkit == ESPNET else _of_nemo_config
    return of(str(path), document, options)


def _of_espnet_config(
    subject: str, document: Mapping[str, Any], options: Mapping[str, Any]
) -> Source:
    frontend, size = document.get("frontend", "default"), document.get("input_size")
    if size is None and frontend not in ("default", *espnet_files.FRONTENDS):
        rule = f"how many features it has is known only of 'default', got {show(frontend)}"
        raise ConfigError(subject, [f"frontend: {rule}"])
    conf = {**section(document, "encoder_conf"), **options}
    source = _of_espnet(subject, str(document.get("encoder", "rnn")), conf)
    features = int(espnet_files.input_size(document))
    # Of features that were computed before, the configuration does not know the rate.
    shift = None if size is not None else frame_shift(ESPNET, document)
    return replace(source, features=features, shift=shift)


def _of_espnet(subject: str, kind: str, conf: Mapping[str, Any]) -> Source:
    """Return an encoder of ESPnet; its intermediate CTC, which needs the model, is left out."""
    own = {saved: name for name in encoder_stems() for saved in (name, saved_name(name))}
    conf = {name: value for name, value in conf.items() if name not in _INTERCTC}
    if kind in own:
        blocks = {*BLOCK_OPTIONS} - {*options_of(own[kind])}  # for streaming inference
        conf = {name: value for name, value in conf.items() if name not in blocks}
        return Source(subject, subject, OWN, own[kind], conf)
    return Source(subject, subject, ESPNET, kind, conf)


def _of_nemo_config(
    subject: str, document: Mapping[str, Any], options: Mapping[str, Any]
) -> Source:
    model = _model(_resolved(subject, document))
    source = _of_nemo(subject, {**section(model, "encoder"), **options})
    return replace(source, features=nemo_features(model), shift=frame_shift(NEMO, model))


def _of_nemo(subject: str, block: Mapping[str, Any]) -> Source:
    target = block.get("_target_")
    options = {name: value for name, value in block.items() if name != "_target_"}
    if not isinstance(target, str) or not (target in _OURS or target.startswith("nemo.")):
        known = " or ".join(_OURS)
        rule = f"must be a class of NeMo's (nemo...) or {known}, got {show(target)}"
        raise ConfigError(subject, [f"encoder._target_: {rule}"])
    kind, name = (OWN, _OURS[target]) if target in _OURS else (NEMO, target)
    width = options.get("feat_in")
    return Source(subject, subject, kind, name, options, width if isinstance(width, int) else None)


def _resolved(subject: str, document: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the sections that are read here with their interpolations resolved."""
    inside = _model(document) is not document
    wanted = {name: _model(document).get(name) for name in ("encoder", "preprocessor")}
    if "${" not in str(wanted):
        return document
    try:
        from omegaconf import OmegaConf
        from omegaconf.errors import OmegaConfBaseException
    except ModuleNotFoundError as error:
        raise MissingDependencyError("omegaconf", "nemo", "a configuration with ${...}") from error
    try:
        whole = OmegaConf.create(dict(document))
        sections = {
            name: OmegaConf.to_container(whole.model[name] if inside else whole[name], resolve=True)
            for name, given in wanted.items()
            if given is not None
        }
    except OmegaConfBaseException as error:
        raise ConfigError(subject, [f"cannot be resolved: {one_line(error)}"]) from None
    return {"model": {**_model(document), **sections}}
