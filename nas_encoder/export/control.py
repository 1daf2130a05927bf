"""Makes a checked export smaller, as far as its errors allow, and says what it costs and saves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from nas_encoder.deploy.engines import BF16, OPENVINO, open_session
from nas_encoder.errors import CheckpointError, ConfigError, DataError
from nas_encoder.export.export import HALF, INT8, MODEL, Exported
from nas_encoder.export.material import inputs_of, utterances_of
from nas_encoder.export.quantize import (
    candidates,
    method_of,
    multiply_adds,
    quantize,
    quiet,
    to_half,
)
from nas_encoder.export.rates import Rate, rates_of
from nas_encoder.export.recognizer import AUDIO
from nas_encoder.export.runtime import Runtime

_COUNTED, _CALIBRATION, _RANKING = 500, 64, 8  # utterances, at most
_SECONDS = 10.0  # of what latencies are measured with
Progress = Callable[[int, int], object]


@dataclass(frozen=True)
class Reducer:
    """Makes smaller forms of one export.

    Attributes:
        exported: A checked model.
        texts: What is said in each of the utterances.
        inputs: They, as the graph takes them.
        increase: Percent by which character errors may rise.
        before: The errors in float32.
    """

    exported: Exported
    texts: list[str]
    inputs: list[Tensor]
    increase: float
    before: dict[str, Rate]

    @property
    def allowed(self) -> float:
        """Character errors that a smaller form may make."""
        return self.before["cer"].total * (1 + self.increase / 100)


def option_problems(data: str | None, increase: float) -> list[str]:
    """Return what is wrong with the options of :func:`reducer`."""
    problems = []
    if data is None:
        problems.append("data: is missing: errors are counted on utterances with texts")
    if not 0 <= increase <= 1000:
        problems.append(f"max-increase: must be in 0..1000 percent, got {increase:g}")
    return problems


def reducer(exported: Exported, data: str | None, increase: float) -> Reducer:
    """Count the errors of a checked export on utterances with texts.

    Args:
        exported: A checked model.
        data: A manifest, of which up to 500 utterances are taken.
        increase: Percent by which character errors may rise.

    Raises:
        CheckpointError: It is an encoder alone.
        ConfigError: There are no utterances, or the increase is negative.
        DataError: They cannot be read, or have no texts.
        MissingDependencyError: kaldialign is missing.
    """
    problems = option_problems(data, increase)
    if problems or data is None:
        raise ConfigError("smaller forms", problems)
    if exported.runtime.vocabulary is None:
        raise CheckpointError(
            "smaller forms", ["an encoder alone makes no errors that could be counted"]
        )
    utterances = utterances_of(data, exported.runtime.number("sample_rate"), _COUNTED)
    if not all(one.text.strip() for one in utterances):
        raise DataError(f"data {data}", ["errors are counted: every utterance needs a text"])
    inputs = inputs_of(exported.parts, exported.runtime.takes, utterances)
    if len(inputs) < len(utterances):
        raise DataError(f"data {data}", ["utterances are shorter than a frame of features"])
    texts = [one.text for one in utterances]
    found = Reducer(exported, texts, inputs, increase, {})
    return replace(found, before=_rates(found, exported.runtime))


def add_int8(given: Reducer, progress: Progress = lambda *_: None) -> None:
    """Add the model in 8 bits to the files of its export, and what it costs to the report.

    First everything that can be is quantized. If that makes more errors than allowed, each layer
    is quantized alone, and those that change the log-probabilities most stay in float32: 1, 2, 4,
    ... of them, until the errors are few enough.

    Args:
        given: The export.
        progress: Called with the number of layers that were tried alone, and of all of them.

    Raises:
        CheckpointError: It makes too many errors with any layer in 8 bits, or fails.
        MissingDependencyError: onnxruntime is missing.
    """
    exported = given.exported
    costs = multiply_adds(exported.model, given.inputs[0], exported.runtime.takes)
    method, nodes = method_of(costs), candidates(costs)
    if not nodes:
        raise CheckpointError("int8", ["the graph has no layer that can be quantized"])
    order: list[str] = []
    kept = 0
    with quiet():
        while True:
            chosen = [name for name in nodes if name not in order[:kept]]
            runtime, content = _quantized(given, method, chosen)
            after = _rates(given, runtime)
            if after["cer"].total <= given.allowed:
                break
            order = order or _by_damage(given, method, nodes, progress)
            kept = max(1, 2 * kept)
            if kept >= len(nodes):
                raise CheckpointError("int8", [_too_many(given, after, len(chosen))])
    _add(given, "int8", INT8, runtime, content, after)
    exported.report["int8"] |= {
        "method": method,
        "layers": len(chosen),
        "multiply_adds_in_8_bits": round(
            sum(costs[name][1] for name in chosen) / sum(count for _, count in costs.values()), 4
        ),
        "left_in_float32": order[:kept],
    }


def add_half(given: Reducer) -> None:
    """Add the model in 16 bits to the files, and what it costs to the report.

    It is for GPUs: on CPUs onnxruntime turns most of it into float32 again.

    Raises:
        CheckpointError: It makes too many errors, or fails.
        MissingDependencyError: onnxruntime is missing.
    """
    with quiet():
        content = to_half(given.exported.model).SerializeToString()
    runtime = _running(given, content, "fp16")
    after = _rates(given, runtime)
    if after["cer"].total > given.allowed:
        raise CheckpointError("fp16", [_too_many(given, after, 0)])
    _add(given, "fp16", HALF, runtime, content, after)


def add_bfloat(given: Reducer) -> None:
    """Add to the report what computing in bfloat16 costs and saves; the file stays as it is.

    Raises:
        CheckpointError: It makes too many errors, or fails, or the processor has no bfloat16.
        ConfigError: The export's engine is not OpenVINO, which alone computes so.
        MissingDependencyError: OpenVINO is missing.
    """
    exported = given.exported
    if exported.runtime.engine != OPENVINO:
        raise ConfigError("bf16", [f"runtime: must be {OPENVINO}, which alone computes so"])
    content = exported.files[MODEL]
    session = open_session(content, "bf16", engine=BF16)
    runtime = replace(exported.runtime, session=session, source="bf16", engine=BF16)
    after = _rates(given, runtime)
    if after["cer"].total > given.allowed:
        raise CheckpointError("bf16", [_too_many(given, after, 0)])
    _report(given, "bf16", runtime, after)


def _add(
    given: Reducer, form: str, file: str, runtime: Runtime, content: bytes, after: dict[str, Rate]
) -> None:
    _report(given, form, runtime, after)
    given.exported.files[file] = content
    given.exported.report["bytes"][file] = len(content)


def _report(given: Reducer, form: str, runtime: Runtime, after: dict[str, Rate]) -> None:
    exported = given.exported
    _same_frames(exported, runtime)
    exported.report[form] = {
        "utterances": len(given.texts),
        "allowed_increase_percent": given.increase,
        "before": {name: rate.to_dict() for name, rate in given.before.items()},
        "after": {name: rate.to_dict() for name, rate in after.items()},
        "milliseconds_for_10_s": _latencies(given, {"float32": exported.runtime, form: runtime}),
    }


def _too_many(given: Reducer, after: dict[str, Rate], layers: int) -> str:
    with_ = f" with {layers} layers in 8 bits" if layers else ""
    return (
        f"makes {after['cer'].total} character errors{with_}, float32 {given.before['cer'].total}; "
        f"an increase of {given.increase:g} % is allowed"
    )


def _running(given: Reducer, content: bytes, form: str) -> Runtime:
    runtime = given.exported.runtime
    session = open_session(content, form, engine=runtime.engine)
    return replace(runtime, session=session, source=form)


def _quantized(
    given: Reducer, method: str, nodes: Sequence[str], utterances: int = _CALIBRATION
) -> tuple[Runtime, bytes]:
    inputs, takes = _some(given.inputs, utterances), given.exported.runtime.takes
    model = quantize(given.exported.model, method, nodes, inputs, takes)
    content = model.SerializeToString()
    return _running(given, content, "int8"), content


def _some(inputs: list[Tensor], count: int) -> list[Tensor]:
    return inputs[:: -(-len(inputs) // count)]


def _rates(given: Reducer, runtime: Runtime) -> dict[str, Rate]:
    vocabulary = runtime.vocabulary
    assert vocabulary is not None
    heard = [vocabulary.text(runtime.run([x])[0].argmax(1).tolist()) for x in given.inputs]
    return rates_of(given.texts, heard)


def _by_damage(given: Reducer, method: str, nodes: Sequence[str], progress: Progress) -> list[str]:
    """Return layers by how much each alone changes the log-probabilities, the worst first."""
    inputs = _some(given.inputs, _RANKING)
    expected = [given.exported.runtime.run([x])[0] for x in inputs]
    damage = {}
    for number, node in enumerate(nodes, 1):
        runtime, _ = _quantized(given, method, [node], _RANKING)
        pairs = zip(inputs, expected, strict=True)
        damage[node] = sum(_divergence(right, runtime.run([x])[0]) for x, right in pairs)
        progress(number, len(nodes))
    return sorted(nodes, key=lambda node: -damage[node])


def _divergence(expected: Tensor, found: Tensor) -> float:
    """Return the sum over frames of the Kullback-Leibler divergence of (T', V)."""
    return float((expected.exp() * (expected - found)).sum())


def _same_frames(exported: Exported, runtime: Runtime) -> None:
    """Refuse a model that gives other numbers of frames, or values that are not finite."""
    step = runtime.number("hop_length") if runtime.takes == AUDIO else 1
    source = exported.inputs[-1]
    for frames in range(1, exported.report["checked"]["lengths"] + 1):
        x = source[: frames * step]
        found, expected = runtime.run([x])[0], exported.runtime.run([x])[0]
        if found.shape != expected.shape or not bool(torch.isfinite(found).all()):
            rule = f"gives other frames, or values that are not finite, for {frames} frames"
            raise CheckpointError(runtime.source, [rule])


def _latencies(given: Reducer, runtimes: dict[str, Runtime]) -> dict[str, float]:
    """Return the median milliseconds of 10 s of the utterances, on one thread."""
    from nas_encoder.deploy.timing import measure, quiet_clock

    runtime = given.exported.runtime
    count = int(_SECONDS * runtime.number("sample_rate"))
    if runtime.takes != AUDIO:
        count //= runtime.number("hop_length")
    source = torch.cat(_some(given.inputs, _RANKING))
    x = source.repeat((-(-count // len(source)), *[1] * (source.dim() - 1)))[:count]
    calls = {name: lambda one=one: one.run([x]) for name, one in runtimes.items()}
    times = measure(calls, repeats=5, clock=quiet_clock("cpu"))
    return {name: round(1000 * float(found.median), 1) for name, found in times.items()}
