"""Measures encoders side by side: all in one process, in turns, at the same speech.

B batch, T frames, F features of a frame, N samples.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.benchmark import Measurement, set_torch_threads

from nas_encoder.bench.subjects import Subject
from nas_encoder.common.fields import (
    Declared,
    choice,
    flag,
    integer,
    number,
    option,
    precision,
    tuple_of,
)
from nas_encoder.common.problems import Problems, one_line
from nas_encoder.common.provenance import environment
from nas_encoder.deploy.memory import peak_memory
from nas_encoder.deploy.timing import measure, quiet_clock
from nas_encoder.errors import ConfigError, NasEncoderError
from nas_encoder.network.complexity import count_macs

SCHEMA = 1
_WARM_UP = 2
Progress = Callable[[str], None]


@dataclass(frozen=True)
class EncoderSettings(Declared):
    """How encoders are measured.

    Attributes:
        speech: Seconds of the utterances of a batch, which is padded to the longest.
        frames: Frames of the only utterance instead, the same for all encoders.
        batch: Utterances of the batch, ``speech`` again and again; null for one of each length.
        device: ``cpu`` or ``cuda``.
        threads: Numbers of CPU threads, measured one after the other.
        precision: One of :data:`~nas_encoder.common.fields.PRECISIONS`.
        training: Whether training steps are measured too.
        seconds: Least time spent on each encoder, after warming up.
        repeats: Least number of rounds, in each of which every encoder is called once.
        seed: Seed of weights and inputs.
    """

    speech: tuple[float, ...] = option((10.0,), tuple_of(number(0, 36000, above=True), 1, 4096))
    frames: int | None = option(None, integer(1, 10**6))
    batch: int | None = option(None, integer(1, 4096))
    device: str = option("cpu", choice("device", ("cpu", "cuda")))
    threads: tuple[int, ...] = option(
        (1,), tuple_of(integer(1, 1024), 1, 64, once="a number of threads")
    )
    precision: str = option("32-true", precision)
    training: bool = option(True, flag)
    seconds: float = option(0.2, number(0, 3600))
    repeats: int = option(10, integer(3, 10**6))
    seed: int = option(0, integer(0, 2**63 - 1))

    def conflicts(self, found: Problems) -> None:
        """Check that the device is available, and that a batch has all lengths.

        PyTorch 2.13's backward of convolutions in bf16 on a CPU ends the process for some sizes
        (of cells with 80 features), so such training steps are refused.
        """
        if self.training and self.device == "cpu" and self.precision == "bf16-mixed":
            rule = "training steps in bf16 can crash PyTorch on a CPU; leave them out"
            found.conflict("precision", rule, "training")
        if self.device == "cuda" and not torch.cuda.is_available():
            found.add("device", "this machine has no CUDA device")
        if self.device == "cuda" and len(self.threads) > 1:
            found.conflict("threads", "must be one number with a GPU", "device")
        if self.batch is not None and self.batch < len(self.speech):
            rule = f"must be at least {len(self.speech)}, one utterance of each length"
            found.conflict("batch", f"{rule}, got {self.batch}", "speech")

    def lengths(self, shift: float) -> list[int]:
        """Return the frames of each utterance of the batch for frames of ``shift`` seconds."""
        if self.frames is not None:
            return [self.frames] * (self.batch or 1)
        count = self.batch or len(self.speech)
        return [max(1, round(self.speech[n % len(self.speech)] / shift)) for n in range(count)]


@dataclass(frozen=True)
class Batch:
    """What an encoder is called with: x (B, T, F) or (B, N), lengths (B,), and their seconds."""

    x: Tensor
    lengths: Tensor
    seconds: float


def batch_for(subject: Subject, settings: EncoderSettings) -> Batch:
    """Return a batch of noise; its speech is as long for all encoders, its frames may not be."""
    lengths = settings.lengths(subject.shift)
    shape = (len(lengths), max(lengths), *(() if subject.waveform else (subject.features,)))
    generator = torch.Generator().manual_seed(settings.seed)
    x = torch.randn(shape, generator=generator)
    for row, length in enumerate(lengths):
        x[row, length:] = 0.0
    seconds = sum(lengths) * subject.shift
    return Batch(x.to(settings.device), torch.tensor(lengths, device=settings.device), seconds)


def problems_of(subjects: Sequence[Subject], settings: EncoderSettings, reference: str) -> None:
    """Raise ConfigError, with all problems, unless these can be measured like this."""
    found = settings.problems()
    labels = [subject.label for subject in subjects]
    if twice := sorted({label for label in labels if labels.count(label) > 1}):
        found.append(f"encoders: {', '.join(twice)} twice; give labels, as LABEL={twice[0]}")
    if reference not in labels:
        found.append(f"reference: must be one of {', '.join(labels)}, got {reference!r}")
    if settings.frames is not None:
        given = [subject.label for subject in subjects if subject.waveform]
        found += [f"frames: '{label}' takes samples; give --speech" for label in given]
    if settings.precision != "32-true":
        given = [subject.label for subject in subjects if subject.module is None]
        found += [f"precision: '{label}' has its own, of the file" for label in given]
    if found:
        raise ConfigError("bench", found)


def benchmark(
    subjects: Sequence[Subject],
    settings: EncoderSettings,
    reference: str = "",
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Measure encoders in turns.

    Args:
        subjects: The encoders.
        settings: How.
        reference: Label of the encoder that ratios are to; the first by default.
        progress: Called with what is measured next.

    Returns:
        The document: ``settings``, ``environment``, ``load`` (of the last minute, per core) and
        ``networks``, a row for each with ``parameters``, ``macs`` (of its longest utterance),
        ``inference`` and ``step`` (by threads: ``ms``, ``iqr_ms``, ``each_ms``, ``rtf``, and
        ``ratio`` to the reference, the median of the ratios in each round) and ``memory_mib``;
        null where a file cannot tell.

    Raises:
        ConfigError: A setting is wrong, a label is not unique, or an encoder fails on the batch.
    """
    reference = reference or subjects[0].label
    problems_of(subjects, settings, reference)
    say = progress or (lambda text: None)
    batches = {subject.label: batch_for(subject, settings) for subject in subjects}
    load = os.getloadavg()[0] / (os.cpu_count() or 1)
    rows = []
    for subject in subjects:
        say(f"{subject.label}: size and memory")
        rows.append(_sizes(subject, batches[subject.label], settings))
    for threads in settings.threads:
        with set_torch_threads(threads if settings.device == "cpu" else torch.get_num_threads()):
            for what, times in _times(subjects, batches, settings, threads, say).items():
                for row in rows:
                    if row["label"] in times:
                        seconds = batches[row["label"]].seconds
                        row[what][str(threads)] = _summary(row["label"], times, seconds, reference)
    return {
        "schema": SCHEMA,
        "reference": reference,
        "settings": settings.to_dict(),
        "environment": environment(),
        "load": round(load, 2),
        "networks": rows,
    }


