"""Aligns utterances to the scores of a recording.

Two methods find the utterances. ``exact`` is the best CTC path through all of them
(:mod:`~nas_encoder.alignment.trellis`). ``ctc-segmentation`` is the package of that name
(Kuerzinger et al. 2020, arXiv 2007.09127), which ESPnet and NeMo use: a table of windows of frames
for each token. Within an utterance, words and tokens are those of the best CTC path in both.

T frames, C columns of scores.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt

from nas_encoder.alignment.boundaries import Interval
from nas_encoder.alignment.model import CtcModel
from nas_encoder.alignment.texts import Line
from nas_encoder.alignment.timing import Timing
from nas_encoder.alignment.trellis import BLANK, FILLER, best_path, states_of
from nas_encoder.alignment.units import (
    REACH,
    Span,
    confidence,
    spans_of,
    token_intervals,
    words_of,
)
from nas_encoder.errors import DataError, MissingDependencyError

METHODS = ("exact", "ctc-segmentation")
_WINDOW, _LEAST_WINDOW = 8000, 500  # frames: the package's own; below, texts get lost
Scores = npt.NDArray[np.floating]


@dataclass(frozen=True)
class AlignOptions:
    """How to align.

    Attributes:
        method: One of :data:`METHODS`.
        unrelated: Whether speech between utterances may be missing from the text. (Before the
            first and after the last one it always may.)
        padding: Seconds of a segment beside its utterance, at most half of a gap.
        shift_ms: Milliseconds added to all times, to take off a known bias.
        memory_mb: Most memory of ctc-segmentation's table.
    """

    method: str = "exact"
    unrelated: bool = False
    padding: float = REACH
    shift_ms: float = 0.0
    memory_mb: int = 1000


@dataclass(frozen=True)
class AlignedUtterance:
    """Where an utterance is.

    Attributes:
        id: Its name.
        text: Its text.
        start: Start of the segment in seconds, padding included.
        end: End of the segment.
        confidence: Mean log-probability in the worst 30 frames; 0 is certain.
        tokens: Its tokens.
        words: Its words.
        speaker: Who says it, if known.
    """

    id: str
    text: str
    start: float
    end: float
    confidence: float
    tokens: tuple[Interval, ...]
    words: tuple[Interval, ...]
    speaker: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return it in plain JSON types."""
        return asdict(self)

    @classmethod
    def from_dict(cls, row: Mapping[str, Any]) -> AlignedUtterance:
        """Return what :meth:`to_dict` wrote."""
        units = {name: tuple(Interval(**one) for one in row[name]) for name in ("tokens", "words")}
        return cls(**{**row, **units})


def align(
    scores: Scores,
    lines: Sequence[Line],
    columns: Mapping[int, int],
    model: CtcModel,
    timing: Timing,
    duration: float,
    subject: str,
    options: AlignOptions = AlignOptions(),  # noqa: B008  it is frozen
    show: Callable[[int], object] | None = None,
) -> list[AlignedUtterance]:
    """Align utterances, in the order in which they are said.

    Args:
        scores: (T, C) log-probabilities of a recording; may lie on disk.
        lines: The utterances.
        columns: Class of the model -> column.
        model: The model.
        timing: Its timing.
        duration: Seconds of the recording.
        subject: The recording, for errors.
        options: How.
        show: Told the number of frames passed since the last call (of the method ``exact``).

    Raises:
        DataError: The text is longer than so much audio can hold at the model's frame rate, its
            alignment needs more memory than is allowed, or ``shift_ms`` moves utterances out of
            the audio.
        MissingDependencyError: The package ctc-segmentation is not installed.
    """
    tokens = [[columns[one] for one in line.classes] for line in lines]
    states = states_of(tokens, FILLER if options.unrelated else BLANK)
    if states.fewest_frames > len(scores):
        raise DataError(
            subject,
            [
                f"the text needs at least {states.fewest_frames} output frames of the model "
                f"({states.fewest_frames * timing.seconds:.2f} s), the audio of {duration:.2f} s "
                f"has {len(scores)}: is it the text of this audio?"
            ],
        )
    if options.method == "exact":
        path = best_path(scores, states, show)
        spans = spans_of(path, states)
    elif options.method == "ctc-segmentation":
        spans, path, states = _by_segments(scores, tokens, timing, subject, options)
    else:
        known = ", ".join(METHODS)
        raise DataError(subject, [f"method: must be one of {known}, got {options.method!r}"])
    firsts = np.cumsum([0, *map(len, tokens)])
    groups = [spans[a:b] for a, b in zip(firsts[:-1], firsts[1:], strict=True)]
    found, outside = [], []
    shift = options.shift_ms / 1000
    for index, (line, group) in enumerate(zip(lines, groups, strict=True)):
        before = groups[index - 1][-1].last if index else -np.inf
        after = groups[index + 1][0].first if index + 1 < len(groups) else np.inf
        intervals = [
            _within(one, shift, duration)
            for one in token_intervals(group, line.labels, timing, scores, tokens[index])
        ]
        if intervals[-1].end - intervals[0].start < 1 / timing.sampling_rate:
            outside.append(
                f"'{line.id}' lies outside the audio of {duration:.2f} s when its times are "
                f"shifted by {options.shift_ms:g} ms: take a smaller shift"
            )
        first, last = group[0].first, group[-1].last
        left = min(options.padding, (first - before - 1) * timing.seconds / 2)
        right = min(options.padding, (after - last - 1) * timing.seconds / 2)
        whole = Interval(
            timing.time(first - 0.5) - left, timing.time(last + 0.5) + right, line.text
        )
        whole = _within(whole, shift, duration)
        found.append(
            AlignedUtterance(
                line.id,
                line.text,
                whole.start,
                whole.end,
                confidence(scores, path, states, first, last),
                tuple(intervals),
                tuple(words_of(intervals, model)),
                line.speaker,
            )
        )
    if outside:
        raise DataError(subject, outside)
    return found


