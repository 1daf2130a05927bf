"""The matched-pairs test of two systems (Gillick and Cox 1989, ICASSP), utterance by utterance.

The difference of the errors in an utterance is one observation; utterances are taken as
independent. Their mean, divided by its standard error, is compared with a normal distribution.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from nas_encoder.errors import DataError
from tools.results.scoring import Score


@dataclass(frozen=True)
class MatchedPairs:
    """How the errors of a first system differ from those of a second one.

    Attributes:
        mean: Errors an utterance, of the first minus of the second; below 0 the first is better.
        z: The mean in units of its standard error; 0 if the systems make the same errors.
        p: Two-sided.
        utterances: Number of observations.
    """

    mean: float
    z: float
    p: float
    utterances: int


def matched_pairs(first: Score, second: Score) -> MatchedPairs:
    """Test whether two systems make equally many errors.

    Raises:
        DataError: They were scored on different utterances, or on fewer than two.
    """
    if first.utterances != second.utterances or first.lengths != second.lengths:
        raise DataError("matched pairs", ["the systems were not scored on the same utterances"])
    count = len(first.utterances)
    if count < 2:
        raise DataError("matched pairs", [f"at least 2 utterances are needed, got {count}"])
    differences = [a - b for a, b in zip(first.errors, second.errors, strict=True)]
    mean, deviation = statistics.fmean(differences), statistics.stdev(differences)
    if deviation == 0:  # the same difference everywhere: none, or one that chance never gives
        z = math.copysign(math.inf, mean) if mean else 0.0
    else:
        z = mean / (deviation / math.sqrt(count))
    return MatchedPairs(mean, z, math.erfc(abs(z) / math.sqrt(2)), count)


def pooled(scores: Sequence[Score]) -> Score:
    """Return the score of several trainings of a system on one test set, as one.

    Errors and lengths of an utterance are added up over the trainings, so that an utterance stays
    one observation.

    Raises:
        DataError: There are no scores, or they are of different utterances.
    """
    if not scores:
        raise DataError("pooled scores", ["there are none"])
    first = scores[0]
    if any(s.utterances != first.utterances or s.lengths != first.lengths for s in scores):
        raise DataError("pooled scores", ["they are not of the same utterances"])
    return Score(
        first.utterances,
        tuple(map(sum, zip(*(s.errors for s in scores), strict=True))),
        tuple(len(scores) * length for length in first.lengths),
        sum(s.substitutions for s in scores),
        sum(s.deletions for s in scores),
        sum(s.insertions for s in scores),
    )
