"""The choices of which searched block encoders are made: a finite part of all genotypes.

Each value of a choice shows in the architecture, so that an architecture is read back as exactly
one vector.
"""

from __future__ import annotations

from itertools import product

from nas_encoder.genotype import Genotype, load_genotype
from nas_encoder.spaces.blocks.front_parts import (
    Conv1dFront,
    Conv2dFront,
    DepthwiseFront,
    SearchedFront,
    StackFront,
)
from nas_encoder.spaces.blocks.part import Part
from nas_encoder.spaces.blocks.parts import (
    Convolution,
    FeedForward,
    GatedMlp,
    Memory,
    Parallel,
    SelfAttention,
)

STAGES = 3


def fronts() -> tuple[Part, ...]:
    """Return the front ends: of 4x, but for NeMo's of 8x."""
    published = load_genotype("synth_pdarts")
    cells = Genotype(published.name, published.space, published.architecture)
    return (
        *(Conv2dFront(4, channels) for channels in (8, 16, 32, 64, 128)),
        *(Conv2dFront(4, channels, padded=False) for channels in (16, 32, 64)),
        *(DepthwiseFront(4, channels) for channels in (16, 32, 64, 128)),
        *(DepthwiseFront(8, channels) for channels in (64, 256)),
        *(Conv1dFront(4, channels) for channels in (64, 128)),
        StackFront(4, 4),
        *(
            SearchedFront(cells, (("channels", channels), ("layers", 3), ("stem_stride", (1, 2))))
            for channels in (2, 4)
        ),
    )


# Frames of the front end per frame of each stage.
SCHEDULES = (
    (1, 1, 1),
    (1, 2, 1),  # the middle at half the rate
    (1, 4, 1),
    (2, 2, 1),
    (2, 4, 1),
    (1, 1, 2),  # kept low
    (1, 2, 2),
)

# Of the stream behind the front end: (scale, positions).
STREAMS = ((False, "none"), (True, "none"), (True, "absolute"))

# (norm, final norm of each block, final norm of the encoder)
NORMS = (
    ("before", True, False),
    ("before", False, True),
    ("before", True, True),
    ("after", False, False),
)

WIDTHS = (32, 48, 64, 80, 96, 112, 128, 144, 176, 192, 256, 384, 512)  # heads divide all
DEPTHS = tuple(range(1, 9))

FIRST: tuple[Part | None, ...] = (
    None,
    *(FeedForward(expansion, 0.5) for expansion in (1.0, 2.0, 4.0)),
)

_MIXING: tuple[Part, ...] = (
    *(SelfAttention(heads) for heads in (2, 4, 8)),
    *(SelfAttention(4, window) for window in (16, 32)),
    *(SelfAttention(heads, positions="none") for heads in (4, 8)),
    *(Convolution(kernel) for kernel in (7, 9, 15, 31)),
    *(GatedMlp(expansion, kernel) for expansion, kernel in product((2.0, 4.0, 6.0), (15, 31))),
    *(Parallel(4, expansion=e, merge_kernel=k) for e, k in product((2.0, 4.0, 8.0), (0, 31))),
    *(Memory(taps, taps, 1, expansion) for taps, expansion in product((5, 10), (0.0, 2.0, 4.0))),
    *(Memory(5, 5, 2, expansion) for expansion in (0.0, 2.0)),
)
MIXING: tuple[Part | None, ...] = _MIXING
SECOND: tuple[Part | None, ...] = (None, *_MIXING)

LAST: tuple[Part | None, ...] = (
    None,
    *(FeedForward(expansion, 0.5) for expansion in (1.0, 2.0, 4.0)),
    *(FeedForward(expansion) for expansion in (1.0, 2.0, 3.0, 4.0)),
    FeedForward(4.0, activation="relu"),
)
Slots = dict[str, tuple[Part | None, ...]]
SLOTS: Slots = {
    "first feed-forward": FIRST,
    "mixing": MIXING,
    "second mixing": SECOND,
    "last feed-forward": LAST,
}


# -- what streams ------------------------------------------------------------------------------

STREAMING_STREAMS = STREAMS[:2]  # absolute positions of an endless stream were never trained


def streaming_fronts() -> tuple[Part, ...]:
    """Return the front ends that see the frames of their own or few more."""
    return (
        *(Conv2dFront(4, channels) for channels in (8, 16, 32, 64, 128)),
        *(DepthwiseFront(4, channels) for channels in (16, 32, 64, 128)),
        *(DepthwiseFront(8, channels) for channels in (64, 256)),
        *(Conv1dFront(4, channels) for channels in (64, 128)),
        *(StackFront(4, context) for context in (0, 4)),
    )


_LEFT = 32  # frames of the stage, of 40 ms or more
_STREAMING: tuple[Part, ...] = (
    *(
        SelfAttention(4, _LEFT, order, chunk=size)
        for order, size in product(("relative", "none"), (2, 4, 8, 12))
    ),
    *(SelfAttention(heads, _LEFT, chunk=4) for heads in (2, 8)),
    *(SelfAttention(4, window, ahead=ahead) for window, ahead in product((16, 32), (0, 1, 2))),
    *(Convolution(kernel, causal=True) for kernel in (7, 9, 15, 31)),
    *(Convolution(kernel) for kernel in (3, 5)),
    *(GatedMlp(e, k, causal=True) for e, k in product((2.0, 4.0, 6.0), (15, 31))),
    *(
        Parallel(4, _LEFT, expansion=e, merge_kernel=k, chunk=4, causal=True)
        for e, k in product((2.0, 4.0, 8.0), (0, 31))
    ),
    *(Memory(back, ahead, 1, e) for back, ahead, e in product((5, 10), (0, 1, 2), (0.0, 2.0, 4.0))),
    *(Memory(5, 0, 2, expansion) for expansion in (0.0, 2.0)),
)
STREAMING_SLOTS: Slots = {**SLOTS, "mixing": _STREAMING, "second mixing": (None, *_STREAMING)}


def name_of(part: Part | None) -> str:
    """Return the name of a candidate."""
    return "none" if part is None else part.text()


def filled(modules: tuple[Part, ...]) -> tuple[Part | None, ...] | None:
    """Return which module of a block is in which slot; None if they do not fit."""
    rest = list(modules)
    first = rest.pop(0) if rest and isinstance(rest[0], FeedForward) else None
    last = rest.pop() if rest and isinstance(rest[-1], FeedForward) else None
    if not 1 <= len(rest) <= 2:
        return None
    return (first, rest[0], rest[1] if len(rest) == 2 else None, last)
