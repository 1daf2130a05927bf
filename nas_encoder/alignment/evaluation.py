"""Boundary errors of a trained model against true boundaries, such as TIMIT's."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nas_encoder.alignment.align import AlignOptions, align
from nas_encoder.alignment.boundaries import (
    BoundaryErrors,
    Interval,
    boundary_differences,
    summarize,
)
from nas_encoder.alignment.model import CtcModel, open_model
from nas_encoder.alignment.scores import Chunks, columns_of, scores_of
from nas_encoder.alignment.texts import Line, read_lines
from nas_encoder.alignment.timing import Timing, measure_timing
from nas_encoder.data import open_cuts
from nas_encoder.data.findings import Findings
from nas_encoder.errors import DataError, UtteranceTooShortError

logger = logging.getLogger(__name__)

UNITS = ("phone", "word")


@dataclass(frozen=True)
class BoundaryReport:
    """What :func:`evaluate` found.

    Attributes:
        errors: The figures.
        unit: ``phone`` or ``word``.
        frame_ms: Milliseconds between the model's output frames: no boundary is found more
            exactly than by half of them, on average by a quarter.
        timing: Where they lie.
        utterances: Number of utterances aligned.
        left_out: Utterance -> why it could not be aligned.
    """

    errors: BoundaryErrors
    unit: str
    frame_ms: float
    timing: Timing
    utterances: int
    left_out: Mapping[str, str]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures in plain JSON types."""
        return {
            "unit": self.unit,
            "frame_ms": self.frame_ms,
            "utterances": self.utterances,
            "left_out": dict(self.left_out),
            **self.errors.figures(),
        }


def evaluate(
    model: CtcModel | str | Path,
    source: Any,
    unit: str = "phone",
    *,
    split: str | None = None,
    case: str = "as-is",
    shift_ms: float = 0.0,
    chunks: Chunks = Chunks(),  # noqa: B008  it is frozen
    show: Callable[[float], object] | None = None,
) -> BoundaryReport:
    """Align utterances whose boundaries are known, and measure how far they are off.

    Args:
        model: A model, or what :func:`~nas_encoder.alignment.model.open_model` opens.
        source: Cuts with alignments of this unit, as ``nas-encoder data prepare timit`` writes
            them from .PHN and .WRD files; anything that ``open_cuts`` opens, or a CutSet.
        unit: ``phone``: of models whose tokens are the phones of the cuts' texts; ``word``.
        split: Which part of a prepared folder.
        case: What is done to the letters of words: ``as-is``, ``lower`` or ``upper``.
        shift_ms: Milliseconds added to all times that are found.
        chunks: How utterances are cut for the model.
        show: Told the seconds of each utterance once it is aligned.

    Raises:
        DataError: A cut has no such alignment, its units are not those of the model, or its audio
            has another sampling rate; all are listed. Utterances whose text is longer than their
            frames can hold, or that the shift moves out of their audio, are left out, and listed in
            the report.
        CheckpointError: The model cannot be opened.
    """
    if unit not in UNITS:
        raise DataError("evaluation", [f"unit: must be one of {', '.join(UNITS)}, got {unit!r}"])
    if isinstance(model, (str, Path)):
        model = open_model(model)
    cuts = list(open_cuts(source, split=split))
    timing = measure_timing(model)
    references = _references(cuts, unit, model)
    rows = (
        (f"'{key}'", key, " ".join(one.label for one in units), None)
        for key, units in references.items()
    )
    lines, _ = read_lines(model, rows, "texts of the reference", case)
    signed: dict[str, tuple[float, ...]] = {}
    left_out: dict[str, str] = {}
    for cut, line in zip(cuts, lines, strict=True):
        found = _align_cut(cut, line, model, timing, shift_ms, chunks, left_out)
        if found is not None:
            reference = references[cut.id]
            if unit == "word" and len(found) == len(reference):  # pieces may be spelled otherwise
                names = [one.label for one in reference]
                found = [Interval(o.start, o.end, n) for o, n in zip(found, names, strict=True)]
            signed[cut.id] = boundary_differences(
                reference, found, f"utterance '{cut.id}'", cut.duration
            )
        if show is not None:
            show(cut.duration)
    if left_out:
        logger.warning("%d of %d utterances are left out", len(left_out), len(cuts))
    return BoundaryReport(
        summarize(signed), unit, 1000 * timing.seconds, timing, len(signed), left_out
    )


def _references(cuts: list[Any], unit: str, model: CtcModel) -> dict[str, list[Interval]]:
    findings, references = Findings("reference"), dict[str, list[Interval]]()
    for cut in cuts:
        items = (cut.supervisions[0].alignment or {}).get(unit)
        if not items:
            findings.add(
                f"has no true boundaries of {unit}s; `nas-encoder data prepare timit` keeps those "
                "of .PHN and .WRD files",
                f"'{cut.id}'",
            )
        elif cut.sampling_rate != model.sampling_rate:
            findings.add(f"the model takes {model.sampling_rate} Hz", f"'{cut.id}'")
        else:
            # Phones that a set leaves out have no name; their time is a pause.
            references[cut.id] = [
                Interval(one.start, one.start + one.duration, one.symbol)
                for one in items
                if one.symbol
            ]
    findings.raise_any()
    return references


def _align_cut(
    cut: Any,
    line: Line,
    model: CtcModel,
    timing: Timing,
    shift_ms: float,
    chunks: Chunks,
    left_out: dict[str, str],
) -> list[Interval] | None:
    samples = np.ascontiguousarray(cut.load_audio()[0], np.float32)
    wanted, columns = columns_of(model, line.classes)
    subject = f"utterance '{cut.id}'"

    def read(first: int, count: int) -> Any:
        return samples[first : first + count]

    try:
        rows = scores_of(model, timing, read, len(samples), wanted, subject, chunks)
        parts = [part for _, part in rows]
    except DataError as error:
        if not isinstance(error.__cause__, UtteranceTooShortError):
            raise  # broken audio or a broken model is no matter of length
        left_out[cut.id] = error.problems[0]
        return None
    options = AlignOptions(shift_ms=shift_ms)
    try:
        (found,) = align(
            np.concatenate(parts), [line], columns, model, timing, cut.duration, subject, options
        )
    except DataError as error:  # the text is too long for its frames, or is shifted out
        left_out[cut.id] = error.problems[0]
        return None
    return list(found.words)
