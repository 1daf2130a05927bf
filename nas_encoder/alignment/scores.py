"""Scores of a recording of any length, in chunks: memory does not grow with the recording.

Every chunk has audio beside it on both sides, whose frames are left out, and begins at an output
frame of the whole recording. N samples, T frames, V classes, C columns (see
:data:`~nas_encoder.alignment.trellis.BLANK`, then the tokens that a text needs).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from nas_encoder.alignment.model import CtcModel
from nas_encoder.alignment.timing import Timing
from nas_encoder.errors import DataError, InputError, UtteranceTooShortError

Read = Callable[[int, int], npt.NDArray[np.float32]]
"""(first sample, number of samples) -> audio in -1 to 1."""


@dataclass(frozen=True)
class Chunks:
    """How a recording is cut.

    Attributes:
        seconds: Of a chunk.
        context: Seconds beside it, on each side.
    """

    seconds: float = 30.0
    context: float = 5.0

    def of(self, samples: int, timing: Timing) -> list[tuple[int, int, int, int]]:
        """Return (first sample, samples to read, first frame, frame after the last) of each.

        Frames are counted over the whole recording; the last chunk's end is only a bound.
        """
        size = max(1, round(self.seconds * timing.sampling_rate / timing.period))
        beside = max(1, math.ceil(self.context * timing.sampling_rate / timing.period))
        bound = math.ceil(samples / timing.period) + 8
        # A rest that is shorter than the context belongs to the chunk before it.
        count = max(1, math.ceil((samples / timing.period - beside) / size))
        rows = []
        for number in range(count):
            begin, end = number * size, (number + 1) * size if number < count - 1 else bound
            first = max(0, begin - beside) * timing.period
            last = min(samples, (end + beside) * timing.period)
            rows.append((first, last - first, begin, end))
        return rows


def columns_of(model: CtcModel, classes: Sequence[int]) -> tuple[list[int], dict[int, int]]:
    """Return the classes of the columns from 2 on, and class -> column."""
    wanted = sorted(set(classes) - {model.blank})
    return wanted, {one: place for place, one in enumerate(wanted, 2)}


def scores_of(
    model: CtcModel,
    timing: Timing,
    read: Read,
    samples: int,
    wanted: Sequence[int],
    subject: str,
    chunks: Chunks = Chunks(),  # noqa: B008  it is frozen
    skip: int = 0,
) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
    """Yield (first frame, (T', C) scores) of each chunk of N samples, after the first ``skip``.

    Raises:
        DataError: The audio gives no frame, or a score that is no number.
    """
    for first, count, begin, end in chunks.of(samples, timing)[skip:]:
        audio = read(first, count)
        try:
            with torch.inference_mode():
                logs = model.log_probs(torch.from_numpy(audio)).float().cpu()
        except (UtteranceTooShortError, InputError) as error:
            raise DataError(subject, [f"the model cannot take it: {error}"]) from error
        offset = begin - first // timing.period
        logs = logs[offset : offset + end - begin]
        if not len(logs):
            raise DataError(subject, [f"{count} samples give no frame of the model"])
        if not bool(torch.isfinite(logs.sum())) and bool(torch.isnan(logs).any()):
            raise DataError(subject, ["the model's scores are no numbers; look at the audio"])
        columns = [logs[:, [model.blank]], logs.amax(dim=1, keepdim=True), logs[:, list(wanted)]]
        yield begin, torch.cat(columns, dim=1).numpy()
