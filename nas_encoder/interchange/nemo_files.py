"""NeMo's checkpoints: ``.nemo`` archives."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from nas_encoder.common.documents import parse_yaml, plain
from nas_encoder.common.problems import is_number, show
from nas_encoder.errors import CheckpointError
from nas_encoder.interchange import tokens
from nas_encoder.interchange.features import samples
from nas_encoder.interchange.files import (
    Archive,
    dump_tensors,
    load_tensors,
    read_file,
    write_tar,
)
from nas_encoder.interchange.model import (
    PREFIX,
    Encoder,
    Features,
    Head,
    Model,
    own_options,
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
# Where a CTC layer is: the prefix of its weights, the key of its configuration.
_HEADS = (
    ("decoder.decoder_layers.0.", ("decoder",)),
    ("ctc_decoder.decoder_layers.0.", ("aux_ctc", "decoder")),
)
Read = Callable[[str], bytes]


def read_nemo(path: Path) -> Model:
    """Read a NeMo model.

    Args:
        path: A ``.nemo`` archive, or the folder of an unpacked one.

    Raises:
        CheckpointError: It cannot be read; all problems are listed.
    """
    read: Read
    if path.is_dir():
        read = _reader(path)
    else:
        read = Archive(path).read
    config = parse_yaml(read(CONFIG), f"{path}: {CONFIG}", CheckpointError)
    if isinstance(config, Mapping) and isinstance(config.get("model"), Mapping):
        config = config["model"]
    if not isinstance(config, Mapping):
        raise CheckpointError(f"{path}: {CONFIG}", [f"must be a mapping, got {show(config)}"])
    state = load_tensors(read(WEIGHTS), f"{path}: {WEIGHTS}")
    encoder, notes = _encoder(f"{path}: {CONFIG}", config, state)
    model = Model(str(path), "nemo", encoder, notes=notes)
    used = {f"{PREFIX}{name}" for name in encoder.weights}
    model.head, head_names = _head(config, state, read, model)
    model.facts = {
        title: block.get("manifest_filepath")
        for title, name in (("training", "train_ds"), ("validation", "validation_ds"))
        if isinstance(block := config.get(name), Mapping)
    }
    model.features = _features(config, state, model)
    used |= head_names
    if model.features is not None:
        used |= {name for name in state if name.startswith("preprocessor.")}
    _leave(model, state, used)
    model.check()
    return model


def _reader(folder: Path) -> Read:
    def read(name: str) -> bytes:
        return read_file(folder / name)

    return read


def _leave(model: Model, state: Mapping[str, Tensor], used: set[str]) -> None:
    for name in state:
        if name in used:
            continue
        if name.startswith(("decoder.", "joint.", "transf_decoder.", "ctc_decoder.")):
            reason = "attention or transducer decoders differ between the toolkits"
        elif name.startswith(f"{PREFIX}adapter_points"):
            reason = "adapters do not exist in ESPnet"
        else:
            reason = "no counterpart in the other toolkit"
        model.left_out.setdefault(reason, []).append(name)


def _encoder(
    subject: str, config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[Encoder, list[str]]:
    block = config.get("encoder")
    target = block.get("_target_") if isinstance(block, Mapping) else None
    targets = encoder_targets()
    kind = next((kind for kind, name in targets.items() if name == target), None)
    if kind is None or not isinstance(block, Mapping):
        wanted = " or ".join(targets.values())
        raise CheckpointError(subject, [f"encoder._target_: must be {wanted}, got {show(target)}"])
    options, unknown = own_options(kind, block, _WORDS)
    weights = take(state, PREFIX)
    adapters = [name for name in weights if "adapter" in name.partition(".")[0]]
    notes = []
    for name in adapters:
        del weights[name]
    if adapters:
        notes.append("adapters: the encoder has some; without them it gives other outputs")
    leftovers = [name for name in unknown if name not in ("_target_", "adapters")]
    if leftovers:
        notes.append(f"options of another encoder are dropped: {', '.join(sorted(leftovers))}")
    return Encoder(kind, options, weights), notes


def _head(
    config: Mapping[str, Any], state: Mapping[str, Tensor], read: Read, model: Model
) -> tuple[Head | None, set[str]]:
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
            return None, set()
        try:
            piece_model = _tokenizer(config, read)
        except CheckpointError as error:
            model.obstacles += error.problems
            return None, set()
        labels = [str(item) for item in labels]
        kind = "bpe" if piece_model is not None else tokens.guess_type(labels)
        return tokens.from_nemo(labels, weight, bias, piece_model, kind), names
    model.obstacles.append("model: has no CTC layer")
    return None, set()


def _tokenizer(config: Mapping[str, Any], read: Read) -> bytes | None:
    block = config.get("tokenizer")
    if not isinstance(block, Mapping):
        return None
    kind, path = block.get("type"), str(block.get("model_path") or "")
    if kind != "bpe" or not path:
        raise CheckpointError(
            "tokenizer", [f"tokenizer.type: only 'bpe' can be converted, got {show(kind)}"]
        )
    return read(path.removeprefix("nemo:"))


def _features(
    config: Mapping[str, Any], state: Mapping[str, Tensor], model: Model
) -> Features | None:
    block = config.get("preprocessor")
    target = block.get("_target_") if isinstance(block, Mapping) else None
    if not isinstance(block, Mapping) or not isinstance(target, str):
        model.obstacles.append("preprocessor._target_: is missing")
        return None
    numbers = ("sample_rate", "window_size", "window_stride", "n_window_size", "n_window_stride")
    odd = [
        f"preprocessor.{name}: must be a number, got {show(block[name])}"
        for name in numbers
        if not is_number(block.get(name) or 0)
    ]
    if odd:
        model.obstacles += odd
        return None
    tensors = take(state, "preprocessor.featurizer.")
    if target == OWN_FEATURES:
        return Features("espnet", _own_features(block), tensors)
    if not target.endswith(".AudioToMelSpectrogramPreprocessor"):
        model.obstacles.append(f"preprocessor._target_: {target} cannot be computed in ESPnet")
        return None
    problems = []
    if block.get("frame_splicing", 1) != 1:
        problems.append("preprocessor.frame_splicing: must be 1")
    if block.get("exact_pad", False):
        problems.append("preprocessor.exact_pad: must be false")
    if isinstance(block.get("normalize"), Mapping):
        problems.append("preprocessor.normalize: must be a name")
    known = _NEUTRAL | _OF_FEATURES | {"frame_splicing", "exact_pad", "_target_"}
    known |= {"window_size", "window_stride", "n_window_size", "n_window_stride"}
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
    options = {
        name: value
        for name, value in block.items()
        if name not in ("_target_", "window_size", "window_stride", "features")
    }
    options["win_length"] = samples(block, "window_size", "n_window_size", 0.032)
    options["hop_length"] = samples(block, "window_stride", "n_window_stride", 0.008)
    options["n_mels"] = block.get("features", 80)
    return options


# -- writing -----------------------------------------------------------------------------------


def nemo_encoder(encoder: Encoder) -> dict[str, Any]:
    """Return the ``encoder`` block of a NeMo model's configuration."""
    words = {own: name for name, own in _WORDS.items()}
    options = {words.get(name, name): value for name, value in encoder.options.items()}
    return {"_target_": encoder_targets()[encoder.kind], **options}


def nemo_preprocessor(features: Features) -> dict[str, Any]:
    """Return the ``preprocessor`` block."""
    options = dict(features.options)
    rate = options.get("sample_rate", 16000)
    if features.style == "nemo":
        size, stride = options.pop("n_window_size"), options.pop("n_window_stride")
        target = _NATIVE_FEATURES
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
        **{name: value for name, value in options.items() if name != "sample_rate"},
        **({"pad_to": 0} if features.style == "nemo" else {}),
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
    head, features = model.head, model.features
    if head is None or features is None:
        raise CheckpointError(model.source, model.obstacles or ["has no CTC layer"])
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
    state = {f"{PREFIX}{name}": tensor for name, tensor in model.encoder.weights.items()}
    state |= {"decoder.decoder_layers.0.weight": weight, "decoder.decoder_layers.0.bias": bias}
    state |= {f"preprocessor.featurizer.{name}": t for name, t in features.tensors.items()}
    text = yaml.safe_dump(plain(config), sort_keys=False, allow_unicode=True)
    files[f"./{CONFIG}"] = text.encode()
    files[f"./{WEIGHTS}"] = dump_tensors(state)
    write_tar(path, files)
    return [path]
