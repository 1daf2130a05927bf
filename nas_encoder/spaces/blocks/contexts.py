"""What attention and kernels of a genotype see before and after a frame."""

from __future__ import annotations

from typing import Protocol

from nas_encoder.common.problems import Problems


class Attention(Protocol):
    """The context of attention, as it stands in a genotype; see :class:`.parts.SelfAttention`."""

    @property
    def window(self) -> int:
        """Frames before its own, or before its chunk; 0 without a chunk: all."""

    @property
    def ahead(self) -> int | None:
        """Frames after its own; None: as many as before."""

    @property
    def chunk(self) -> int:
        """Frames of a chunk; 0 for no chunks."""


def check(part: Attention, found: Problems) -> None:
    """Report where it is not clear what is seen ahead."""
    if part.ahead is None:
        return
    if part.chunk:
        rule = "must be null: the frames ahead are those of the chunk"
        found.conflict("ahead", f"{rule}, got {part.ahead}", "chunk")
    elif not part.window:
        rule = "must be null where 'window' is 0 and the whole utterance is seen"
        found.conflict("ahead", f"{rule}, got {part.ahead}", "window")
    elif part.ahead == part.window:
        found.conflict("ahead", f"must be null where it is the window, {part.ahead}", "window")


def context(part: Attention) -> tuple[int, int] | None:
    """Return the frames seen before and after its own, or before its chunk and 0; None for all."""
    if part.chunk:
        return part.window, 0
    if not part.window:
        return None
    return part.window, part.window if part.ahead is None else part.ahead


def seen(part: Attention, frame: int) -> tuple[int, int] | None:
    """Return the first and the last frame that a frame sees; None for all."""
    own = context(part)
    if own is None:
        return None
    if part.chunk:
        first = frame - frame % part.chunk
        return first - own[0], first + part.chunk - 1
    return frame - own[0], frame + own[1]


def text(part: Attention) -> str:
    """Return for example `` window 32``, `` window -32+0`` or `` chunk 16 window -32``."""
    if part.chunk:
        return f" chunk {part.chunk} window -{part.window}"
    if not part.window:
        return ""
    own = f"{part.window}" if part.ahead is None else f"-{part.window}+{part.ahead}"
    return f" window {own}"


def around(frame: int, kernel: int, causal: bool) -> tuple[int, int]:
    """Return the first and the last frame under a kernel."""
    first = frame - (kernel - 1 if causal else kernel // 2)
    return first, first + kernel - 1
