"""From a path through the states to tokens, words and confidences."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from nas_encoder.alignment.boundaries import Interval
from nas_encoder.alignment.model import CtcModel
from nas_encoder.alignment.timing import Timing
from nas_encoder.alignment.trellis import Ints, States

SPACE, WORD_START = "<space>", "\u2581"
REACH = 0.5
"""Seconds by which a unit may reach into what follows or precedes it (Kuerzinger et al. 2020)."""

WINDOW = 30
"""Frames of the windows of a confidence (Kuerzinger et al. 2020, section 2.2)."""


@dataclass(frozen=True)
class Span:
    """A token's first and last frame on the path."""

    first: int
    last: int


def spans_of(path: Ints, states: States) -> list[Span]:
    """Return the frames of all tokens, in order."""
    tokens = states.token[path]
    frames = np.flatnonzero(tokens >= 0)
    numbers = tokens[frames]
    starts = np.flatnonzero(np.diff(numbers, prepend=-1))
    ends = np.append(starts[1:], len(numbers)) - 1
    return [Span(int(frames[a]), int(frames[b])) for a, b in zip(starts, ends, strict=True)]


def confidence(
    scores: npt.NDArray[np.floating], path: Ints, states: States, first: int, last: int
) -> float:
    """Return the lowest mean log-probability of a frame on the path, over windows of 30 frames.

    Kuerzinger et al. 2020 (arXiv 2007.09127), section 2.2: so one wrong word in a long utterance
    is seen. Shorter utterances are one window.
    """
    rows = np.asarray(scores[first : last + 1], np.float64)
    values = rows[np.arange(len(rows)), states.column[path[first : last + 1]]]
    size = min(WINDOW, len(values))
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return float(((sums[size:] - sums[:-size]) / size).min())


def token_intervals(
    spans: Sequence[Span],
    labels: Sequence[str],
    timing: Timing,
    scores: npt.NDArray[np.floating],
    columns: Sequence[int],
) -> list[Interval]:
    """Return the times of an utterance's tokens.

    A CTC model emits a token in few frames and blanks between two tokens, which belong to neither.
    They are divided where the posteriors of the two tokens say: so that the sum of the scores of
    the first token before the boundary and of the second after it is the greatest. (In the middle,
    if the blanks last longer than twice :data:`REACH`, of which each token then gets as much.)

    Args:
        spans: Frames of the tokens.
        labels: Their names.
        timing: The model's.
        scores: (T, C).
        columns: Their columns.
    """
    reach = REACH / timing.seconds
    ends = []
    for index, (left, right) in enumerate(zip(spans[:-1], spans[1:], strict=True)):
        if right.first - left.last - 1 > 2 * reach:
            ends.append((left.last + 0.5 + reach, right.first - 0.5 - reach))
        else:
            between = np.asarray(scores[left.last + 1 : right.first], np.float64)
            one, other = between[:, columns[index]], between[:, columns[index + 1]]
            before = np.concatenate([[0.0], np.cumsum(one)])
            after = np.concatenate([np.cumsum(other[::-1])[::-1], [0.0]])
            best = np.flatnonzero(before + after >= (before + after).max() - 1e-9)
            at = left.last + 0.5 + float(best[0] + best[-1]) / 2
            ends.append((at, at))
    starts = [spans[0].first - 0.5, *(after for _, after in ends)]
    stops = [*(before for before, _ in ends), spans[-1].last + 0.5]
    return [
        Interval(timing.time(start), timing.time(stop), label)
        for start, stop, label in zip(starts, stops, labels, strict=True)
    ]


def words_of(tokens: Sequence[Interval], model: CtcModel) -> list[Interval]:
    """Join tokens into words: between spaces, at pieces that begin a word, or each one.

    In a language written without spaces, or in phones, every token is a word.
    """
    if model.joins == "word" or (model.joins == "char" and SPACE not in model.tokens):
        return list(tokens)
    groups: list[list[Interval]] = [[]]
    for one in tokens:
        if model.joins == "char" and one.label == SPACE:
            groups.append([])
        elif model.joins == "bpe" and one.label.startswith(WORD_START):
            rest = one.label.removeprefix(WORD_START)
            groups.append([Interval(one.start, one.end, rest)])
        else:
            groups[-1].append(one)
    return [
        Interval(group[0].start, group[-1].end, "".join(one.label for one in group))
        for group in groups
        if group
    ]
