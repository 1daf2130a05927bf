"""Opens exported models, whoever wrote the files, and runs them.

Letters in shapes: B batch, N samples, T frames, F features, T' output frames, V classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.problems import one_line, show
from nas_encoder.deploy.engines import ONNXRUNTIME, open_session, require
from nas_encoder.errors import CheckpointError
from nas_encoder.export.graph import INPUTS
from nas_encoder.export.recognizer import AUDIO
from nas_encoder.export.vocabulary import Vocabulary, read_vocabulary

FORMAT = "1"
MAX_BYTES = (1 << 31) - 1  # of a protocol buffer
TOKENS = "tokens.txt"
# Metadata that every export has, and those of them that are numbers.
KEYS = ("nas_encoder_format", "input", "sample_rate", "hop_length", "subsampling_factor")
_NUMBERS = {"sample_rate": 10**6, "hop_length": 10**6, "subsampling_factor": 1024}


@dataclass(frozen=True)
class Runtime:
    """An open model.

    Attributes:
        source: The file, for messages.
        session: The engine's.
        metadata: The model's.
        vocabulary: Its classes; None for an encoder alone.
        engine: What runs it, of :data:`~nas_encoder.deploy.engines.ENGINES`.
    """

    source: str
    session: Any
    metadata: dict[str, str]
    vocabulary: Vocabulary | None
    engine: str = ONNXRUNTIME

    @property
    def takes(self) -> str:
        """``audio`` or ``features``."""
        return self.metadata["input"]

    @property
    def is_transducer(self) -> bool:
        """Whether it is the encoder of a transducer, whose other graphs are beside it."""
        return self.metadata.get("head") == "transducer"

    def number(self, name: str) -> int:
        """Return a number of the metadata."""
        return int(self.metadata[name])

    def run(self, rows: Sequence[Tensor], padding: float = 0.0) -> list[Tensor]:
        """Run a batch of utterances.

        Args:
            rows: Each (N,) samples or (T, F) features.
            padding: Value past the ends of the shorter ones.

        Returns:
            Each (T', V), its valid frames; (T', D) of an encoder.

        Raises:
            CheckpointError: The graph fails, or gives what it must not.
        """
        lengths = torch.tensor([len(row) for row in rows])
        batch = torch.nn.utils.rnn.pad_sequence(list(rows), True, padding)
        if self.takes != AUDIO:
            batch = batch.transpose(1, 2)
        names = INPUTS[self.takes]
        feed = {names[0]: batch.contiguous().numpy(), names[1]: lengths.numpy()}
        try:
            values, frames = (torch.from_numpy(out) for out in self.session.run(None, feed))
        except Exception as error:  # of classes of the engine
            shape = tuple(batch.shape)
            raise CheckpointError(
                self.source, [f"fails on an input of shape {shape}: {one_line(error)}"]
            ) from error
        if values.dim() != 3 or len(values) != len(rows) or frames.shape != lengths.shape:
            shapes = f"{tuple(values.shape)} and {tuple(frames.shape)}"
            raise CheckpointError(self.source, [f"gives outputs of shapes {shapes}"])
        if self.is_transducer:
            values = values.transpose(1, 2)
        return [value[: int(count)] for value, count in zip(values, frames, strict=True)]


def open_model(
    path: Path, tokens: Path | None = None, threads: int = 1, engine: str = ONNXRUNTIME
) -> Runtime:
    """Open a model that ``nas-encoder export`` wrote.

    Args:
        path: The ONNX file.
        tokens: Its tokens; None for ``tokens.txt`` beside it.
        threads: Of the engine.
        engine: Of :data:`~nas_encoder.deploy.engines.ENGINES`.

    Raises:
        CheckpointError: It cannot be read, is damaged, refers to other files, was not written by
            this command, needs a newer engine, or does not fit its tokens.
        MissingDependencyError: onnx or the engine is missing.
    """
    metadata, vocabulary, content = open_exported(path, tokens)
    if metadata.get("head") in ("decoder", "joiner"):
        rule = f"is the {metadata['head']} of a transducer: give its encoder.onnx, beside it"
        raise CheckpointError(str(path), [rule])
    if "stream_frames" in metadata:
        rule = "streams, chunk by chunk: 'nas-encoder transcribe --stream' runs it"
        raise CheckpointError(str(path), [rule])
    session = open_session(content, str(path), threads, engine)
    found = [(one.name, len(one.shape)) for one in session.get_inputs()]
    wanted = list(zip(INPUTS[metadata["input"]], _ranks(metadata["input"]), strict=True))
    if found != wanted or len(session.get_outputs()) != 2:
        problem = f"its inputs (and their dimensions) must be {wanted}, got {show(found)}"
        raise CheckpointError(str(path), [f"{problem}, and it must have two outputs"])
    runtime = Runtime(str(path), session, metadata, vocabulary, engine)
    size = session.get_outputs()[0].shape[-1]
    counts = vocabulary is not None and not runtime.is_transducer
    if (
        vocabulary is not None
        and counts
        and isinstance(size, int)
        and size != len(vocabulary.symbols)
    ):
        rule = f"gives {size} classes, its tokens are {len(vocabulary.symbols)}"
        raise CheckpointError(str(path), [rule])
    return runtime


def open_exported(
    path: Path, tokens: Path | None
) -> tuple[dict[str, str], Vocabulary | None, bytes]:
    """Return the metadata, the classes and the content of a model that was exported here.

    Raises:
        CheckpointError: As of :func:`open_model`.
    """
    model, content = _parsed(path)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    problems = _metadata_problems(metadata)
    if problems:
        raise CheckpointError(str(path), problems)
    vocabulary = None
    if "vocab_size" in metadata:
        place = tokens or path.with_name(TOKENS)
        vocabulary = read_vocabulary(place)
        if vocabulary.digest != metadata.get("tokens_sha256"):
            count = metadata["vocab_size"]
            rule = f"is not the model's: that has {show(count)} classes and the blank, this file "
            rule += f"has {len(vocabulary.symbols) - 1}, and the symbols differ"
            raise CheckpointError(str(place), [rule])
    return metadata, vocabulary, content


def _parsed(path: Path) -> tuple[Any, bytes]:
    """Return the model, checked as far as onnx can, and the file's content."""
    onnx = require("onnx", "reading an exported model")
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise CheckpointError(str(path), [f"is larger than {MAX_BYTES} bytes, has {size}"])
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(str(path), [f"cannot be read: {error.strerror}"]) from None
    try:
        model = onnx.load_model_from_string(content)
        foreign, nested = _foreign(model, onnx)
    except Exception as error:  # protobuf's, of several classes
        reason = f"is no ONNX file, or a damaged one: {one_line(error)}"
        raise CheckpointError(str(path), [reason]) from error
    newest = onnx.defs.onnx_opset_version()
    problems = [
        f"needs opset {entry.version} of ONNX, newer than the {newest} known here; update onnx "
        "and onnxruntime"
        for entry in model.opset_import
        if entry.domain in ("", "ai.onnx") and entry.version > newest
    ]
    if foreign:
        problems.append(f"{show(foreign[0])}: its values are in another file, which is not read")
    if nested:
        problems.append("holds graphs in graphs or functions, which exports have not")
    if not model.graph.node:
        problems.append("holds no graph: is empty, or not an ONNX file")
    if problems:
        raise CheckpointError(str(path), problems)
    return model, content