def _within(one: Interval, shift: float, duration: float) -> Interval:
    start, end = (min(max(time + shift, 0.0), duration) for time in (one.start, one.end))
    return Interval(start, end, one.label)


def _by_segments(
    scores: Scores,
    tokens: Sequence[Sequence[int]],
    timing: Timing,
    subject: str,
    options: AlignOptions,
) -> tuple[list[Span], npt.NDArray[np.int64], Any]:
    """Let ctc-segmentation find the utterances; return what the exact method returns."""
    try:
        package = import_module("ctc_segmentation")
    except ImportError as error:
        raise MissingDependencyError(
            "ctc-segmentation", "align", "the method 'ctc-segmentation'"
        ) from error
    count = sum(map(len, tokens)) + len(tokens) + 2
    window = min(_WINDOW, len(scores), int(options.memory_mb * 1e6 / (4 * count)))
    if window < min(_LEAST_WINDOW, len(scores)):
        need = 4 * count * _LEAST_WINDOW / 1e6
        raise DataError(
            subject,
            [
                f"ctc-segmentation needs at least {need:.0f} MB for {count} tokens; give more with "
                "--memory, or take the method 'exact'"
            ],
        )
    config = package.CtcSegmentationParameters(
        index_duration=timing.seconds,
        min_window_size=window,
        max_window_size=2 * window,
        blank=BLANK,
        blank_transition_cost_zero=options.unrelated,
        char_list=[""] * scores.shape[1],
    )
    matrix, begins = package.prepare_token_list(config, [np.array(row) for row in tokens])
    try:
        times, _, _ = package.ctc_segmentation(config, np.asarray(scores), matrix)
    except (AssertionError, IndexError) as error:  # what the package raises if it fails
        raise DataError(
            subject, [f"ctc-segmentation finds no alignment ({error}); try the method 'exact'"]
        ) from error
    # Frames at which the utterances' first tokens begin. Where the last ones end is left to the
    # exact path: the package takes their middle.
    onsets = [round(times[begin + 1] / timing.seconds) for begin in begins[:-1]]
    spans, path = [], np.zeros(len(scores), np.int64)
    states = states_of(tokens)
    place, low = 0, 0
    for row, following in zip(tokens, [*onsets[1:], len(scores)], strict=True):
        own = states_of([row])
        high = max(following, low + own.fewest_frames)
        if high > len(scores):
            raise DataError(
                subject, ["ctc-segmentation leaves an utterance no frames; try the method 'exact'"]
            )
        part = best_path(scores[low:high], own)
        path[low:high] = part + place
        found = [Span(one.first + low, one.last + low) for one in spans_of(part, own)]
        spans += found
        low = found[-1].last + 1
        place += len(own.column) - 1  # the gap is shared with the next utterance
    return spans, path, states
