"""Exports a trained transducer: encoder, prediction network and joint, and a report.

Letters in shapes: B batch, T' output frames, D width of the encoder, H features of the prediction
network, L its layers, V classes with the blank last.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from nas_encoder.common.provenance import environment
from nas_encoder.deploy.engines import open_session
from nas_encoder.errors import CheckpointError
from nas_encoder.export.check import check
from nas_encoder.export.export import (
    ExportOptions,
    Written,
    material_for,
    metadata_of,
    serialized,
)
from nas_encoder.export.graph import recorded, to_onnx
from nas_encoder.export.recognizer import Parts, Recognizer, parts_of, reference
from nas_encoder.export.runtime import TOKENS, Runtime
from nas_encoder.export.sherpa import differences
from nas_encoder.export.transducer.check import check_search
from nas_encoder.export.transducer.parts import TransducerParts
from nas_encoder.export.transducer.runtime import (
    DECODER,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODED,
    ENCODER,
    JOINER,
    JOINER_INPUTS,
    JOINER_OUTPUTS,
    LIMIT,
    UNLIMITED,
    Sessions,
)
from nas_encoder.interchange.model import Model
from nas_encoder.interchange.transducer import MOST

_SHERPA_MOST = 10  # tokens of a frame in sherpa-onnx's greedy search


def export_transducer(model: Model, options: ExportOptions) -> Written:
    """Make the three graphs of a model that was read, and compare them with torch.

    Raises:
        CheckpointError: The model has no transducer that can be exported, or a graph differs.
        ConfigError: The graph cannot take such inputs.
        DataError: The utterances cannot be read.
        MissingDependencyError: onnx, onnxruntime or librosa is missing.
    """
    if model.transducer is None:
        found = model.no_transducer or ["holds no transducer"]
        remedy = "the encoder alone can be exported (--head none)"
        raise CheckpointError(model.source, [*found, remedy])
    search = TransducerParts(model.transducer)
    parts = parts_of(model, options.lookahead)
    parts = replace(parts, classifier=None, vocabulary=search.vocabulary)
    metadata = {
        **metadata_of(model, parts, options),
        "head": "transducer",
        "model_type": "EncDecRNNTModel" + ("BPE" if model.transducer.classes.bpe_model else ""),
        "feat_dim": str(parts.network.input_size),  # as sherpa-onnx calls it
        "pred_rnn_layers": str(search.layers),
        "pred_hidden": str(search.hidden),
        LIMIT: UNLIMITED if search.most is None else str(search.most),
        "export_id": _digest(parts, search),
    }
    graphs = {
        ENCODER: to_onnx(
            Recognizer(parts, options.takes), int(parts.network.input_size), metadata, ENCODED
        ),
        **_of_search(search, metadata),
    }
    files = {name: serialized(graph, model.source) for name, graph in graphs.items()}
    opened = {
        name: open_session(content, name, engine=options.engine) for name, content in files.items()
    }
    runtime = Runtime("the export", opened[ENCODER], metadata, search.vocabulary, options.engine)
    sessions = Sessions(
        "the export",
        opened[DECODER],
        opened[JOINER],
        search.vocabulary,
        search.layers,
        search.hidden,
        search.most,
    )
    _, inputs = material_for(parts, options, int(metadata["sample_rate"]))
    checked = check(runtime, parts, inputs, options.lengths)
    graph_frames = [found for one in inputs for found in runtime.run([one])]
    plain_frames = [reference(parts, one, options.takes) for one in inputs]
    steps = check_search(sessions, search, graph_frames, plain_frames)
    report = {
        "input": model.source,
        "toolkit": model.toolkit,
        "takes": options.takes,
        "head": "transducer",
        "checked": {**checked.to_dict(), "with": options.data or "generated sounds"},
        "search": steps.to_dict(),
        "bytes": {name: len(content) for name, content in files.items()},
        "sherpa_onnx": _sherpa(parts, search, options.takes),
        "notes": [*model.notes, *model.obstacles, *_unlimited(model, search)],
        "left_out": left_out(model, model.transducer.names),
        "metadata": metadata,
        "engine": options.engine,
        "environment": environment(),
    }
    return Written(report, {**files, TOKENS: search.vocabulary.to_bytes()})


def left_out(model: Model, used: set[str]) -> dict[str, list[str]]:
    """Return the tensors that an export leaves out, by the reason, without those it uses."""
    rest = {reason: sorted({*names} - used) for reason, names in model.left_out.items()}
    if model.head is not None:
        rest["the CTC layer: --head ctc exports it"] = ["CTC layer"]
    return {reason: names for reason, names in rest.items() if names}


def _of_search(search: TransducerParts, metadata: dict[str, str]) -> dict[str, Any]:
    """Return the graphs of the prediction network and of the joint."""
    # Without the classes' digest: tokens.txt is compared when the encoder is opened.
    own = {k: v for k, v in metadata.items() if k not in ("vocab_size", "tokens_sha256")}
    states = torch.zeros(2, search.layers, 1, search.hidden)
    token, one = torch.zeros(1, 1, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
    batch = {0: "batch"}
    decoder = recorded(
        search.prediction,
        (token, one, *states),
        DECODER_INPUTS,
        DECODER_OUTPUTS,
        {
            **dict.fromkeys((*DECODER_INPUTS[:2], *DECODER_OUTPUTS[:2]), batch),
            **dict.fromkeys((*DECODER_INPUTS[2:], *DECODER_OUTPUTS[2:]), {1: "batch"}),
        },
        {**own, "head": "decoder"},
    )
    joint = search.joint
    joiner = recorded(
        joint,
        (
            torch.zeros(1, joint.of_encoder.in_features, 1),
            torch.zeros(1, joint.of_prediction.in_features, 1),
        ),
        JOINER_INPUTS,
        JOINER_OUTPUTS,
        {
            JOINER_INPUTS[0]: {0: "batch", 2: "output_frames"},
            JOINER_INPUTS[1]: {0: "batch", 2: "steps"},
            JOINER_OUTPUTS[0]: {0: "batch", 1: "output_frames", 2: "steps"},
        },
        {**own, "head": "joiner"},
    )
    return {DECODER: decoder, JOINER: joiner}


def _digest(parts: Parts, search: TransducerParts) -> str:
    """Return what the three graphs have in common: a digest of all their weights."""
    modules: Sequence[torch.nn.Module] = (parts.network, search.prediction, search.joint)
    found = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            found.update(name.encode())
            found.update(tensor.detach().contiguous().numpy().tobytes())
    return found.hexdigest()


def _sherpa(parts: Parts, search: TransducerParts, takes: str) -> list[str]:
    found = differences(parts, takes, transducer=True)
    if search.most != _SHERPA_MOST:
        count = "any number of" if search.most is None else f"at most {search.most}"
        found.append(
            f"{count} tokens come from a frame, and sherpa-onnx takes up to {_SHERPA_MOST}"
        )
    return found


def _unlimited(model: Model, search: TransducerParts) -> list[str]:
    if search.most is not None or model.toolkit != "nemo":
        return []
    return [
        "decoding.greedy.max_symbols: is null, so a frame gives as many tokens as it says, as in "
        f"NeMo on a CPU; {MOST} of one frame are an error here. NeMo's CUDA graphs take 10"
    ]
