"""ESPnet's checkpoints: an experiment's folder, or an archive of ``espnet2.bin.pack``."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from nas_encoder.common.documents import write_atomically, write_yaml
from nas_encoder.common.problems import show
from nas_encoder.errors import CheckpointError, MissingDependencyError
from nas_encoder.interchange import transducer
from nas_encoder.interchange.adoption import adopt, adoptable
from nas_encoder.interchange.files import (
    Archive,
    dump_tensors,
    load_tensors,
    make_folder,
    parse_config,
    read_file,
)
from nas_encoder.interchange.model import (
    DECODERS,
    PREFIX,
    Encoder,
    Features,
    Head,
    Model,
    own_options,
    renamed,
    take,
)
from nas_encoder.tables import BLOCK_OPTIONS, encoder_stems, saved_name

CONFIG, WEIGHTS, STATS, BPE = "config.yaml", "model.pth", "feats_stats.npz", "bpe.model"
FRONTENDS = ("nemo", saved_name("nemo"))  # the names of NeMo's features in ESPnet
_INTERCTC = ("interctc_layer_idx", "interctc_use_conditioning")
_NORMALIZATION = ("norm_means", "norm_vars", "eps")
_NOT_WEIGHTS = re.compile(r"checkpoint|latest|\d+epoch")


def read_espnet(
    path: Path,
    checkpoint: str | None = None,
    bpe_model: str | None = None,
    convertible: bool = True,
    adopting: bool = False,
) -> Model:
    """Read an ESPnet model.

    Args:
        path: The folder with ``config.yaml``, a ``.pth`` file in it, or a packed ``.zip``.
        checkpoint: Name of the ``.pth`` file, if the folder has several.
        bpe_model: The SentencePiece model, if that of the config is not found.
        convertible: Whether an encoder that NeMo cannot hold is an error.
        adopting: Whether to read encoders of ESPnet's as ours.

    Raises:
        ProblemsError: It cannot be read; all problems are listed.
    """
    if path.is_dir() or path.suffix == ".pth":
        folder = path if path.is_dir() else path.parent
        name = path.name if path.suffix == ".pth" else checkpoint or choose_weights(folder)
        config = parse_config(read_file(folder / CONFIG), str(folder / CONFIG))
        source = str(folder / name)
        state = load_tensors(folder / name, source)
        read: Callable[[str], bytes] = partial(_read_beside, folder)
    else:
        archive = Archive(path)
        meta = parse_config(archive.read("meta.yaml"), f"{path}: meta.yaml")
        config_name = member(path, meta, "yaml_files", "asr_train_config")
        name = checkpoint or member(path, meta, "files", "asr_model_file")
        config = parse_config(archive.read(config_name), f"{path}: {config_name}")
        state = load_tensors(archive.read(name), f"{path}: {name}")
        source, read = str(path), archive.read
    encoder, notes = read_encoder(f"{source}: config", config, state, convertible, adopting)
    model = Model(
        source, "espnet", encoder, notes=notes, facts=_facts(config), config=config, state=state
    )
    model.use_encoder()
    for name, what in (("preencoder", "before"), ("postencoder", "after")):
        if config.get(name) is not None:
            model.obstacles.append(
                f"{name}: {show(config[name])}: has no counterpart in NeMo {what} the encoder"
            )
    if bpe_model is not None:
        config["bpemodel"], read = bpe_model, partial(_read_beside, path)
    model.head = _head(config, state, read, model)
    _add_transducer(config, state, read, model)
    model.features = _features(config, state, model)
    model.check(state, {"decoder.": DECODERS, "joint_network.": DECODERS})
    return model


def choose_weights(folder: Path) -> str:
    """Choose a folder's weights: the average, else the best, else the only file."""
    names = sorted(file.name for file in folder.glob("*.pth"))
    plain = [name for name in names if not _NOT_WEIGHTS.match(name)]
    groups = ([n for n in plain if n.endswith(end)] for end in (".ave.pth", ".best.pth", ".pth"))
    found: list[str] = next((group for group in groups if group), [])
    if len(found) == 1:
        return found[0]
    what = f"holds several: {', '.join(found)}" if found else f"holds: {', '.join(names) or 'none'}"
    raise CheckpointError(
        str(folder), [f"which .pth file? The folder {what}. Choose one with --checkpoint"]
    )


