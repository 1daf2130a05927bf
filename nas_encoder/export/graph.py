"""From a module to an ONNX graph, by tracing, and the graph's metadata."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.common.problems import one_line
from nas_encoder.deploy.engines import require
from nas_encoder.errors import CheckpointError
from nas_encoder.export.recognizer import AUDIO, Recognizer

OPSET = 17  # the first with LayerNormalization
INPUTS = {AUDIO: ("audio", "length"), "features": ("audio_signal", "length")}


def to_onnx(
    recognizer: Recognizer,
    features: int,
    metadata: Mapping[str, str],
    transducer: tuple[str, str] | None = None,
) -> Any:
    """Return the ONNX model of a recognizer, ``onnx.ModelProto``.

    Batch norms after convolutions are folded into them. Inputs are ``audio`` (B, N) or
    ``audio_signal`` (B, F, T), and ``length`` (B,); outputs ``logprobs`` (B, T', V), or
    ``encoded`` (B, T', D) without a CTC layer, and ``lengths`` (B,).

    Args:
        recognizer: In evaluation mode.
        features: F.
        metadata: Put into the model.
        transducer: The outputs of a transducer's encoder, the first of which is (B, D, T').

    Raises:
        MissingDependencyError: onnx is missing.
        CheckpointError: The network holds an operation that has no form in ONNX.
    """
    generator = torch.Generator().manual_seed(0)
    if recognizer.takes == AUDIO:
        rows = torch.rand(2, 16000, generator=generator) - 0.5
        lengths, free = torch.tensor([16000, 9000]), {0: "batch", 1: "samples"}
    else:
        frames = max(96, 2 * recognizer.fewest)
        rows = torch.randn(2, features, frames, generator=generator)
        lengths, free = torch.tensor([frames, frames // 2 + 1]), {0: "batch", 2: "frames"}
    output = "encoded" if recognizer.classifier is None else "logprobs"
    outputs = transducer or (output, "lengths")
    module: nn.Module = recognizer if transducer is None else _ChannelsFirst(recognizer)
    names = INPUTS[recognizer.takes]
    axes = {
        names[0]: free,
        names[1]: {0: "batch"},
        outputs[0]: {0: "batch", (1 if transducer is None else 2): "output_frames"},
        outputs[1]: {0: "batch"},
    }
    return recorded(module, (rows, lengths), names, outputs, axes, metadata)


class _ChannelsFirst(nn.Module):
    """A recognizer that gives (B, D, T'), as NeMo's encoders do."""

    def __init__(self, recognizer: Recognizer) -> None:
        super().__init__()
        self.recognizer = recognizer

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        encoded, frames = self.recognizer(x, lengths)
        return encoded.transpose(1, 2), frames


def recorded(
    module: nn.Module,
    arguments: tuple[Tensor, ...],
    inputs: Sequence[str],
    outputs: Sequence[str],
    axes: Mapping[str, Mapping[int, str]],
    metadata: Mapping[str, str],
) -> Any:
    """Return the ONNX model of a module, ``onnx.ModelProto``.

    Args:
        module: In evaluation mode from here on.
        arguments: What it is called with to be recorded.
        inputs: Their names.
        outputs: Names of what it returns.
        axes: Name -> the sizes of it that are free, and what they are called.
        metadata: Put into the model.

    Raises:
        MissingDependencyError: onnx is missing.
        CheckpointError: It holds an operation that has no form in ONNX.
    """
    onnx = require("onnx", "exporting a model")
    buffer = io.BytesIO()
    module.eval()
    # torch warns that tracing is old, that sizes are constants where they are meant to be, and
    # more. Where it fails, it also prints the whole graph.
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()), torch.no_grad():
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                module,
                arguments,
                buffer,  # type: ignore[arg-type]  # of this exporter
                input_names=list(inputs),
                output_names=list(outputs),
                dynamic_axes=axes,
                opset_version=OPSET,
                dynamo=False,  # the other exporter fails where a size depends on an input's
            )
        except torch.onnx.errors.OnnxExporterError as error:
            rule = f"has no form in ONNX: {one_line(error)}"
            raise CheckpointError("export", [rule]) from error
    model = onnx.load_model_from_string(buffer.getvalue())
    _use_weights_directly(model.graph)
    onnx.helper.set_model_props(model, dict(metadata))
    return model


def _use_weights_directly(graph: Any) -> None:
    """Undo that the exporter keeps equal weights once and gives the others by ``Identity``.

    Tools that quantize look for weights at the nodes that use them.
    """
    weights = {one.name for one in graph.initializer}
    outputs = {one.name for one in graph.output}
    same = {
        node.output[0]: node
        for node in graph.node
        if node.op_type == "Identity" and node.input[0] in weights and node.output[0] not in outputs
    }
    alias = {name: node.input[0] for name, node in same.items()}
    for node in same.values():
        graph.node.remove(node)
    for node in graph.node:
        for place, name in enumerate(node.input):
            node.input[place] = alias.get(name, name)