def _foreign(model: Any, onnx: Any) -> tuple[list[str], bool]:
    """Return the tensors whose values are in other files, and whether there are more graphs."""
    kinds = onnx.AttributeProto
    attributes = [own for node in model.graph.node for own in node.attribute]
    tensors = [*model.graph.initializer]
    for own in attributes:
        tensors += [own.t] if own.type == kinds.TENSOR else own.tensors
    sparse = [one.values for one in model.graph.sparse_initializer]
    outside = onnx.external_data_helper.uses_external_data
    foreign = [one.name or "a constant" for one in [*tensors, *sparse] if outside(one)]
    graphs = (kinds.GRAPH, kinds.GRAPHS)
    nested = bool(model.functions) or any(own.type in graphs for own in attributes)
    return foreign, nested


def _metadata_problems(metadata: dict[str, str]) -> list[str]:
    absent = [name for name in KEYS if name not in metadata]
    if absent:
        return [f"was not written by 'nas-encoder export': its metadata lack {', '.join(absent)}"]
    if metadata["nas_encoder_format"] != FORMAT:
        found = show(metadata["nas_encoder_format"])
        return [f"nas_encoder_format: must be {FORMAT}, got {found}; update nas_encoder"]
    problems = [
        f"metadata: {name}: must be an integer from 1 to {most}, got {show(metadata[name])}"
        for name, most in _NUMBERS.items()
        if not (metadata[name].isascii() and metadata[name].isdigit())
        or len(metadata[name]) > 9
        or not 1 <= int(metadata[name]) <= most
    ]
    if metadata["input"] not in INPUTS:
        known = ", ".join(INPUTS)
        problems.append(f"metadata: input: must be one of {known}, got {show(metadata['input'])}")
    return problems


def _ranks(takes: str) -> tuple[int, int]:
    return (2 if takes == AUDIO else 3), 1
