"""Exported encoders in onnxruntime or OpenVINO.

B batch, T frames, F features of a frame, N samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.problems import one_line, show
from nas_encoder.deploy.engines import ONNXRUNTIME, open_session, require
from nas_encoder.errors import CheckpointError, ConfigError

_FLOATS = {"tensor(float)": torch.float32, "tensor(float16)": torch.float16}
_INTEGERS = {"tensor(int64)": torch.int64, "tensor(int32)": torch.int32}
_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
RATE = 16000  # samples per second of files that do not say it
_WIDEST = 512  # more features than any frame has: a larger fixed size is no number of features


class OnnxEncoder:
    """A file with the inputs (features, lengths) or (samples, lengths).

    Args:
        path: The file.
        device: ``cpu`` or ``cuda``.
        engine: Of :data:`~nas_encoder.deploy.engines.ENGINES`.

    Attributes:
        waveform: Whether it takes samples and computes features itself.
        features: F; 0 for samples.
        shift: Seconds between two frames or samples, if the file's metadata say them:
            ``hop_length`` in samples or ``window_stride`` in seconds; ``sample_rate`` in Hz, 16000
            without it.
        classifies: Whether it has a CTC layer, as ``nas-encoder export`` names its output.

    Raises:
        CheckpointError: The engine cannot read it, or its inputs do not fit; all problems are
            listed.
        ConfigError: The engine does not run on the device.
        MissingDependencyError: The engine is not installed.
    """

    def __init__(self, path: Path, device: str = "cpu", engine: str = ONNXRUNTIME) -> None:
        if engine != ONNXRUNTIME and device != "cpu":
            raise ConfigError(str(path), [f"runtime: {engine} is measured on CPUs only"])
        if not path.is_file():
            raise CheckpointError(str(path), ["no such file"])
        self.path, self.engine, self._provider = path, engine, _PROVIDERS[device]
        if engine == ONNXRUNTIME:
            known = require(engine, "measuring an .onnx file").get_available_providers()
            if self._provider not in known:
                rule = f"this onnxruntime has no {self._provider}; it has {', '.join(known)}"
                raise CheckpointError(str(path), [rule])
        self.threads = 0
        self.start(1)
        inputs = self._session.get_inputs()
        self._names = [given.name for given in inputs]
        if problems := _problems(inputs):
            raise CheckpointError(str(path), problems)
        self._types = _FLOATS[inputs[0].type], _INTEGERS[inputs[1].type]
        shape = inputs[0].shape
        self.waveform = len(shape) == 2
        # Which axis holds the features: a fixed one.
        self.features_first = not self.waveform and _is_width(shape[1])
        self.features = 0 if self.waveform else int(shape[1 if self.features_first else 2])
        self.shift = self._shift()
        self.classifies = self._session.get_outputs()[0].name == "logprobs"

    def _shift(self) -> float | None:
        """Return the seconds between two frames or samples, if the metadata say them."""
        about = self._session.get_modelmeta().custom_metadata_map
        values, problems = {"sample_rate": float(RATE)}, []
        for name in ("sample_rate", "hop_length", "window_stride"):
            if name not in about:
                continue
            try:
                values[name] = float(about[name])
            except ValueError:
                values[name] = 0.0
            if not 0 < values[name] < math.inf:
                problems.append(f"metadata {name}: must be above 0, got {show(about[name])}")
        if problems:
            raise CheckpointError(str(self.path), problems)
        if self.waveform:
            return 1 / values["sample_rate"]
        if "hop_length" in values:
            return values["hop_length"] / values["sample_rate"]
        return values.get("window_stride")

    @property
    def parameters(self) -> int | None:
        """The number of values in the file's tensors; None without the package that reads it."""
        try:
            import onnx
        except ModuleNotFoundError:
            return None
        graph = onnx.load(str(self.path), load_external_data=False).graph
        sizes = [int(math.prod(tensor.dims)) for tensor in graph.initializer]
        return sum(size for size in sizes if size > 1)

    def start(self, threads: int) -> None:
        """Use so many threads from now on."""
        if threads == self.threads:
            return
        self._session = open_session(
            self.path, str(self.path), threads, self.engine, self._provider
        )
        self.threads = threads

    def __call__(self, x: Tensor, lengths: Tensor) -> Sequence[Any]:
        """Run the file on x (B, T, F) or (B, N), lengths (B,)."""
        if self.features_first:
            x = x.transpose(1, 2)
        inputs = (x.to(self._types[0]), lengths.to(self._types[1]))
        given = {
            name: value.contiguous().cpu().numpy()
            for name, value in zip(self._names, inputs, strict=True)
        }
        try:
            found: Sequence[Any] = self._session.run(None, given)
        except Exception as error:
            shapes = [list(value.shape) for value in given.values()]
            rule = f"{self.engine} fails for inputs of shapes {shapes}: {one_line(error)}"
            raise CheckpointError(str(self.path), [rule]) from None
        return found


def _is_width(size: object) -> bool:
    return isinstance(size, int) and 1 <= size <= _WIDEST


def _problems(inputs: Sequence[Any]) -> list[str]:
    if len(inputs) != 2:
        named = ", ".join(f"{given.name} {given.type}" for given in inputs) or "none"
        return [f"inputs: must be two, features and their lengths, got {len(inputs)}: {named}"]
    found, (first, second) = [], inputs
    if first.type not in _FLOATS or len(first.shape) not in (2, 3):
        rule = "must be float, (batch, features, frames), (batch, frames, features) or"
        found.append(f"input {first.name}: {rule} (batch, samples), got {_type(first)}")
    elif len(first.shape) == 3 and _is_width(first.shape[1]) == _is_width(first.shape[2]):
        rule = "exactly one of its last two sizes must be fixed, the number of features"
        found.append(f"input {first.name}: {rule}, got {_type(first)}")
    if second.type not in _INTEGERS or len(second.shape) != 1:
        rule = "must be integers (batch,), the lengths"
        found.append(f"input {second.name}: {rule}, got {_type(second)}")
    return found


def _type(given: Any) -> str:
    return f"{given.type} {given.shape}"
