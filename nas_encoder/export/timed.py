"""Latencies of exported graphs in onnxruntime: of parts of networks, and of whole ones.

B batch, T frames, F features.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.deploy.engines import open_session
from nas_encoder.deploy.timing import Call
from nas_encoder.errors import ConfigError
from nas_encoder.export.graph import INPUTS, recorded, to_onnx
from nas_encoder.export.quantize import (
    DYNAMIC,
    candidates,
    method_of,
    multiply_adds,
    quantize,
    quiet,
)
from nas_encoder.export.recognizer import Parts, Recognizer
from nas_encoder.network.timed import TimedPart

FEATURES = "features"
_STATIC = (
    "--runtime: parts in 8 bits are measured for networks that are matrix products before all, as "
    "most of 'blocks' are"
)
_FREE = 4  # of a size that other utterances may have another of, at least


class GraphTimer:
    """Makes calls of graphs, on CPU threads, as exports of the same network run.

    Args:
        threads: Of onnxruntime.
        eight_bits: Whether matrix products have 8 bits, quantized dynamically as in
            :mod:`nas_encoder.export.quantize`.
    """

    def __init__(self, threads: int, eight_bits: bool) -> None:
        self.threads, self.eight_bits = threads, eight_bits

    def part(self, part: TimedPart) -> Call:
        """Return a call of the graph of a part.

        Raises:
            CheckpointError: It has an operation without a form in ONNX.
            MissingDependencyError: onnx or onnxruntime is missing.
        """
        names = [f"x{place}" for place in range(len(part.inputs))]
        axes = {
            name: {axis: f"{name}_{axis}" for axis, size in enumerate(x.shape) if size >= _FREE}
            for name, x in zip(names, part.inputs, strict=True)
        }
        graph = recorded(_Part(part), part.inputs, names, ["y"], axes, {})
        products = _products(graph) if self.eight_bits else []
        if products:
            with quiet():
                graph = quantize(graph, DYNAMIC, products, [], FEATURES)
        kept = {one.name for one in graph.graph.input}  # recording leaves out what is not read
        values = {n: x.numpy() for n, x in zip(names, part.inputs, strict=True) if n in kept}
        return self._call(graph, values)

    def problem(self, encoder: nn.Module, x: Tensor) -> str | None:
        """Return why an export of an encoder would not consist of such parts; None if it would.

        In 8 bits it does not where most multiply-adds of an utterance (1, T, F) are those of
        convolutions (cells, wide front ends of small block encoders): they are quantized then, and
        statically.

        Raises:
            MissingDependencyError: onnx or onnxruntime is missing.
        """
        if not self.eight_bits:
            return None
        costs = multiply_adds(_graph(encoder, x), x[0], FEATURES)
        return _STATIC if method_of(costs) != DYNAMIC else None

    def network(self, encoder: nn.Module, x: Tensor) -> Call:
        """Return a call of the graph of an encoder with one utterance (1, T, F).

        Raises:
            ConfigError: It has a :meth:`problem`.
            MissingDependencyError: onnx or onnxruntime is missing.
        """
        graph = _graph(encoder, x)
        if self.eight_bits:
            costs = multiply_adds(graph, x[0], FEATURES)
            if method_of(costs) != DYNAMIC:
                raise ConfigError("bench", [_STATIC])
            with quiet():
                graph = quantize(graph, DYNAMIC, candidates(costs), [], FEATURES)
        names = INPUTS[FEATURES]
        lengths = torch.tensor([x.size(1)])
        return self._call(
            graph, {names[0]: x.transpose(1, 2).contiguous().numpy(), names[1]: lengths.numpy()}
        )

    def _call(self, graph: Any, values: dict[str, Any]) -> Call:
        session = open_session(graph.SerializeToString(), "bench", self.threads)
        return lambda: session.run(None, values)


class _Part(nn.Module):
    """A part as a module, which recording takes."""

    def __init__(self, part: TimedPart) -> None:
        super().__init__()
        self.module, self._function = part.module, part.function

    def forward(self, *inputs: Tensor) -> Any:
        return self._function(*inputs)


def _graph(encoder: nn.Module, x: Tensor) -> Any:
    """Return the graph of an encoder of (1, T, F)."""
    return to_onnx(Recognizer(Parts(encoder, None, None, None, "nemo"), FEATURES), x.size(2), {})


def _products(graph: Any) -> list[str]:
    """Return the names of the matrix products with weights."""
    weights = {one.name for one in graph.graph.initializer}
    return [n.name for n in graph.graph.node if n.op_type == "MatMul" and n.input[1] in weights]
