"""CTC decoding without a language model: greedy, or a prefix beam search.

T frames, V tokens, the blank first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import groupby

from torch import Tensor

_NEVER = -math.inf
UNLIKELY = math.log(1e-6)  # tokens below it in a frame do not extend hypotheses


def greedy(log_probs: Tensor) -> list[int]:
    """Return the tokens of the most probable path through log-probabilities (T, V)."""
    return collapse(log_probs.argmax(1).tolist())


def collapse(path: Iterable[int]) -> list[int]:
    """Return the tokens of a CTC path: repeats joined, blanks (0) removed."""
    return [token for token, _ in groupby(path) if token != 0]


def prefix_beam(log_probs: Tensor, width: int) -> list[int]:
    """Return the most probable token sequence that a beam search finds.

    Unlike :func:`greedy`, it sums over the paths of a sequence: Hannun et al. 2014, algorithm 1,
    without a language model. The published recipe of NAS-Bench-ASR has a beam of 12.

    Args:
        log_probs: (T, V).
        width: Number of sequences to keep.
    """
    # sequence -> log probability of ending in a blank, and of ending in its last token
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, _NEVER)}
    for frame in log_probs.tolist():
        likely = [(token, p) for token, p in enumerate(frame) if token and p > UNLIKELY]
        found: dict[tuple[int, ...], list[float]] = {}
        for sequence, (blank, token_end) in beams.items():
            total = _add(blank, token_end)
            own = found.setdefault(sequence, [_NEVER, _NEVER])
            own[0] = _add(own[0], total + frame[0])
            last = sequence[-1] if sequence else -1
            if sequence:
                own[1] = _add(own[1], token_end + frame[last])
            for token, p in likely:
                # A repeated token is a new one only after a blank.
                before = blank if token == last else total
                longer = found.setdefault((*sequence, token), [_NEVER, _NEVER])
                longer[1] = _add(longer[1], before + p)
        ranked = sorted(found.items(), key=lambda item: -_add(*item[1]))[:width]
        beams = {sequence: (pair[0], pair[1]) for sequence, pair in ranked}
    best, _ = max(beams.items(), key=lambda item: _add(*item[1]))
    return list(best)


def _add(a: float, b: float) -> float:
    """Return log(exp(a) + exp(b))."""
    if a < b:
        a, b = b, a
    return a if b == _NEVER else a + math.log1p(math.exp(b - a))
