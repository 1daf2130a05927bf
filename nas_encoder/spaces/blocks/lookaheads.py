"""Several lookaheads of one encoder: how far its attention sees ahead.

Convolutions, memories and the rest see what the genotype says. What varies is the window's frames
after a frame, or the chunk, of every attention that looks ahead: ``ahead`` frames of the output, or
chunks of ``ahead + 1``, as the right of NeMo's ``att_context_size``. One of several is drawn for
each training batch, so that the latency can be chosen when the encoder is used (Noroozi et al.
2024, "Stateful Conformer with cache-based inference", multiple lookaheads).
"""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from nas_encoder.spaces.blocks.architecture import BlockArchitecture, Stage
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import Parallel, SelfAttention


def own_lookahead(architecture: BlockArchitecture) -> tuple[int | None, list[str]]:
    """Return the output frames that its attention sees ahead, or None and why there is no number.

    The reasons begin with the places in the genotype.
    """
    found: dict[str, Fraction] = {}
    problems = []
    for place, stage in enumerate(architecture.stages):
        for number, part in enumerate(stage.modules):
            where = f"stages[{place}].modules[{number}]"
            if not isinstance(part, SelfAttention | Parallel):
                continue
            if part.context is None:
                problems.append(f"{where}: {part.text()} sees the whole utterance")
            elif _looks_ahead(part):
                found[where] = _ahead(part, _rate(architecture, stage))
    if problems:
        return None, problems
    if not found:
        return None, ["no attention of the genotype looks ahead by a window or a chunk"]
    first, *others = found.values()
    if any(other != first for other in others) or first.denominator > 1 or first < 0:
        seen = ", ".join(f"{where} {ahead}" for where, ahead in found.items())
        rule = "attention must see the same whole number of the output's frames ahead, sees"
        return None, [f"{rule} {seen}"]
    return int(first), []


def varied(architecture: BlockArchitecture, ahead: int) -> BlockArchitecture:
    """Return the architecture with so many output frames of lookahead of its attention.

    Raises:
        ValueError: A chunk or a window would end within a frame.
    """
    stages = tuple(
        replace(
            stage,
            modules=tuple(
                _varied(part, ahead, _rate(architecture, stage)) for part in stage.modules
            ),
        )
        for stage in architecture.stages
    )
    return replace(architecture, stages=stages)


def problems_of(architecture: BlockArchitecture, lookaheads: tuple[int, ...]) -> list[str]:
    """Return why an architecture cannot have these lookaheads."""
    own, found = own_lookahead(architecture)
    if own is None:
        return [f"must be [], as there is one lookahead: {line}" for line in found]
    if own not in lookaheads:
        found.append(f"must hold that of the genotype, {own}, got {list(lookaheads)}")
    for ahead in lookaheads:
        try:
            found += [f"{ahead}: {line}" for line in varied(architecture, ahead).problems()]
        except ValueError as error:
            found.append(f"{ahead}: {error}")
    return found


def _rate(architecture: BlockArchitecture, stage: Stage) -> Fraction:
    """Return the frames of a stage per frame of the output."""
    return Fraction(architecture.stages[-1].reduction, stage.reduction)


def _looks_ahead(part: SelfAttention | Parallel) -> bool:
    context = part.context
    return part.chunk > 1 or (not part.chunk and context is not None and context[1] > 0)


def _ahead(part: SelfAttention | Parallel, rate: Fraction) -> Fraction:
    if part.chunk:
        return part.chunk / rate - 1
    assert part.context is not None
    return part.context[1] / rate


def _varied(part: Part, ahead: int, rate: Fraction) -> Part:
    if not isinstance(part, SelfAttention | Parallel) or not _looks_ahead(part):
        return part
    if part.chunk:
        return replace(part, chunk=_whole((ahead + 1) * rate, part))
    frames = _whole(ahead * rate, part)
    return replace(part, ahead=None if frames == part.window else frames)


def _whole(frames: Fraction, part: Part) -> int:
    if frames.denominator > 1:
        raise ValueError(f"{part.text()} would end within a frame of its stage, after {frames}")
    return int(frames)
