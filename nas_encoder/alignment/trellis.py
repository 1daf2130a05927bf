"""Exact Viterbi alignment of tokens to the frames of a CTC model, in little memory.

The states are those of CTC (Graves et al. 2006): tokens with an optional blank between them, which
two equal tokens need. Between utterances stands a gap instead of a blank. The forward pass leaves
out states at both ends of the text that are far worse than the best, and keeps its scores every
:data:`_KEEP` frames only; the way back computes the frames in between again. So an hour of speech
takes some MB. The path is the best of all nevertheless: a state that was left out can lead to no
better score than its own plus that of the best class of every later frame. If this is above the
path found, the search is repeated with more states.

T frames, C columns of scores, S states.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BLANK, FILLER = 0, 1
"""Columns of scores that are no tokens: the blank, and the best class of each frame."""

PENALTY = 1e-3
"""Nats by which a frame of a gap that holds anything is worse than its best class: a token that is
the best class stays a token."""

_KEEP = 1024  # frames
_TRIM = 8  # frames between trims
_BEAM = 400.0  # nats below the best


@dataclass(frozen=True)
class States:
    """The states of a sequence of utterances.

    Attributes:
        column: (S,), the column of scores of each state.
        token: (S,), number of the token, counted over all utterances; -1 for blanks and gaps.
        skips: (S,), whether the state may follow the one before the last.
    """

    column: Ints
    token: Ints
    skips: npt.NDArray[np.bool_]

    @property
    def fewest_frames(self) -> int:
        """The fewest frames that hold all tokens, and a blank between equal ones."""
        tokens = self.token >= 0
        return int(tokens.sum() + (tokens[2:] & tokens[:-2] & ~self.skips[2:]).sum())


def states_of(utterances: Sequence[Sequence[int]], inner_gap: int = BLANK) -> States:
    """Return the states of utterances.

    Args:
        utterances: Columns of their tokens; none is empty.
        inner_gap: Column of the gaps between utterances: blanks, or anything (:data:`FILLER`). The
            first and the last gap hold anything.
    """
    column, token, count = [FILLER], [-1], 0
    for number, tokens in enumerate(utterances):
        for place, one in enumerate(tokens):
            if place:
                column.append(BLANK)
                token.append(-1)
            column.append(one)
            token.append(count)
            count += 1
        column.append(FILLER if number == len(utterances) - 1 else inner_gap)
        token.append(-1)
    columns, tokens_ = np.array(column), np.array(token)
    skips = np.zeros(len(columns), bool)
    skips[2:] = (tokens_[2:] >= 0) & (tokens_[:-2] >= 0) & (columns[2:] != columns[:-2])
    return States(columns, tokens_, skips)


def best_path(
    scores: npt.NDArray[np.floating],
    states: States,
    show: Callable[[int], object] | None = None,
) -> Ints:
    """Return the state of each frame on the best path.

    Args:
        scores: (T, C) log-probabilities; may lie on disk, is read in order twice.
        states: S of them; T must be at least ``states.fewest_frames``.
        show: Told the number of frames passed since the last call.

    Returns:
        (T,) states; no path is better, and equal ones stay longer in later states.
    """
    beam = _BEAM
    while True:
        forward = _forward(scores, states, beam, show)
        if forward.lost <= forward.score:
            break
        beam *= 8
    frames, kept = len(scores), forward.kept
    path = np.empty(frames, np.int64)
    state = forward.last
    for block in range(len(kept) - 2, -1, -1):
        start = 1 + block * _KEEP
        rows = _rows(scores, start)
        state = _back(path[start : start + len(rows)], rows, *kept[block], states, state)
    path[0] = state
    return path


@dataclass(frozen=True)
class _Forward:
    """Scores that were kept as (first state, scores); the best last state and its score."""

    kept: list[tuple[int, Floats]]
    last: int
    score: float
    lost: float  # the most that a path through a state left out could reach


def _forward(
    scores: npt.NDArray[np.floating],
    states: States,
    beam: float,
    show: Callable[[int], object] | None,
) -> _Forward:
    frames, count = len(scores), len(states.column)
    reachable = _suffix_sums(scores)
    lost = -np.inf
    low = 0
    current = _rows(scores, 0)[0, states.column[:2]]
    kept = [(low, current)]
    for start in range(1, frames, _KEEP):
        rows = _rows(scores, start)
        for frame, row in enumerate(rows, start):
            current = _step(current, row, states, low)
            if frame % _TRIM == 0:
                enough = np.flatnonzero(current >= current.max() - beam)
                first, last = int(enough[0]), int(enough[-1]) + 1
                if first or last < len(current):
                    ends = max(
                        current[:first].max(initial=-np.inf), current[last:].max(initial=-np.inf)
                    )
                    lost = max(lost, float(ends) + reachable(frame))
                    low, current = low + first, current[first:last].copy()
        kept.append((low, current))
        if show is not None:
            show(len(rows))
    ends = np.full(2, -np.inf)  # of the last token and the last gap
    for place in (0, 1):
        index = count - 2 + place - low
        if 0 <= index < len(current):
            ends[place] = current[index]
    last = count - 1 if ends[1] >= ends[0] else count - 2
    # The sums are rounded: what is as good as the path is not better.
    return _Forward(kept, last, float(ends.max()), lost - 1e-6 * frames)


def _rows(scores: npt.NDArray[np.floating], start: int) -> Floats:
    """Return the scores of the frames up to the next that are kept."""
    rows = np.array(scores[start : start + _KEEP], np.float64)
    rows[:, FILLER] -= PENALTY
    return rows


def _suffix_sums(scores: npt.NDArray[np.floating]) -> Callable[[int], float]:
    """Return a function from a frame to the sum of the best scores of all later ones."""
    best = np.concatenate(
        [
            np.asarray(scores[i : i + _KEEP, FILLER], np.float64)
            for i in range(0, len(scores), _KEEP)
        ]
    )
    sums = np.concatenate([np.cumsum(best[::-1])[::-1][1:], [0.0]])
    return lambda frame: float(sums[frame])


def _step(current: Floats, row: Floats, states: States, low: int) -> Floats:
    """Return the scores of the next frame: of these states, and two more if there are."""
    high = min(low + len(current) + 2, len(states.column))
    stay = np.full(high - low, -np.inf)
    stay[: len(current)] = current
    best = stay.copy()
    np.maximum(best[1:], stay[:-1], out=best[1:])
    if len(stay) > 2:
        skips = states.skips[low + 2 : high]
        np.maximum(best[2:], np.where(skips, stay[:-2], -np.inf), out=best[2:])
    best += row[states.column[low:high]]
    return best


def _back(path: Ints, rows: Floats, first: int, before: Floats, states: States, last: int) -> int:
    """Fill in a block's states, ending in ``last``; return the state of the frame before it.

    ``before`` holds the scores of that frame, from state ``first`` on.
    """
    low = max(0, last - 2 * len(rows))
    part = States(
        states.column[low : last + 1], states.token[low : last + 1], states.skips[low : last + 1]
    )
    size = last + 1 - low
    current = np.full(size, -np.inf)
    begin, end = max(low, first), min(last + 1, first + len(before))
    current[begin - low : end - low] = before[begin - first : end - first]
    moves = np.zeros((len(rows), size), np.int8)
    for number, row in enumerate(rows):
        best = current.copy()
        if size > 1:
            better = current[:-1] > best[1:]
            best[1:][better] = current[:-1][better]
            moves[number, 1:][better] = 1
        if size > 2:
            better = part.skips[2:] & (current[:-2] > best[2:])
            best[2:][better] = current[:-2][better]
            moves[number, 2:][better] = 2
        current = best + row[part.column]
    state = last - low
    for number in range(len(rows) - 1, -1, -1):
        path[number] = low + state
        state -= int(moves[number, state])
    return low + state
