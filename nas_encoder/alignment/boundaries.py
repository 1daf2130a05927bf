"""How far found boundaries of words or phones are from true ones.

As usual for TIMIT, a boundary between two units is counted once, and the ends of the recording are
not counted. Errors are signed: positive if the found boundary is late.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from nas_encoder.common.problems import show
from nas_encoder.errors import DataError

TOLERANCES = (10, 20, 50)
"""Milliseconds."""

_SAME = 1e-4  # seconds: times of one boundary that files round differently


@dataclass(frozen=True)
class Interval:
    """A word, phone or token with its start and end in seconds."""

    start: float
    end: float
    label: str


@dataclass(frozen=True)
class BoundaryErrors:
    """Differences between found and true boundaries, in milliseconds.

    Attributes:
        count: Number of boundaries.
        median_ms: Median of the absolute errors.
        mean_ms: Mean of the absolute errors.
        bias_ms: Mean of the signed errors; positive if the found boundaries are late.
        spread_ms: Median of the absolute errors after the median of the signed ones is taken off:
            what is left if the times are shifted as a whole.
        within_10: Share of the boundaries with an error of at most 10 ms.
        within_20: The same for 20 ms.
        within_50: The same for 50 ms.
        signed_ms: Utterance -> its signed errors, for intervals and tests of significance.
    """

    count: int
    median_ms: float
    mean_ms: float
    bias_ms: float
    spread_ms: float
    within_10: float
    within_20: float
    within_50: float
    signed_ms: Mapping[str, tuple[float, ...]]

    def figures(self) -> dict[str, float]:
        """Return all but the single errors."""
        return {
            name: value for name, value in vars(self).items() if isinstance(value, (int, float))
        }


def boundary_differences(
    reference: Sequence[Interval],
    found: Sequence[Interval],
    subject: str,
    duration: float | None = None,
) -> tuple[float, ...]:
    """Return found minus true boundaries of one utterance, in milliseconds.

    Args:
        reference: True units in order of time; pauses between them are allowed.
        found: The same units as aligned.
        subject: Name of the utterance, for errors.
        duration: Of the recording, in seconds. Its ends are no boundaries.

    Raises:
        DataError: The units differ, or the reference's times are not in order.
    """
    labels, others = [one.label for one in reference], [one.label for one in found]
    if labels != others:
        at = next(
            (i for i, pair in enumerate(zip(labels, others, strict=False)) if pair[0] != pair[1]),
            min(len(labels), len(others)),
        )
        what = " and ".join(show(" ".join(row[at : at + 3])) for row in (labels, others))
        raise DataError(
            subject,
            [
                f"reference and alignment must have the same units, got {len(labels)} and "
                f"{len(others)}, which differ from unit {at + 1} on: {what}"
            ],
        )
    times = [time for one in reference for time in (one.start, one.end)]
    if any(after < before - _SAME for before, after in zip(times[:-1], times[1:], strict=True)):
        raise DataError(subject, ["the reference's units must be in order of time"])
    if not times:
        return ()
    pairs: list[tuple[float, float]] = [(reference[0].start, found[0].start)]
    for index in range(1, len(reference)):
        left, right = reference[index - 1], reference[index]
        if right.start - left.end <= _SAME:
            middle = (found[index - 1].end + found[index].start) / 2
            pairs.append(((left.end + right.start) / 2, middle))
        else:
            pairs += [(left.end, found[index - 1].end), (right.start, found[index].start)]
    pairs.append((reference[-1].end, found[-1].end))
    last = float("inf") if duration is None else duration
    return tuple(1000.0 * (ours - true) for true, ours in pairs if _SAME < true < last - _SAME)


def summarize(signed_ms: Mapping[str, Sequence[float]]) -> BoundaryErrors:
    """Return the figures of all utterances' signed errors in milliseconds.

    Raises:
        DataError: There is no boundary.
    """
    import numpy as np

    kept = {name: tuple(map(float, errors)) for name, errors in signed_ms.items()}
    errors = np.array([error for row in kept.values() for error in row])
    if not len(errors):
        raise DataError("boundary errors", ["no boundary lies inside an utterance"])
    absolute = np.abs(errors)
    # A frame's time is a sum of rounded numbers: 10 ms may be 10.000000001.
    tens, twenties, fifties = (float(np.mean(absolute <= ms + 1e-6)) for ms in TOLERANCES)
    return BoundaryErrors(
        count=len(errors),
        median_ms=float(np.median(absolute)),
        mean_ms=float(absolute.mean()),
        bias_ms=float(errors.mean()),
        spread_ms=float(np.median(np.abs(errors - np.median(errors)))),
        within_10=tens,
        within_20=twenties,
        within_50=fifties,
        signed_ms=kept,
    )
