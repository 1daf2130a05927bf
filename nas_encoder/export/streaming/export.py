"""Exports a trained model that streams: the graph of a step, its tokens, and a report."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from nas_encoder.common.provenance import environment
from nas_encoder.deploy.engines import open_session
from nas_encoder.errors import CheckpointError, ConfigError
from nas_encoder.export.export import MODEL, ExportOptions, Written, metadata_of, serialized
from nas_encoder.export.graph import recorded
from nas_encoder.export.material import generated, inputs_of, utterances_of
from nas_encoder.export.recognizer import AUDIO, Parts, parts_of
from nas_encoder.export.runtime import TOKENS
from nas_encoder.export.streaming.check import check_stream
from nas_encoder.export.streaming.runtime import StreamRuntime
from nas_encoder.export.streaming.sherpa import (
    obstacles_to_sherpa,
    remarks_on_sherpa,
    sherpa_metadata,
)
from nas_encoder.export.streaming.signal import SignalForm
from nas_encoder.export.streaming.stepper import INPUTS, OUTPUTS, Stepper, obstacles
from nas_encoder.interchange.model import Model

_LEAST = 0.16  # seconds of a chunk, unless another is given
_LONGEST = 60.0  # seconds of generated sounds
_STEADY = 3  # chunks that are checked after all that the encoder sees of the past


@dataclass
class StreamExported(Written):
    """A checked streaming model that is not written yet.

    Attributes:
        model: The graph, ``onnx.ModelProto``.
        runtime: It, running.
        parts: The same in torch.
    """

    model: Any
    runtime: StreamRuntime
    parts: Parts


def export_stream(
    model: Model, options: ExportOptions, chunk: float | None = None
) -> StreamExported:
    """Make the graph of a step of a model that was read, and compare streams of it with torch.

    Args:
        model: The model.
        options: What to export.
        chunk: Milliseconds of a chunk; None for the shortest that the encoder allows, of at least
            160 ms.

    Raises:
        CheckpointError: The model does not stream or cannot be exported, or the graph differs.
        ConfigError: There are no such chunks, or the graph cannot take such inputs.
        DataError: The utterances cannot be read.
        MissingDependencyError: onnx, onnxruntime or librosa is missing.
    """
    parts = parts_of(model, options.lookahead)
    problems = obstacles(parts, _normalization(model))
    if problems:
        raise CheckpointError(model.source, [f"does not stream: {line}" for line in problems])
    metadata = metadata_of(model, parts, options)
    rate, hop = int(metadata["sample_rate"]), int(metadata["hop_length"])
    frames = _frames(int(parts.network.period), hop / rate, chunk)
    stepper = Stepper(parts, options.takes, frames).eval()
    delay = stepper.step.delay
    metadata |= {
        "too_short": "no output frame",
        "stream_frames": str(frames),
        "stream_delay": str(delay),
        "shortest": str(parts.network.min_length),
        "lookahead_frames": str(parts.network.lookahead()),
    }
    if options.takes == AUDIO:
        assert parts.features is not None
        metadata["signal"] = json.dumps(asdict(SignalForm.of(parts.features, frames)))
    against = obstacles_to_sherpa(parts, options.takes)
    if not against:
        metadata |= sherpa_metadata(stepper)
        against = remarks_on_sherpa(parts)
    names = INPUTS[options.takes]
    axes = {name: {0: "batch"} for name in (*names, *OUTPUTS)}
    graph = recorded(stepper, stepper.example(2), names, OUTPUTS, axes, metadata)
    content = serialized(graph, model.source)
    session = open_session(content, "export", engine=options.engine)
    assert parts.vocabulary is not None
    runtime = StreamRuntime.of("the export", session, metadata, parts.vocabulary)
    if options.data is None:
        steady = (stepper.step.seen + _STEADY * frames) * hop / rate
        utterances = generated(rate, longest=min(steady, _LONGEST))
    else:
        utterances = utterances_of(options.data, rate, options.utterances)
    inputs = inputs_of(parts, options.takes, utterances)
    checked = check_stream(runtime, parts, inputs, options.lengths)
    seconds, source = hop / rate, options.data or "generated sounds"
    longest = round(1000 * max((len(one.samples) for one in utterances), default=0) / rate, 3)
    report = {
        "input": model.source,
        "toolkit": model.toolkit,
        "takes": options.takes,
        "chunk_ms": round(1000 * frames * seconds, 3),
        "lookahead_ms": round(1000 * parts.network.lookahead() * seconds, 3),
        "steady_ms": round(1000 * stepper.step.seen * seconds, 3),
        "state_bytes": 4 * stepper.step.values,
        "checked": {**checked.to_dict(), "longest_ms": longest, "with": source},
        "bytes": {MODEL: len(content)},
        "sherpa_onnx": against,
        "notes": [*model.notes, *model.obstacles],
        "left_out": model.left_out,
        "metadata": metadata,
        "engine": options.engine,
        "environment": environment(),
    }
    files = {MODEL: content, TOKENS: parts.vocabulary.to_bytes()}
    return StreamExported(report, files, graph, runtime, parts)


def _normalization(model: Model) -> Any:
    """Return what the toolkit's configuration says, which holds for features unknown here too."""
    if model.toolkit == "espnet":
        return model.config.get("normalize")
    block = model.config.get("preprocessor")
    return block.get("normalize", "per_feature") if isinstance(block, Mapping) else None


def _frames(period: int, seconds: float, chunk: float | None) -> int:
    """Return the frames of a chunk of so many milliseconds; a frame has ``seconds``."""
    unit = 1000 * period * seconds
    if chunk is None:
        return period * max(1, -int(-1000 * _LEAST // unit))
    times = round(chunk / unit) if 0 < chunk <= 1e6 else 0
    if not times or abs(chunk - times * unit) > 1e-6 * chunk:
        near = " or ".join(f"{count * unit:g}" for count in (times, times + 1) if count)
        rule = f"must be a multiple of {unit:g} ms, since the encoder treats frames alike after so "
        raise ConfigError("--chunk", [f"{rule}many, got {chunk:g}; give {near}"])
    return times * period