def _sizes(subject: Subject, batch: Batch, settings: EncoderSettings) -> dict[str, Any]:
    """Return what does not depend on the clock; whatever an encoder fails with names it."""
    module, longest = subject.module, int(batch.lengths.max())
    macs: int | None = None
    memory: dict[str, float | None] = {"inference": None, "step": None}
    try:
        if module is not None:
            torch.manual_seed(settings.seed)
            macs = count_macs(module, longest, subject.features)
            call = partial(_infer, subject, batch, settings)
            memory["inference"] = _mib(peak_memory(module.eval(), batch.x, call))
            if settings.training:
                step = partial(_step, module, batch, settings)
                memory["step"] = _mib(peak_memory(module.train(), batch.x, step, training=True))
                module.zero_grad(set_to_none=True)
        else:
            subject.encode(batch.x, batch.lengths)
    except Exception as error:  # those of a toolkit's encoder have no common base but this
        ours = isinstance(error, NasEncoderError)
        said = one_line(error if ours else f"{type(error).__name__}: {error}")
        shape = tuple(batch.x.shape)
        raise ConfigError(subject.label, [f"fails on a batch of shape {shape}: {said}"]) from error
    return {
        "label": subject.label,
        "source": subject.source.text,
        "kind": subject.source.kind,
        "genotype": subject.source.name if subject.genotype else None,
        "hash": subject.genotype,
        "note": subject.note,
        "features": subject.features,
        "frame_shift": subject.shift,
        "lengths": batch.lengths.tolist(),
        "speech_seconds": batch.seconds,
        "parameters": subject.parameters,
        "macs": macs,
        "memory_mib": memory,
        "inference": {},
        "step": {},
    }


def _times(
    subjects: Sequence[Subject],
    batches: Mapping[str, Batch],
    settings: EncoderSettings,
    threads: int,
    say: Progress,
) -> dict[str, dict[str, Measurement]]:
    clock = quiet_clock(settings.device)
    for subject in subjects:
        if subject.setup is not None:
            subject.setup(threads)
        if subject.module is not None:
            subject.module.eval()
    say(f"inference, {threads} threads: {len(subjects)} encoders in turns")
    calls = {s.label: partial(_infer, s, batches[s.label], settings) for s in subjects}
    with torch.inference_mode():
        found = {"inference": measure(calls, settings.repeats, settings.seconds, _WARM_UP, clock)}
    trained = {s.label: s.module.train() for s in subjects if s.module is not None}
    if settings.training and trained:
        say(f"training step, {threads} threads: {len(trained)} encoders in turns")
        steps = {
            label: partial(_step, module, batches[label], settings)
            for label, module in trained.items()
        }
        found["step"] = measure(steps, settings.repeats, settings.seconds, _WARM_UP, clock)
        for module in trained.values():
            module.zero_grad(set_to_none=True)
    return found


def _mixed(settings: EncoderSettings) -> AbstractContextManager[Any]:
    if settings.precision != "bf16-mixed":
        return nullcontext()
    return torch.autocast(settings.device, torch.bfloat16)


def _infer(subject: Subject, batch: Batch, settings: EncoderSettings) -> None:
    with _mixed(settings):
        subject.encode(batch.x, batch.lengths)


def _step(module: nn.Module, batch: Batch, settings: EncoderSettings) -> None:
    """Run a training step of the encoder alone: no optimizer, whose time is that of the sizes."""
    module.zero_grad(set_to_none=True)
    with _mixed(settings):
        output = module(batch.x, batch.lengths)[0]
    output.float().square().mean().backward()


def _summary(
    label: str, times: Mapping[str, Measurement], seconds: float, reference: str
) -> dict[str, Any]:
    own = times[label]
    found: dict[str, Any] = {
        "ms": 1e3 * own.median,
        "iqr_ms": 1e3 * own.iqr,
        "each_ms": [1e3 * value for value in own.times],
        "rtf": own.median / seconds,
        "ratio": None,
    }
    if reference in times:  # an exported file has no training step
        rounds = zip(own.times, times[reference].times, strict=True)
        found["ratio"] = statistics.median(mine / theirs for mine, theirs in rounds)
    return found


def _mib(count: int) -> float:
    return round(count / 2**20, 3)
