"""NeMo's checkpoints: ``.nemo`` archives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from nas_encoder.common.documents import plain
from nas_encoder.common.problems import is_number, show
from nas_encoder.errors import CheckpointError
from nas_encoder.interchange import tokens, transducer
from nas_encoder.interchange.adoption import adopt, adoptable
from nas_encoder.interchange.features import samples
from nas_encoder.interchange.files import (
    Archive,
    dump_tensors,
    load_tensors,
    parse_config,
    read_file,
    write_tar,
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
from nas_encoder.tables import encoder_targets

CONFIG, WEIGHTS = "model_config.yaml", "model_weights.ckpt"
OWN_FEATURES = "nas_encoder.nemo.ESPnetPreprocessor"
_NATIVE_FEATURES = "nemo.collections.asr.modules.AudioToMelSpectrogramPreprocessor"
_DECODER = "nemo.collections.asr.modules.ConvASRDecoder"
_CHAR = "nemo.collections.asr.models.ctc_models.EncDecCTCModel"
_BPE = "nemo.collections.asr.models.ctc_bpe_models.EncDecCTCModelBPE"
_WORDS = {"feat_in": "input_size", "d_model": "output_size"}
# Options of NeMo's preprocessor that affect only training, padding or old files.
_NEUTRAL = {
    "pad_to", "pad_value", "rng", "nb_augmentation_prob", "nb_max_freq", "use_torchaudio",
    "stft_exact_pad", "stft_conv", "max_duration", "use_grads",
}  # fmt: skip
_OF_FEATURES = {
    "sample_rate", "window", "normalize", "n_fft", "preemph", "features", "lowfreq", "highfreq",
    "log", "log_zero_guard_type", "log_zero_guard_value", "dither", "mag_power", "mel_norm",
}  # fmt: skip
_LENGTHS = ("window_size", "window_stride", "n_window_size", "n_window_stride")
# Where a CTC layer is: the prefix of its weights, the key of its configuration.
_HEADS = (
    ("decoder.decoder_layers.0.", ("decoder",)),
    ("ctc_decoder.decoder_layers.0.", ("aux_ctc", "decoder")),
)


def read_nemo(path: Path, adopting: bool = False) -> Model:
    """Read a NeMo model.

    Args:
        path: A ``.nemo`` archive, or the folder of an unpacked one.
        adopting: Whether to read encoders of NeMo's as ours.

    Raises:
        ProblemsError: It cannot be read; all problems are listed.
    """
    archive = None if path.is_dir() else Archive(path)
    read = partial(_read_in, path) if archive is None else archive.read
    subject = f"{path}: {CONFIG}"
    config = parse_config(read(CONFIG), subject)
    if isinstance(config.get("model"), Mapping):
        config = config["model"]
    state = load_tensors(read(WEIGHTS), f"{path}: {WEIGHTS}")
    encoder, notes = read_encoder(subject, config, state, adopting)
    model = Model(str(path), "nemo", encoder, notes=notes, config=config, state=state)
    model.use_encoder()
    if encoder.adopted:
        held = archive.names if archive else {f.name for f in path.iterdir() if f.is_file()}
        model.files = {name: read(name) for name in sorted(held - {CONFIG, WEIGHTS})}
    model.facts = {
        title: block.get("manifest_filepath")
        for title, name in (("training", "train_ds"), ("validation", "validation_ds"))
        if isinstance(block := config.get(name), Mapping)
    }
    model.head = _head(config, state, read, model)
    _add_transducer(config, state, read, model)
    model.features = _features(config, state, model)
    if model.features is not None:
        model.used |= {name for name in state if name.startswith("preprocessor.")}
    decoders = ("decoder.", "joint.", "transf_decoder.", "ctc_decoder.")
    adapters = {f"{PREFIX}adapter_points": "adapters do not exist in ESPnet"}
    model.check(state, dict.fromkeys(decoders, DECODERS) | adapters)
    return model


def _read_in(folder: Path, name: str) -> bytes:
    return read_file(folder / name)


def read_encoder(
    subject: str,
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    adopting: bool = False,
) -> tuple[Encoder, list[str]]:
    """Return the encoder of a model's configuration, and what else differs.

    Raises:
        ProblemsError: It is none of ours.
    """
    block = config.get("encoder")
    target = block.get("_target_") if isinstance(block, Mapping) else None
    targets = encoder_targets()
    kind = next((kind for kind, name in targets.items() if name == target), None)
    theirs = adoptable("nemo") if adopting and str(target).startswith("nemo.") else {}
    name = str(target).rpartition(".")[2]
    if isinstance(block, Mapping) and name in theirs:
        given = {own: value for own, value in block.items() if own != "_target_"}
        return adopt(
            "nemo", name, given, block.get("feat_in"), take(state, PREFIX), f"{subject}: encoder"
        )
    if kind is None or not isinstance(block, Mapping):
        wanted = " or ".join([*targets.values(), *(adoptable("nemo") if adopting else ())])
        raise CheckpointError(subject, [f"encoder._target_: must be {wanted}, got {show(target)}"])
    options, unknown = own_options(kind, block, _WORDS)
    found = take(state, PREFIX)
    weights = {name: t for name, t in found.items() if "adapter" not in name.partition(".")[0]}
    notes = []
    if len(weights) < len(found):
        notes.append("adapters: the encoder has some; without them it gives other outputs")
    leftovers = [name for name in unknown if name not in ("_target_", "adapters")]
    if leftovers:
        notes.append(f"options of another encoder are dropped: {', '.join(sorted(leftovers))}")
    return Encoder(kind, options, weights), notes


def _head(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    read: Callable[[str], bytes],
    model: Model,
) -> Head | None:
    for prefix, keys in _HEADS:
        names = {f"{prefix}weight", f"{prefix}bias"}
        if not names <= state.keys():
            continue
        block: Any = config
        for key in keys:
            block = block.get(key) if isinstance(block, Mapping) else None
        labels = block.get("vocabulary") if isinstance(block, Mapping) else None
        labels = labels or config.get("labels")
        weight, bias = state[f"{prefix}weight"], state[f"{prefix}bias"]
        if not isinstance(labels, list) or len(labels) + 1 != len(bias):
            model.obstacles.append(
                f"{'.'.join(keys)}.vocabulary: must list {len(bias) - 1} classes"
            )
            return None
        try:
            piece_model = _tokenizer(config, read)
        except CheckpointError as error:
            model.obstacles += error.problems
            return None
        model.used |= names
        labels = [str(item) for item in labels]
        kind = "bpe" if piece_model is not None else tokens.guess_type(labels)
        return tokens.from_nemo(labels, weight, bias, piece_model, kind)
    model.obstacles.append("model: has no CTC layer")
    return None


def _add_transducer(
    config: Mapping[str, Any],
    state: Mapping[str, Tensor],
    read: Callable[[str], bytes],
    model: Model,
) -> None:
    if not isinstance(config.get("joint"), Mapping):
        return
    try:
        pieces = _tokenizer(config, read)
    except CheckpointError as error:
        model.no_transducer = [*error.problems]
        return
    model.transducer, model.no_transducer = transducer.from_nemo(config, state, pieces)


def _tokenizer(config: Mapping[str, Any], read: Callable[[str], bytes]) -> bytes | None:
    block = config.get("tokenizer")
    if not isinstance(block, Mapping):
        return None
    kind, path = block.get("type"), str(block.get("model_path") or "")
    if kind != "bpe" or not path:
        problem = f"tokenizer.type: only 'bpe' can be converted, got {show(kind)}"
        raise CheckpointError("tokenizer", [problem])
    return read(path.removeprefix("nemo:"))


def _features(
    config: Mapping[str, Any], state: Mapping[str, Tensor], model: Model
) -> Features | None:
    block = config.get("preprocessor")
    target = block.get("_target_") if isinstance(block, Mapping) else None
    if not isinstance(block, Mapping) or not isinstance(target, str):
        model.obstacles.append("preprocessor._target_: is missing")
        return None
    problems = [
        f"preprocessor.{name}: must be a number, got {show(block[name])}"
        for name in ("sample_rate", *_LENGTHS)
        if not is_number(block.get(name) or 0)
    ]
    if problems:
        model.obstacles += problems
        return None
    tensors = take(state, "preprocessor.featurizer.")
    if target == OWN_FEATURES:
        return Features("espnet", _own_features(block), tensors)
    if not target.endswith(".AudioToMelSpectrogramPreprocessor"):
        model.obstacles.append(f"preprocessor._target_: {target} cannot be computed in ESPnet")
        return None
    if block.get("frame_splicing", 1) != 1:
        problems.append("preprocessor.frame_splicing: must be 1")
    if block.get("exact_pad", False):
        problems.append("preprocessor.exact_pad: must be false")
    if isinstance(block.get("normalize"), Mapping):
        problems.append("preprocessor.normalize: must be a name")
    known = {*_NEUTRAL, *_OF_FEATURES, *_LENGTHS, "frame_splicing", "exact_pad", "_target_"}
    problems += [f"preprocessor.{name}: is not known here" for name in block if name not in known]
    if problems:
        model.obstacles += problems
        return None
    options = {name: block[name] for name in block if name in _OF_FEATURES}
    options["n_window_size"] = samples(block, "window_size", "n_window_size", 0.02)
    options["n_window_stride"] = samples(block, "window_stride", "n_window_stride", 0.01)
    if block.get("nb_augmentation_prob"):
        model.notes.append("preprocessor.nb_augmentation_prob: acts in training only, dropped")
    return Features("nemo", options, tensors)


def _own_features(block: Mapping[str, Any]) -> dict[str, Any]:
    """Return the arguments of ESPnetFeatures from the options of a NeMo preprocessor."""
    left = ("_target_", "window_size", "window_stride", "features")
    options = {name: value for name, value in block.items() if name not in left}
    options["win_length"] = samples(block, "window_size", "n_window_size", 0.032)
    options["hop_length"] = samples(block, "window_stride", "n_window_stride", 0.008)
    options["n_mels"] = block.get("features", 80)
    return options


# -- writing -----------------------------------------------------------------------------------


def nemo_encoder(encoder: Encoder) -> dict[str, Any]:
    """Return the ``encoder`` block of a NeMo model's configuration."""
    words = {own: name for name, own in _WORDS.items()}
    return {"_target_": encoder_targets()[encoder.kind], **renamed(encoder.options, words)}


