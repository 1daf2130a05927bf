"""Compares an exported graph with torch: at every length, alone and in padded batches.

Letters in shapes: N samples, T frames, F features, T' output frames, V classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError
from nas_encoder.export.recognizer import AUDIO, Parts, reference
from nas_encoder.export.runtime import Runtime

# Log-probabilities may differ so much. With the features inside, the Fourier transform is another.
TOLERANCE = {AUDIO: 5e-3, "features": 1e-3}
_RELATIVE = 1e-4
# What is past the ends of utterances in batches: loud, so that it is noticed if it is not masked.
_PADDING = {AUDIO: 0.9, "features": 30.0}
_BATCH = 8
# Rounding in the features, relative to full scale, and how much worse the graph's may be.
_ROUNDING, _FACTOR, _DRAWS = 3e-7, 10.0, 3


@dataclass(frozen=True)
class Checked:
    """What was compared, and the largest difference.

    Attributes:
        lengths: Every number of frames from 1 to this one was tried.
        utterances: Whole utterances.
        worst: Largest absolute difference of a value, but for the unstable inputs.
        tolerance: What is allowed, plus 1e-4 of the value.
        unstable: Inputs that differ by more, as torch's own result does if its input is changed as
            rounding changes it: a band of features that is constant, in digital silence or pure
            tones, divided by its deviation of nearly zero.
    """

    lengths: int
    utterances: int
    worst: float
    tolerance: float
    unstable: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


def check(runtime: Runtime, parts: Parts, utterances: Sequence[Tensor], lengths: int) -> Checked:
    """Compare an exported model with torch.

    Args:
        runtime: The exported model.
        parts: The model in torch.
        utterances: Each (N,) or (T, F), as the graph takes them.
        lengths: Every number of frames from 1 to this one is tried, alone and in batches of
            unequal lengths, with beginnings of the utterances.

    Raises:
        CheckpointError: Something differs, all is listed; or half of the inputs are unstable.
    """
    takes = runtime.takes
    hop = runtime.number("hop_length") if takes == AUDIO else 1
    pieces = pieces_of(utterances, lengths, hop)
    expected = [reference(parts, piece, takes) for piece in pieces]
    whole = [reference(parts, one, takes) for one in utterances]
    # The batches have lengths from all over the range.
    groups = -(-len(pieces) // _BATCH)
    spread = [list(range(first, len(pieces), groups)) for first in range(groups)]
    places = list(range(len(utterances)))
    plan = [
        ("alone", pieces, expected, [[place] for place in range(len(pieces))]),
        ("in a batch", pieces, expected, spread),
        ("alone", utterances, whole, [[place] for place in places]),
        ("in a batch", utterances, whole, [places[i : i + 4] for i in places[::4]]),
    ]
    problems, worst, unstable, count = [], 0.0, 0, 0
    for how, inputs, answers, batches in plan:
        for batch in batches:
            found = runtime.run([inputs[place] for place in batch], _PADDING[takes])
            for place, values in zip(batch, found, strict=True):
                count += 1
                difference, problem = compare(values, answers[place], TOLERANCE[takes])
                if problem and difference <= _FACTOR * instability(
                    parts, inputs[place], answers[place], takes
                ):
                    unstable += 1
                    continue
                worst = max(worst, difference)
                if problem:
                    unit = "samples" if takes == AUDIO else "frames"
                    problems.append(f"an input of {len(inputs[place])} {unit}, {how}: {problem}")
    if problems:
        more = "the exported graph differs from torch, so nothing is written"
        raise CheckpointError(runtime.source, [more, *problems])
    if 2 * unstable >= count:
        rule = f"of {count} inputs {unstable} have constant bands, on which rounding decides; give "
        raise CheckpointError(runtime.source, [f"{rule}recorded speech to check it with"])
    return Checked(lengths, len(utterances), worst, TOLERANCE[takes], unstable)


def instability(parts: Parts, x: Tensor, expected: Tensor, takes: str) -> float:
    """Return by how much torch's own result changes with changes as small as rounding."""
    generator = torch.Generator().manual_seed(0)
    size = _ROUNDING * max(1.0 if takes == AUDIO else 0.0, float(x.abs().max()))
    found = 0.0
    for _ in range(_DRAWS):
        other = reference(parts, x + size * torch.randn(x.shape, generator=generator), takes)
        if expected.numel():
            found = max(found, float((other - expected).abs().max()))
    return found


def compare(found: Tensor, expected: Tensor, tolerance: float) -> tuple[float, str]:
    """Return the largest difference, and what is wrong with it if anything is."""
    if found.shape != expected.shape:
        return float("inf"), f"gives {tuple(found.shape)} values, torch {tuple(expected.shape)}"
    if not expected.numel():
        return 0.0, ""
    difference = (found - expected).abs()
    worst = float(difference.max())
    excess = difference - tolerance - _RELATIVE * expected.abs()
    if bool((excess <= 0).all()):  # false for NaN
        return worst, ""
    frame, value = divmod(int(excess.nan_to_num(nan=float("inf")).argmax()), found.size(1))
    return worst, (
        f"value {value} of output frame {frame} is {float(found[frame, value]):g}, in torch "
        f"{float(expected[frame, value]):g}; {tolerance:g} is allowed"
    )


def pieces_of(utterances: Sequence[Tensor], lengths: int, hop: int) -> list[Tensor]:
    """Return beginnings of utterances of every length; of samples also between whole hops."""
    source = torch.cat([*utterances])
    while len(source) < (lengths + 1) * hop:
        source = torch.cat((source, source))
    sizes = [1, max(1, hop // 2)] if hop > 1 else []
    sizes += [frames * hop + (37 * frames % hop) for frames in range(1, lengths + 1)]
    spare = len(source) - max(sizes)
    starts = [(977 * hop * number) % (spare + 1) for number in range(len(sizes))]
    return [source[start : start + size] for start, size in zip(starts, sizes, strict=True)]
