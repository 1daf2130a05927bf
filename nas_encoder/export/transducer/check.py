"""Compares the exported prediction network and joint with torch, step by step.

Letters in shapes: D features of the encoder, T' output frames.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from nas_encoder.errors import CheckpointError
from nas_encoder.export.check import compare
from nas_encoder.export.transducer.greedy import recognize
from nas_encoder.export.transducer.parts import TransducerParts
from nas_encoder.export.transducer.runtime import DECODER, JOINER, Sessions

TOLERANCE = 1e-4  # absolute, plus 1e-4 of the value
_STEPS = 200


@dataclass(frozen=True)
class CheckedSearch:
    """What was compared.

    Attributes:
        steps: Steps after tokens drawn at random, one after the other.
        worst: Largest difference of a prediction, a state or a score.
        tolerance: What is allowed, plus 1e-4 of the value.
        utterances: Those whose tokens were compared, found with the encoder's graph and without.
        differing: How many of them differ in a token. Steps and encoder are within their
            tolerances, so there two classes are as good as each other.
    """

    steps: int
    worst: float
    tolerance: float
    utterances: int
    differing: int

    def to_dict(self) -> dict[str, Any]:
        """Return the fields."""
        return asdict(self)


@torch.no_grad()
def check_search(
    sessions: Sessions, parts: TransducerParts, graph: Sequence[Tensor], plain: Sequence[Tensor]
) -> CheckedSearch:
    """Compare.

    Args:
        sessions: The exported prediction network and joint.
        parts: They in torch.
        graph: Utterances (T', D) as the exported encoder encodes them.
        plain: The same, as torch encodes them.

    Raises:
        CheckpointError: A step differs.
    """
    generator = torch.Generator().manual_seed(0)
    count = len(parts.vocabulary.symbols)
    extra = torch.randn(1, parts.joint.of_encoder.in_features, generator=generator)
    frames = torch.cat([*plain, extra])
    zeros = torch.zeros(parts.layers, 1, parts.hidden)
    ours: Any = (zeros, zeros)
    theirs: Any = (zeros, zeros)
    token, worst = parts.vocabulary.blank, 0.0
    for number in range(_STEPS):
        expected, ours = parts.step(token, ours)
        found, theirs = sessions.step(token, theirs)
        frame = frames[int(torch.randint(len(frames), (1,), generator=generator))]
        scores = sessions.scores(frame, expected), parts.scores(frame, expected)
        pairs = [(DECODER, found, expected), (JOINER, *scores)]
        pairs += [(DECODER, a, b) for a, b in zip(theirs, ours, strict=True)]
        for what, one, other in pairs:
            difference, problem = compare(one.reshape(1, -1), other.reshape(1, -1), TOLERANCE)
            if problem:
                rule = f"differs from torch at step {number + 1}, so nothing is written: {problem}"
                raise CheckpointError(f"the export: {what}", [rule])
            worst = max(worst, difference)
        token = int(torch.randint(count - 1, (1,), generator=generator))
    pairs_of_texts = zip(recognize(sessions, graph), recognize(parts, plain), strict=True)
    differing = sum(a != b for a, b in pairs_of_texts)
    return CheckedSearch(_STEPS, worst, TOLERANCE, len(plain), differing)
