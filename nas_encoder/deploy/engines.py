"""What runs graphs: onnxruntime, or OpenVINO (on CPUs) where it is installed.

An OpenVINO session has the methods of onnxruntime's that are used here, so that nothing else needs
to know which it is.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nas_encoder.common.problems import one_line
from nas_encoder.errors import CheckpointError, MissingDependencyError

ENGINES = ONNXRUNTIME, OPENVINO, BF16 = "onnxruntime", "openvino", "openvino-bf16"
EXACT = ENGINES[:2]  # that compute in float32
_EXTRAS = {ONNXRUNTIME: "export", OPENVINO: "openvino", "onnx": "export"}
BFLOAT = "BF16"  # as OpenVINO calls it
# OpenVINO keeps so many bits of whole numbers; ends of slices are so large where they mean the end.
_BITS, _ENDLESS = 31, 1 << 62


def require(package: str, purpose: str) -> Any:
    """Import onnx, an engine or a part of one; MissingDependencyError, with the extra, without."""
    whole = package.partition(".")[0]
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name not in (package, whole):
            raise
        raise MissingDependencyError(whole, _EXTRAS[whole], purpose) from error


def open_session(
    model: bytes | Path,
    source: str,
    threads: int = 1,
    engine: str = ONNXRUNTIME,
    provider: str = "CPUExecutionProvider",
) -> Any:
    """Return a session.

    Args:
        model: An ONNX model or its file.
        source: Its name for messages.
        threads: At most so many.
        engine: Of :data:`ENGINES`; ``openvino-bf16`` computes in bfloat16 what the processor can.
        provider: Of onnxruntime; OpenVINO has the CPU.

    Raises:
        CheckpointError: The engine refuses the model, or the processor has no bfloat16.
        MissingDependencyError: The engine, or onnx for OpenVINO, is missing.
    """
    package = ONNXRUNTIME if engine == ONNXRUNTIME else OPENVINO
    found = require(package, "running an exported model")
    if engine == BF16 and BFLOAT not in found.Core().get_property(
        "CPU", "OPTIMIZATION_CAPABILITIES"
    ):
        raise CheckpointError(source, [f"{engine}: this processor does not compute in bfloat16"])
    try:
        if engine != ONNXRUNTIME:
            return OpenVINOSession(
                found, model, threads, BFLOAT.lower() if engine == BF16 else "f32"
            )
        return _onnxruntime(found, model, threads, provider)
    except MissingDependencyError:
        raise
    except Exception as error:  # each status has a class of its own, or all have RuntimeError
        raise CheckpointError(source, [f"{package} refuses it: {one_line(error)}"]) from error


def _onnxruntime(package: Any, model: bytes | Path, threads: int, provider: str) -> Any:
    options = package.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 4
    given = model if isinstance(model, bytes) else str(model)
    return package.InferenceSession(given, options, providers=[provider])


@dataclass(frozen=True)
class Port:
    """An input or output, as the file declares it.

    Attributes:
        name: Its name.
        shape: Its sizes; the names of those that are free.
        type: Of its values, as onnxruntime writes it: ``tensor(float)``.
    """

    name: str
    shape: list[int | str]
    type: str


@dataclass(frozen=True)
class Facts:
    """What the file says about itself."""

    custom_metadata_map: Mapping[str, str]


class OpenVINOSession:
    """A model in OpenVINO, on the CPU.

    By itself OpenVINO computes in bfloat16 where a processor has it, so that results would depend
    on the machine; here the precision is always given.

    Args:
        package: The module ``openvino``.
        model: An ONNX model or its file.
        threads: At most so many.
        precision: ``f32`` or ``bf16``.

    Raises:
        RuntimeError: OpenVINO refuses the model.
        ValueError: It has a constant that OpenVINO would change.
        MissingDependencyError: onnx is missing.
    """

    def __init__(self, package: Any, model: bytes | Path, threads: int, precision: str) -> None:
        onnx = require("onnx", "reading an exported model")
        if isinstance(model, bytes):
            read = onnx.load_model_from_string(model)
        else:
            read = onnx.load(str(model), load_external_data=False)
        weights = {one.name for one in read.graph.initializer}
        given = [one for one in read.graph.input if one.name not in weights]
        self._inputs = [_port(one, onnx) for one in given]
        self._outputs = [_port(one, onnx) for one in read.graph.output]
        self._facts = Facts({entry.key: entry.value for entry in read.metadata_props})
        _check_constants(read.graph, onnx)
        core = package.Core()
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "INFERENCE_PRECISION_HINT": precision,
            "ENABLE_CPU_PINNING": False,
        }
        compiled = core.compile_model(core.read_model(model), "CPU", settings)
        self._places = [compiled.output(one.name) for one in self._outputs]
        self._request = compiled.create_infer_request()

    def get_inputs(self) -> list[Port]:
        """Return the inputs."""
        return self._inputs

    def get_outputs(self) -> list[Port]:
        """Return the outputs."""
        return self._outputs

    def get_modelmeta(self) -> Facts:
        """Return the metadata."""
        return self._facts

    def run(self, names: Sequence[str] | None, feed: Mapping[str, Any]) -> list[Any]:
        """Run it.

        Args:
            names: Of outputs; None for all.
            feed: Name -> array for every input.

        Raises:
            RuntimeError: OpenVINO fails.
        """
        found = self._request.infer(dict(feed))
        # Copies: the next call writes its results to the same memory.
        results = [found[place].copy() for place in self._places]
        if names is None:
            return results
        order = [one.name for one in self._outputs]
        return [results[order.index(name)] for name in names]


def _check_constants(graph: Any, onnx: Any) -> None:
    """Refuse whole numbers that OpenVINO would cut, as streams had in earlier exports."""
    attributes = (own for node in graph.node for own in node.attribute)
    inside = (own.t for own in attributes if own.type == onnx.AttributeProto.TENSOR)
    for tensor in (*graph.initializer, *inside):
        outside = onnx.external_data_helper.uses_external_data(tensor)
        if tensor.data_type != onnx.TensorProto.INT64 or outside:
            continue
        for number in onnx.numpy_helper.to_array(tensor).flatten().tolist():
            if 1 << _BITS <= abs(number) < _ENDLESS:
                rule = "of which OpenVINO keeps 32 bits; export the model anew"
                raise ValueError(f"it holds the whole number {number}, {rule}")


def _port(value: Any, onnx: Any) -> Port:
    tensor = value.type.tensor_type
    sizes = [one.dim_value or one.dim_param for one in tensor.shape.dim]
    kind = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
    return Port(value.name, sizes, f"tensor({'float' if kind == 'float32' else kind})")
