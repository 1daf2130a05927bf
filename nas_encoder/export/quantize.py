"""Weights and activations in 8 bits, as far as the errors allow.

Where most weights multiply frames (block encoders: linear layers, pointwise convolutions among
them), matrix products are quantized dynamically: onnxruntime has fast kernels for these and none
for dynamic convolutions. Where most are in convolutions of images (cells), convolutions and
products are quantized statically with ranges seen on the user's utterances (quantize and
dequantize nodes, weights per channel). Weights have 7 bits: with 8, processors without VNNI
saturate, and results depend on the machine. The features inside a graph stay as they are.
"""

from __future__ import annotations

import logging
import math
import tempfile
import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_encoder.deploy.engines import open_session, require
from nas_encoder.export.graph import INPUTS
from nas_encoder.export.recognizer import AUDIO

DYNAMIC, STATIC = "dynamic", "static"
_FEATURES = "/features/"  # where the exporter puts the names of nodes of Recognizer.features


def multiply_adds(model: Any, x: Tensor, takes: str) -> dict[str, tuple[str, int]]:
    """Return the nodes that could be quantized: name -> operation, its multiply-adds for an input.

    Those are matrix products and convolutions with weights, but not those of features, nor
    depthwise convolutions, which are not faster in 8 bits.

    Args:
        model: ``onnx.ModelProto``.
        x: (N,) samples or (T, F) features.
        takes: ``audio`` or ``features``.
    """
    onnx = require("onnx", "quantizing a model")
    sizes = {one.name: math.prod(one.dims) for one in model.graph.initializer}
    nodes = [
        node
        for node in model.graph.node
        if node.op_type in ("MatMul", "Conv")
        and node.input[1] in sizes
        and not node.name.startswith(_FEATURES)
        and not any(own.name == "group" and own.i > 1 for own in node.attribute)
    ]
    watched = onnx.ModelProto()
    watched.CopyFrom(model)
    del watched.graph.output[:]
    for node in nodes:
        output = onnx.helper.make_tensor_value_info(node.output[0], onnx.TensorProto.FLOAT, None)
        watched.graph.output.append(output)
    session = open_session(watched.SerializeToString(), "export")
    outputs = session.run(None, feed(x, takes)) if nodes else []
    found = {}
    for node, output in zip(nodes, outputs, strict=True):
        channels = output.shape[1 if node.op_type == "Conv" else -1]
        found[node.name] = (node.op_type, sizes[node.input[1]] * (output.size // channels))
    return found


def method_of(costs: Mapping[str, tuple[str, int]]) -> str:
    """Return ``dynamic`` or ``static``, by where most of the :func:`multiply_adds` are."""
    totals = {"MatMul": 0, "Conv": 0}
    for operation, count in costs.values():
        totals[operation] += count
    return DYNAMIC if totals["MatMul"] >= totals["Conv"] else STATIC


def candidates(costs: Mapping[str, tuple[str, int]]) -> list[str]:
    """Return the names of the nodes to quantize: all that the method can, but the first layer."""
    if method_of(costs) == STATIC:
        return [*costs][1:]
    return [name for name, (operation, _) in costs.items() if operation == "MatMul"]


def quantize(
    model: Any, method: str, nodes: Collection[str], inputs: Sequence[Tensor], takes: str
) -> Any:
    """Return a model with some of its :func:`candidates` in 8 bits, ``onnx.ModelProto``.

    Args:
        model: ``onnx.ModelProto``.
        method: ``dynamic`` or ``static``.
        nodes: Names of those nodes.
        inputs: Utterances, each (N,) or (T, F), whose ranges static quantization takes.
        takes: ``audio`` or ``features``.

    Raises:
        MissingDependencyError: onnxruntime is missing.
    """
    onnx = require("onnx", "quantizing a model")
    tool = require("onnxruntime.quantization", "quantizing a model")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    options: dict[str, Any] = {
        "nodes_to_quantize": sorted(nodes),
        "per_channel": True,
        "reduce_range": True,
        "weight_type": tool.QuantType.QInt8,
    }
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        output = Path(folder, "model.onnx")
        if method == DYNAMIC:
            tool.quantize_dynamic(copy, output, op_types_to_quantize=["MatMul"], **options)
        else:
            tool.quantize_static(
                copy,
                output,
                _Reader(inputs, takes),
                quant_format=tool.QuantFormat.QDQ,
                op_types_to_quantize=["Conv", "MatMul"],
                activation_type=tool.QuantType.QUInt8,
                **options,
            )
        return onnx.load_model(output)


@contextmanager
def quiet() -> Iterator[None]:
    """Keep the advice of onnxruntime's tools out of the logs."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)


def to_half(model: Any) -> Any:
    """Return a model whose weights and activations have 16 bits, but for features and inputs.

    Raises:
        MissingDependencyError: onnxruntime is missing.
    """
    onnx = require("onnx", "converting a model")
    tool = require("onnxruntime.transformers.float16", "converting a model")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    # Powers of spectra are too large.
    kept = [node.name for node in model.graph.node if node.name.startswith(_FEATURES)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # weights that become 0
        half = tool.convert_float_to_float16(copy, keep_io_types=True, node_block_list=kept)
    # A value that several of those nodes read, it converts for each, under the same names.
    nodes: dict[str, Any] = {}
    for node in half.graph.node:
        nodes.setdefault(node.output[0], onnx.NodeProto.FromString(node.SerializeToString()))
    del half.graph.node[:]
    half.graph.node.extend(nodes.values())
    return half


class _Reader:
    """What onnxruntime's calibration asks for the inputs of one run after the other."""

    def __init__(self, inputs: Sequence[Tensor], takes: str) -> None:
        self.feeds: Iterator[dict[str, Any]] = (feed(one, takes) for one in inputs)

    def get_next(self) -> dict[str, Any] | None:
        """Return the inputs of the next run; None after the last."""
        return next(self.feeds, None)


def feed(x: Tensor, takes: str) -> dict[str, Any]:
    """Return onnxruntime's inputs for one utterance, (N,) samples or (T, F) features."""
    names = INPUTS[takes]
    batch = x[None] if takes == AUDIO else x.T[None].contiguous()
    return {names[0]: batch.numpy(), names[1]: torch.tensor([len(x)]).numpy()}
