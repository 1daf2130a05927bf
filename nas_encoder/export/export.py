"""Exports a trained model to a folder: the graph, its tokens, and a report of what was checked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from nas_encoder import __version__
from nas_encoder.common.documents import plain, write_atomically
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.engines import EXACT, ONNXRUNTIME, open_session
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.export.check import check
from nas_encoder.export.graph import to_onnx
from nas_encoder.export.material import Utterance, generated, inputs_of, utterances_of
from nas_encoder.export.recognizer import AUDIO, FEATURES, Parts, Recognizer, parts_of
from nas_encoder.export.runtime import FORMAT, MAX_BYTES, TOKENS, Runtime
from nas_encoder.export.sherpa import differences
from nas_encoder.interchange.card import today
from nas_encoder.interchange.files import make_folder
from nas_encoder.interchange.model import Model

MODEL, REPORT = "model.onnx", "export.json"
INT8, HALF = "model.int8.onnx", "model.fp16.onnx"
TRANSDUCER = ("encoder.onnx", "decoder.onnx", "joiner.onnx")
_RATE, _HOP = 16000, 160  # without features of the model's own


@dataclass(frozen=True)
class ExportOptions:
    """What to export.

    Attributes:
        takes: ``audio`` or ``features``.
        data: Manifest of the utterances to check with; None for generated ones.
        utterances: How many of them to check with, at most.
        lengths: Every number of frames from 1 to this one is checked.
        license: Of the model.
        engine: What it is checked and measured in, of
            :data:`~nas_encoder.deploy.engines.EXACT`.
        lookahead: Which of the encoder's lookaheads it has; None for the first.
    """

    takes: str = AUDIO
    data: str | None = None
    utterances: int = 16
    lengths: int = 100
    license: str = "unknown"
    engine: str = ONNXRUNTIME
    lookahead: int | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.takes not in (AUDIO, FEATURES):
            problems.append(f"input: must be {AUDIO} or {FEATURES}, got {self.takes!r}")
        if self.engine not in EXACT:
            problems.append(f"runtime: must be {' or '.join(EXACT)}, got {self.engine!r}")
        for name in ("utterances", "lengths"):
            if not 1 <= getattr(self, name) <= 10_000:
                problems.append(f"{name}: must be in 1..10000, got {getattr(self, name)}")
        if problems:
            raise ConfigError("export", problems)


@dataclass
class Written:
    """A checked export that is not written yet.

    Attributes:
        report: What is known about it.
        files: Name -> content of all files to write.
    """

    report: dict[str, Any]
    files: dict[str, bytes]

    def write(self, folder: Path) -> list[Path]:
        """Write all files, and remove those of an earlier export that this one does not replace.

        Raises:
            CheckpointError: A file cannot be written or removed.
        """
        make_folder(folder)
        # Other weights' forms must not stay beside these. Without a report, tokens.txt may be of
        # something else.
        ours = [INT8, HALF]
        if (folder / REPORT).is_file():
            ours += [MODEL, *TRANSDUCER, TOKENS]
        for old in (folder / name for name in ours if name not in self.files):
            try:
                old.unlink(missing_ok=True)
            except OSError as error:
                rule = f"is of an earlier export and cannot be removed: {error.strerror}"
                raise CheckpointError(str(old), [rule]) from None
        text = json.dumps(self.report, indent=2, ensure_ascii=False) + "\n"
        files = {**self.files, REPORT: text.encode()}
        for name, content in files.items():
            write_atomically(folder / name, content, CheckpointError)
        return [folder / name for name in files]


@dataclass
class Exported(Written):
    """A checked model that is not written yet.

    Attributes:
        model: The graph, ``onnx.ModelProto``.
        runtime: It, running.
        parts: The same in torch.
        utterances: What it was checked with.
        inputs: They, as the graph takes them.
    """

    model: Any
    runtime: Runtime
    parts: Parts
    utterances: list[Utterance]
    inputs: list[Tensor]


def export_model(model: Model, options: ExportOptions) -> Exported:
    """Make the graph of a model that was read, and compare it with torch.

    Raises:
        CheckpointError: The model cannot be exported, or the graph differs.
        ConfigError: The graph cannot take such inputs.
        DataError: The utterances cannot be read.
        MissingDependencyError: onnx, onnxruntime or librosa is missing.
    """
    parts = parts_of(model, options.lookahead)
    recognizer = Recognizer(parts, options.takes)
    metadata = metadata_of(model, parts, options)
    graph = to_onnx(recognizer, int(parts.network.input_size), metadata)
    content = serialized(graph, model.source)
    session = open_session(content, "export", engine=options.engine)
    runtime = Runtime("the export", session, metadata, parts.vocabulary, options.engine)
    utterances, inputs = material_for(parts, options, int(metadata["sample_rate"]))
    checked = check(runtime, parts, inputs, options.lengths)
    report = {
        "input": model.source,
        "toolkit": model.toolkit,
        "takes": options.takes,
        "checked": {**checked.to_dict(), "with": options.data or "generated sounds"},
        "bytes": {MODEL: len(content)},
        "sherpa_onnx": differences(parts, options.takes),
        "notes": [*model.notes, *model.obstacles],
        "left_out": model.left_out,
        "metadata": metadata,
        "engine": options.engine,
        "environment": environment(),
    }
    files = {MODEL: content}
    if parts.vocabulary is not None:
        files[TOKENS] = parts.vocabulary.to_bytes()
    return Exported(report, files, graph, runtime, parts, utterances, inputs)


def material_for(
    parts: Parts, options: ExportOptions, rate: int
) -> tuple[list[Utterance], list[Tensor]]:
    """Return the utterances to check with, and they as the graph takes them.

    Raises:
        DataError: They cannot be read.
    """
    if options.data is None:
        utterances = generated(rate)
    else:
        utterances = utterances_of(options.data, rate, options.utterances)
    return utterances, inputs_of(parts, options.takes, utterances)


def metadata_of(model: Model, parts: Parts, options: ExportOptions) -> dict[str, str]:
    """Return the metadata of the graph: what runtimes need, then where it comes from."""
    given = vars(parts.features.options) if parts.features is not None else {}
    hop = given.get("hop_length") or given.get("n_window_stride") or _HOP
    normalize = given.get("normalize") if options.takes == FEATURES else None
    found = {
        "nas_encoder_format": FORMAT,
        "model_type": "EncDecCTCModel",
        "subsampling_factor": str(parts.network.subsampling_factor),
        # What the caller has to do; ESPnet's is in the graph.
        "normalize_type": str(normalize or "") if parts.toolkit == "nemo" else "",
        "input": options.takes,
        "sample_rate": str(given.get("sample_rate", _RATE)),
        "hop_length": str(hop),
        "feature_dim": str(parts.network.input_size),
    }
    if parts.vocabulary is not None:
        if model.head is not None and model.head.bpe_model is not None:
            found["model_type"] = "EncDecCTCModelBPE"
        found["vocab_size"] = str(len(parts.vocabulary.symbols) - 1)  # as in NeMo
        found["tokens_sha256"] = parts.vocabulary.digest
    if isinstance(found["normalize_type"], str) and model.features is not None:
        found["features"] = _json({"style": model.features.style, **model.features.options})
    genotype = model.encoder.genotype
    if genotype is not None:
        found |= {"genotype": _json(genotype.to_dict()), "genotype_hash": genotype.hash}
    options_ = {n: v for n, v in model.encoder.options.items() if n != "genotype"}
    return found | {
        "encoder": model.encoder.adopted or model.encoder.kind,
        "encoder_options": _json(options_),
        "too_short": "no output frame" if parts.toolkit == "espnet" else "extended with zeros",
        "source": f"{model.toolkit}: {Path(model.source).name}",
        "training": _json({k: v for k, v in model.facts.items() if v is not None}),
        **({} if options.lookahead is None else {"lookahead": str(options.lookahead)}),
        "license": options.license,
        "exported": f"{today()}, nas_encoder {__version__}",
    }


def _json(value: Mapping[str, Any]) -> str:
    return json.dumps(plain(value), ensure_ascii=False, default=str)


def serialized(graph: Any, source: str) -> bytes:
    """Return a graph's bytes; CheckpointError if they are too many for one file."""
    size = graph.ByteSize()
    if size > MAX_BYTES:
        rule = f"is too large for one ONNX file: {size} of {MAX_BYTES} bytes"
        raise CheckpointError(source, [rule])
    content: bytes = graph.SerializeToString()
    return content
