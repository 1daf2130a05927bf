"""Which utterances a CTC network can be trained on: length limits and CTC feasibility."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
# attribute of a Selection -> reason in messages
REASONS = {"too_short": "too short", "too_long": "too long", "infeasible": "CTC-infeasible"}


def ctc_frames_needed(ids: Sequence[int] | Ids) -> int:
    """Return the fewest output frames that can carry these tokens.

    CTC needs a frame for each token and one for a blank between equal neighbours.
    """
    values = np.asarray(ids)
    return len(values) + int(np.count_nonzero(values[1:] == values[:-1]))


@dataclass
class Selection:
    """Indices of the utterances kept and, by reason, of those left out.

    Attributes:
        kept: Usable utterances.
        too_short: Utterances with fewer frames than the network accepts.
        too_long: Utterances with more frames than allowed.
        infeasible: Utterances with more tokens (and blanks that CTC needs) than output frames.
        remedy: What to do about many of those.
    """

    kept: list[int] = field(default_factory=list)
    too_short: list[int] = field(default_factory=list)
    too_long: list[int] = field(default_factory=list)
    infeasible: list[int] = field(default_factory=list)
    remedy: str = "use coarser tokens, a smaller time stride, or slower speech"

    @property
    def total(self) -> int:
        """Number of utterances, kept or not."""
        return len(self.kept) + sum(self.counts().values())

    def counts(self) -> dict[str, int]:
        """Return how many were left out for each reason that occurs."""
        sizes = {reason: len(getattr(self, name)) for name, reason in REASONS.items()}
        return {reason: size for reason, size in sizes.items() if size}

    def named(self, ids: Sequence[str]) -> str:
        """Return the same with the first ids of each reason, for messages."""
        parts = []
        for name, reason in REASONS.items():
            chosen = [f"'{ids[index]}'" for index in getattr(self, name)]
            more = ", ..." if len(chosen) > 3 else ""
            if chosen:
                parts.append(f"{len(chosen)} {reason} ({', '.join(chosen[:3])}{more})")
        return ", ".join(parts)

    def problems(self) -> list[str]:
        """Return what makes the data unusable: nothing left, or more than half infeasible."""
        usable = len(self.kept) + len(self.infeasible)
        if len(self.infeasible) * 2 > usable:
            return [
                f"{len(self.infeasible)} of {usable} utterances of allowed length have more "
                "tokens (with the blanks that CTC needs between equal ones) than output frames; "
                f"{self.remedy}"
            ]
        if self.kept:
            return []
        left_out = ", ".join(f"{n} {reason}" for reason, n in self.counts().items())
        return [f"no usable utterance among {self.total} ({left_out or 'empty'})"]


def select_utterances(
    frames: Sequence[int],
    targets: Sequence[Sequence[int] | Ids],
    *,
    min_length: int | None = None,
    max_length: int | None = None,
    subsampling_factor: int | None = None,
    spelled: Sequence[str] = (),
    output_frames: Sequence[int] | None = None,
) -> Selection:
    """Sort utterances into usable and unusable ones.

    Args:
        frames: Feature frames of each utterance.
        targets: Token ids of each utterance.
        min_length: Fewest frames allowed (default 1).
        max_length: Most frames allowed.
        subsampling_factor: Input frames per output frame; None skips the CTC rule
            ``tokens + repeats <= ceil(frames / factor)``.
        spelled: The texts, if the tokens are their characters. Where that makes most of them
            infeasible, as with phones, and words would not, the remedy says so.
        output_frames: Output frames of each utterance, instead of ``ceil(frames / factor)``.
    """
    if output_frames is None and subsampling_factor:
        output_frames = [-(-length // subsampling_factor) for length in frames]
    selection = Selection()
    for index, (length, ids) in enumerate(zip(frames, targets, strict=True)):
        if length < (min_length or 1):
            selection.too_short.append(index)
        elif max_length is not None and length > max_length:
            selection.too_long.append(index)
        elif output_frames is not None and ctc_frames_needed(ids) > output_frames[index]:
            selection.infeasible.append(index)
        else:
            selection.kept.append(index)
    if spelled and selection.problems():
        numbers: dict[str, int] = {}
        words = [[numbers.setdefault(w, len(numbers)) for w in text.split()] for text in spelled]
        whole = select_utterances(
            frames,
            words,
            min_length=min_length,
            max_length=max_length,
            output_frames=output_frames,
        )
        if selection.infeasible and not whole.problems():
            selection.remedy = (
                "they are spelled letter by letter: for phones, use --tokens phone ('tokens: "
                f"phone' in a configuration); else {selection.remedy}"
            )
    return selection
