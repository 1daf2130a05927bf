"""Which input frames an output frame of a block encoder depends on, exactly.

Attention in chunks makes that different for each frame of a chunk, so it is followed for every
frame of a period, from the output to the input.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError
from nas_encoder.spaces.blocks.architecture import BlockArchitecture

Span = tuple[int, int]  # the first and the last frame


def unbounded(architecture: BlockArchitecture) -> list[str]:
    """Return what sees the whole utterance, each with its place in the genotype."""
    found = []
    if architecture.front.reach is None:
        found.append(f"front: {architecture.front.text()} sees the whole utterance")
    for place, stage in enumerate(architecture.stages):
        for number, part in enumerate(stage.modules):
            if part.span(0) is None:
                found.append(
                    f"stages[{place}].modules[{number}]: {part.text()} sees the whole utterance; "
                    "give it a window or a chunk"
                )
    return found


@lru_cache(maxsize=4096)  # searches ask again and again
def receptive_field(architecture: BlockArchitecture) -> ReceptiveField:
    """Return the receptive field: the most that any output frame sees before and after.

    Raises:
        ConfigError: It has no bound.
    """
    if problems := unbounded(architecture):
        raise ConfigError("receptive field", [f"has no bound: {line}" for line in problems])
    factor, left, right = architecture.factor, 0, 0
    for frame in range(architecture.period // architecture.stages[-1].reduction):
        first, last = span(architecture, frame)
        left, right = max(left, frame * factor - first), max(right, last - frame * factor)
    return ReceptiveField(left, right)


def span(architecture: BlockArchitecture, frame: int) -> Span:
    """Return the first and the last input frame that an output frame depends on.

    Those before the beginning and past the end of an utterance do not exist.
    """
    needed: Span = (frame, frame)
    skipped: dict[int, Span] = {}  # of the outputs of stages, -1 for the front end
    rates = [1, *(stage.reduction for stage in architecture.stages)]
    for place in reversed(range(len(architecture.stages))):
        needed = _both(needed, skipped.get(place))
        stage = architecture.stages[place]
        for part in [*stage.modules][::-1] * stage.blocks:
            early, late = part.span(needed[0]), part.span(needed[1])
            assert early is not None and late is not None
            needed = early[0], late[1]
        before, now = rates[place], rates[place + 1]
        if now > before:
            needed = _fallen(needed, now // before)
        elif now < before:
            source = max(at for at in range(-1, place) if rates[at + 1] == now)
            skipped[source] = _both(needed, skipped.get(source))
            times = before // now
            needed = needed[0] // times, needed[1] // times
    first, last = _both(needed, skipped.get(-1))
    front: Any = architecture.front
    back, ahead = front.reach
    return first * front.factor - back, last * front.factor + ahead


def _fallen(needed: Span, factor: int) -> Span:
    """Return the frames under the convolutions where the rate falls."""
    return needed[0] * factor - (factor - 1), needed[1] * factor + factor - 1


def _both(needed: Span, other: Span | None) -> Span:
    return needed if other is None else (min(needed[0], other[0]), max(needed[1], other[1]))