def member(path: Path, meta: Mapping[str, Any], table: str, key: str) -> str:
    """Return the name of a file of a packed model that its meta.yaml gives.

    Raises:
        CheckpointError: It gives none.
    """
    entries = meta.get(table)
    name = entries.get(key) if isinstance(entries, Mapping) else None
    if not isinstance(name, str):
        raise CheckpointError(f"{path}: meta.yaml", [f"{table}.{key}: is missing"])
    return name


def _read_beside(folder: Path, name: str) -> bytes:
    # ESPnet writes paths relative to the folder in which the training ran.
    places = (Path(name), *(above / name for above in folder.resolve().parents))
    return read_file(next((place for place in places if place.is_file()), Path(name)))


def _facts(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration's facts about the training, for the model card."""
    facts: dict[str, Any] = {}
    for title, start in (("training", "train"), ("validation", "valid")):
        rows = config.get(f"{start}_data_path_and_name_and_type")
        rows = rows if isinstance(rows, (list, tuple)) else []
        facts[title] = [row[0] for row in rows if isinstance(row, (list, tuple)) and row] or None
    names = ("max_epoch", "optim", "optim_conf", "seed")
    found = {name: config[name] for name in names if config.get(name) is not None}
    # A card groups the digits of counts.
    return facts | {name: str(v) if isinstance(v, int) else v for name, v in found.items()}


def read_encoder(
    subject: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    convertible: bool = True,
    adopting: bool = False,
) -> tuple[Encoder, list[str]]:
    """Return the encoder of a training configuration, and what else differs.

    Raises:
        ProblemsError: It is none of ours, or cannot be converted.
    """
    theirs = adoptable("espnet") if adopting else {}
    problems = [
        f"{name}: must be a mapping, got {show(config[name])}"
        for name in ("encoder_conf", "frontend_conf", "normalize_conf", "model_conf")
        if not isinstance(config.get(name) or {}, Mapping)
    ]
    kind, conf = config.get("encoder"), config.get("encoder_conf") or {}
    kind = {saved_name(name): name for name in encoder_stems()}.get(str(kind), kind)
    if not isinstance(kind, str) or kind not in {*encoder_stems(), *theirs}:
        known = ", ".join([*encoder_stems(), *theirs])
        problems.append(f"encoder: must be one of {known}, got {show(kind)}")
    if problems or not isinstance(kind, str):
        raise CheckpointError(subject, problems)
    if kind in theirs:
        size, weights = input_size(config), take(state, PREFIX)
        place = f"{subject}: encoder_conf of '{kind}'"
        return adopt("espnet", kind, conf, size, weights, place)
    if convertible and conf.get("interctc_use_conditioning"):
        problems.append(
            "encoder_conf.interctc_use_conditioning: self-conditioned CTC does not exist in NeMo, "
            "and without it this encoder gives other outputs"
        )
    taps = conf.get("interctc_layer_idx")
    conf = {name: value for name, value in conf.items() if name not in _INTERCTC}
    options, unknown = own_options(kind, conf, {})
    # What only ESPnet's streaming inference reads is neither an option nor a loss.
    unknown = [name for name in unknown if name not in BLOCK_OPTIONS]
    problems += [f"encoder_conf.{name}: has no counterpart in NeMo" for name in unknown]
    if problems:
        raise CheckpointError(subject, problems)
    options["input_size"] = input_size(config)
    notes = []
    if taps:
        notes.append(
            f"interctc_layer_idx {taps}: intermediate CTC acts in training only and is set in the "
            "other toolkit's own configuration"
        )
    weights = take(state, PREFIX)
    if not convertible:  # those of self-conditioning are ESPnet's
        weights = {name: t for name, t in weights.items() if name.startswith("network.")}
    return Encoder(kind, options, weights), notes


def input_size(config: Mapping[str, Any]) -> Any:
    """Return the number of features of a frame that the encoder of a configuration sees."""
    if config.get("input_size") is not None:
        return config["input_size"]
    projection = config.get("preencoder_conf") or {}
    if config.get("preencoder") == "linear" and "output_size" in projection:
        return projection["output_size"]
    conf = config.get("frontend_conf") or {}
    if config.get("frontend") in FRONTENDS:
        return conf.get("features", 64)
    return conf.get("n_mels", 80)


def _head(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    read: Callable[[str], bytes],
    model: Model,
) -> Head | None:
    weight, bias = state.get("ctc.ctc_lo.weight"), state.get("ctc.ctc_lo.bias")
    tokens, kind = config.get("token_list"), config.get("token_type")
    if weight is None or bias is None or (config.get("model_conf") or {}).get("ctc_weight") == 0:
        model.obstacles.append("model: has no trained CTC layer (model_conf.ctc_weight is 0)")
        return None
    if not isinstance(tokens, (list, tuple)):
        model.obstacles.append(f"token_list: must be a list, got {show(tokens)}")
        return None
    if kind not in ("char", "word", "phn", "bpe"):
        model.obstacles.append(f"token_type: {show(kind)} cannot be converted")
        return None
    try:
        piece_model = _pieces(config, read)
    except CheckpointError as error:
        model.obstacles += error.problems
        return None
    model.used |= {"ctc.ctc_lo.weight", "ctc.ctc_lo.bias"}
    return Head([str(item) for item in tokens], weight, bias, str(kind), piece_model)


def _pieces(config: Mapping[str, Any], read: Callable[[str], bytes]) -> bytes | None:
    """Return the SentencePiece model of BPE tokens."""
    if config.get("token_type") != "bpe":
        return None
    try:
        return read(str(config.get("bpemodel")))
    except CheckpointError as error:
        rule = f"{error}; give the file with --bpe-model"
        raise CheckpointError("bpemodel", [f"bpemodel: {rule}"]) from error


def _add_transducer(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    read: Callable[[str], bytes],
    model: Model,
) -> None:
    try:
        pieces = _pieces(config, read) if config.get("decoder") == "transducer" else None
    except CheckpointError as error:
        model.no_transducer = [*error.problems]
        return
    model.transducer, model.no_transducer = transducer.from_espnet(config, state, pieces)


def _features(
    config: Mapping[str, Any], state: Mapping[str, Tensor], model: Model
) -> Features | None:
    frontend, conf = config.get("frontend"), dict(config.get("frontend_conf") or {})
    normalize, norm_conf = config.get("normalize"), dict(config.get("normalize_conf") or {})
    problems = []
    if config.get("input_size") is not None:
        problems.append(f"input_size: {config['input_size']}: the features are not the model's own")
    elif frontend not in ("default", *FRONTENDS):
        problems.append(f"frontend: {show(frontend)} cannot be computed in NeMo")
    if normalize not in (None, "global_mvn", "utterance_mvn"):
        problems.append(f"normalize: {show(normalize)} cannot be computed in NeMo")
    if frontend in FRONTENDS and normalize is not None:
        problems.append(f"normalize: must be null with 'frontend: {frontend}', got {normalize!r}")
    beam = conf.pop("frontend_conf", None) or {}
    if not isinstance(beam, Mapping):
        problems.append(f"frontend_conf.frontend_conf: must be a mapping, got {show(beam)}")
    elif frontend == "default" and (beam.get("use_wpe") or beam.get("use_beamformer")):
        problems.append("frontend_conf.frontend_conf: NeMo has no WPE and no beamformer")
    if conf.pop("apply_stft", True) is not True or conf.pop("onesided", True) is not True:
        problems.append("frontend_conf: apply_stft and onesided must be true")
    if problems:
        model.obstacles += problems
        return None
    model.used |= {name for name in state if name.startswith(("frontend.", "normalize."))}
    if frontend in FRONTENDS:
        return Features("nemo", conf, take(state, "frontend.features."))
    options = renamed(conf, {"fs": "sample_rate"})
    options["sample_rate"] = rate_of(options.get("sample_rate", 16000))
    tensors = take(state, "frontend.logmel.")
    if normalize is not None:
        options["normalize"] = normalize.removesuffix("_mvn")
        options |= {name: norm_conf[name] for name in _NORMALIZATION if name in norm_conf}
        if normalize == "utterance_mvn":
            options.setdefault("norm_vars", False)
        else:
            # ESPnet casts them in the same way on first use.
            tensors |= {name: t.float() for name, t in take(state, "normalize.").items()}
    return Features("espnet", options, tensors)


def rate_of(value: Any) -> Any:
    """Return a rate in Hz, which ESPnet also takes as ``16k``."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kK]?)(?:[hH]z)?", str(value))  # "16k"
    return int(float(found[1]) * (1000 if found[2] else 1)) if found else value


# -- writing -----------------------------------------------------------------------------------


def espnet_encoder(encoder: Encoder) -> dict[str, Any]:
    """Return the ``encoder`` and ``encoder_conf`` of a training configuration."""
    options = {name: value for name, value in encoder.options.items() if name != "input_size"}
    return {"encoder": encoder.kind, "encoder_conf": options}


def write_espnet(model: Model, folder: Path) -> list[Path]:
    """Write a model as a folder for ESPnet; return the files.

    Raises:
        CheckpointError: Something cannot be written.
        MissingDependencyError: numpy, which writes the statistics, is missing.
    """
    head, features = model.whole()
    make_folder(folder)
    state = model.encoder.state | {"ctc.ctc_lo.weight": head.weight, "ctc.ctc_lo.bias": head.bias}
    config = _training_config(model, head)
    written = []
    if features.style == "nemo":
        config |= {"frontend": FRONTENDS[1], "frontend_conf": features.options, "normalize": None}
        state |= {f"frontend.features.{name}": t for name, t in features.tensors.items()}
    else:
        state["frontend.logmel.melmat"] = features.tensors["melmat"]
        config |= _default_frontend(features)
        if features.options.get("normalize") == "global":
            state |= {f"normalize.{name}": features.tensors[name] for name in ("mean", "std")}
            written.append(_write_stats(features, folder / STATS))
            config["normalize_conf"]["stats_file"] = str((folder / STATS).resolve())
    if head.bpe_model is not None:
        write_atomically(folder / BPE, head.bpe_model, CheckpointError)
        written.append(folder / BPE)
        config["bpemodel"] = str((folder / BPE).resolve())
    write_atomically(folder / WEIGHTS, dump_tensors(state), CheckpointError)
    write_yaml(folder / CONFIG, config, CheckpointError)
    return [folder / CONFIG, folder / WEIGHTS, *written]


def _default_frontend(features: Features) -> dict[str, Any]:
    options = dict(features.options)
    normalize = options.pop("normalize", None)
    norm_conf = {name: options.pop(name) for name in _NORMALIZATION if name in options}
    return {
        "frontend": "default",
        "frontend_conf": renamed(options, {"sample_rate": "fs"}),
        "normalize": None if normalize is None else f"{normalize}_mvn",
        "normalize_conf": norm_conf if normalize is not None else {},
    }


def _training_config(model: Model, head: Head) -> dict[str, Any]:
    """Return the configuration from which ESPnet rebuilds the model or trains it further."""
    absent = ("specaug", "preencoder", "postencoder", "decoder")
    default = ("normalize", "ctc", "preprocessor")
    return {
        "token_list": list(head.tokens),
        "token_type": head.token_type,
        "model": "espnet",
        "model_conf": {"ctc_weight": 1.0},
        **espnet_encoder(model.encoder),
        "encoder": saved_name(model.encoder.kind),
        "preprocessor": "default",
        "use_preprocessor": True,
        **dict.fromkeys(("bpemodel", "input_size", "init", "joint_net_conf", *absent)),
        **{f"{name}_conf": {} for name in (*absent, *default)},
    }


def _write_stats(features: Features, path: Path) -> Path:
    """Write statistics with the model's mean and deviation, which ESPnet needs to build it.

    The checkpoint's values, which ESPnet loads afterwards, replace them.
    """
    try:
        import numpy
    except ModuleNotFoundError as error:
        raise MissingDependencyError("numpy", "espnet", "writing ESPnet's statistics") from error
    mean, std = (features.tensors[name].double() for name in ("mean", "std"))
    buffer = io.BytesIO()
    numpy.savez(
        buffer,
        count=numpy.array(1),
        sum=mean.numpy().astype("float32"),
        sum_square=(std**2 + mean**2).numpy().astype("float32"),
    )
    write_atomically(path, buffer.getvalue(), CheckpointError)
    return path
