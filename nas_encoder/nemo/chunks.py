"""Which chunks NeMo's buffers shall send: sizes that fit an encoder's lookahead and period."""

from __future__ import annotations

from dataclasses import dataclass

from nas_encoder.errors import ConfigError
from nas_encoder.network.stream_rows import StreamRows

_STRIDE = 0.01  # seconds; see _prefix


@dataclass(frozen=True)
class Chunking:
    """Sizes in input frames; all are multiples of the subsampling factor.

    Attributes:
        frames: Of a chunk.
        shift: From one chunk to the next.
        prefix: Frames before a chunk that are sent and dropped.
        factor: The subsampling factor.
        size: The numbers of a stream's state, at most.
    """

    frames: int
    shift: int
    prefix: int
    factor: int
    size: int

    @property
    def repeated(self) -> int:
        """Frames of a chunk that were in the chunk before."""
        return self.frames - self.shift

    def __str__(self) -> str:
        again = f", {self.repeated} of them sent again" if self.repeated else ""
        return f"chunks of {self.frames} frames{again}, {self.shift // self.factor} output frames"


def chunking(rows: StreamRows, chunk: int | None = None, shift: int | None = None) -> Chunking:
    """Return the sizes for chunks of so many output frames.

    Args:
        rows: The encoder's streams.
        chunk: Output frames whose input a chunk holds; None for the fewest.
        shift: Output frames from one chunk to the next; None for ``chunk``.

    Raises:
        ConfigError: They are not possible; those that are, are named.
    """
    step, ahead, least = _steps(rows)
    factor = int(rows.network.subsampling_factor)
    chunk = least if chunk is None else chunk
    shift = chunk if shift is None else shift
    alone = shift == chunk and chunk >= least
    again = shift == chunk - ahead and shift >= step
    if shift % step or not (alone or again):
        got = f"got chunk_size={chunk}, shift_size={shift}"
        raise ConfigError("streaming", [f"{possible(rows)}; {got}"])
    frames, moved = chunk * factor, shift * factor
    return Chunking(frames, moved, _prefix(frames, factor), factor, _size(rows, frames, moved))


def possible(rows: StreamRows) -> str:
    """Return in words which sizes are."""
    step, ahead, least = _steps(rows)
    several = f"a multiple of {step}" if step > 1 else "any number"
    text = f"chunk_size and shift_size (output frames) can be equal, {several} from {least} on"
    if ahead:
        text += (
            f"; or shift_size {several} from {step} on and chunk_size {ahead} more, the lookahead"
        )
    return text


def _steps(rows: StreamRows) -> tuple[int, int, int]:
    """Return three numbers of output frames.

    They are the period; the lookahead; and the least chunk with which every chunk, also the first,
    has an output frame, as NeMo's CTC pipeline takes for granted.
    """
    factor = int(rows.network.subsampling_factor)
    step = (rows.network.period or factor) // factor
    ahead = -(-rows.extra() // factor)
    least = step
    while rows.outputs(least * factor) < 1:
        least += step
    return step, ahead, least


def _size(rows: StreamRows, frames: int, shift: int) -> int:
    """Return the numbers of a state, far enough from the beginning for it not to grow."""
    if rows.cycle is None:
        reach = rows.network.field().frames + int(rows.network.subsampling_factor)
    else:
        reach = sum(rows.cycle)
    steps = max(0, -(-(reach - frames) // shift))
    # Without a period, states of several places.
    further = range(steps, steps + (8 if rows.cycle is None else 1))
    if shift == frames:
        return max(rows.size(frames + shift * number) for number in further)
    # The last chunk but one may be short, as far as the utterance goes, and end at any place.
    places = shift * len(further) if rows.cycle is None else rows.cycle[1]
    return rows.most(frames + shift * steps, places)


def _prefix(frames: int, factor: int) -> int:
    """Return how many frames are sent before a chunk.

    The encoder needs none. NeMo's pipelines cut the spectrogram of every chunk out of audio, and
    only if there is something before the chunk, its first frames see audio that is before it. The
    frames are a multiple of the factor. NeMo computes lengths in seconds and rounds down: it would
    lose a frame for some sums, so they are avoided.
    """
    for prefix in range(factor, 9 * factor, factor):
        if int((prefix * _STRIDE + frames * _STRIDE) / _STRIDE) == prefix + frames:
            return prefix
    return factor