def nemo_preprocessor(features: Features) -> dict[str, Any]:
    """Return the ``preprocessor`` block."""
    options = dict(features.options)
    rate = options.pop("sample_rate", 16000)
    if features.style == "nemo":
        size, stride = options.pop("n_window_size"), options.pop("n_window_stride")
        target, options["pad_to"] = _NATIVE_FEATURES, 0
    else:
        size = options.pop("win_length", None) or options.get("n_fft", 512)
        stride = options.pop("hop_length", 128)
        options["features"] = options.pop("n_mels", 80)
        target = OWN_FEATURES
    return {
        "_target_": target,
        "sample_rate": rate,
        "window_size": seconds(size, rate),
        "window_stride": seconds(stride, rate),
        **options,
    }


def seconds(count: int, rate: int) -> float:
    """Return a duration that NeMo, which truncates, turns back into this number of samples."""
    value = count / rate
    return value if int(value * rate) == count else (count + 0.5) / rate


def write_nemo(model: Model, path: Path) -> list[Path]:
    """Write a model as a ``.nemo`` archive; return the file.

    Raises:
        CheckpointError: It cannot be written.
        MissingDependencyError: sentencepiece is missing, for a model with a BPE model.
    """
    head, features = model.whole()
    labels, weight, bias, lost = tokens.to_nemo(head)
    if lost:
        model.left_out["tokens that the BPE model does not have"] = lost
    config: dict[str, Any] = {
        "target": _CHAR if head.bpe_model is None else _BPE,
        "sample_rate": features.options.get("sample_rate", 16000),
        "labels": labels,
        "preprocessor": nemo_preprocessor(features),
        "encoder": nemo_encoder(model.encoder),
        "decoder": {
            "_target_": _DECODER,
            "feat_in": model.encoder.options["output_size"],
            "num_classes": len(labels),
            "vocabulary": labels,
        },
    }
    files: dict[str, bytes] = {}
    if head.bpe_model is not None:
        del config["labels"]
        config["tokenizer"] = {
            "dir": None,
            "type": "bpe",
            "model_path": "nemo:tokenizer.model",
            "vocab_path": "nemo:vocab.txt",
            "spe_tokenizer_vocab": "nemo:tokenizer.vocab",
        }
        # NeMo's transcribe() reads this block.
        config["validation_ds"] = {"manifest_filepath": None, "use_start_end_token": False}
        files["./tokenizer.model"] = head.bpe_model
        files["./vocab.txt"] = "".join(f"{item}\n" for item in labels).encode()
        scores = tokens.pieces_of(head.bpe_model).items()
        files["./tokenizer.vocab"] = "".join(f"{p}\t{score:g}\n" for p, score in scores).encode()
    state = model.encoder.state | {
        "decoder.decoder_layers.0.weight": weight,
        "decoder.decoder_layers.0.bias": bias,
    }
    state |= {f"preprocessor.featurizer.{name}": t for name, t in features.tensors.items()}
    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    files[f"./{CONFIG}"] = text.encode()
    files[f"./{WEIGHTS}"] = dump_tensors(state)
    write_tar(path, files)
    return [path]
