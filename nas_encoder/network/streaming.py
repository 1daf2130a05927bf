"""Encoding in chunks as audio arrives: what all encoders share.

Every part of a network that mixes frames keeps what it still needs of the past, its cache, and
returns the frames that no later input can change. So how the input is cut into chunks never shows
in the output, and a frame comes out as soon as the last input frame that it depends on has come in.
Caches are (nested tuples of) tensors of bounded size. No call changes the state that it is given.

B batch, t frames of a chunk, t' frames that come out, C features.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas_encoder.errors import InputError
from nas_encoder.ops.chunks import GOING_ON as GOING_ON
from nas_encoder.ops.chunks import Chunk as Chunk
from nas_encoder.ops.chunks import size_of as size_of
from nas_encoder.ops.chunks import slide as slide
from nas_encoder.ops.masking import is_capturing


class StreamState(NamedTuple):
    """What an encoder knows of a batch of streams between two chunks.

    Places are counted from 0 and, far from the beginning, begin again where the network cannot tell
    the difference. So graphs that were captured for the places of a stream serve all of it.

    Attributes:
        frames: Input frames so far.
        place: Place of the next one.
        cycle: The place up to which the beginning can be seen, and after how many the network
            treats frames alike; None if it tells all apart.
        caches: What the parts of the network keep.
        lengths: (B,) place at which each utterance ends, :data:`GOING_ON` for those whose end has
            not come; None as long as that is all of them.
        over: Whether the last chunk has come.
        ahead: Which of the encoder's ``lookaheads`` it began with; None if there is one, or nothing
            checks it.
    """

    frames: int
    place: int
    cycle: tuple[int, int] | None
    caches: Any
    lengths: Tensor | None = None
    over: bool = False
    ahead: int | None = None

    def after(self, chunk: Chunk, caches: Any) -> StreamState:
        """Return the state after a chunk of input frames."""
        place, lengths = chunk.end, chunk.lengths
        if self.cycle is not None and place >= sum(self.cycle):
            seen, period = self.cycle
            shift = (place - seen) // period * period
            place -= shift
            if lengths is not None:
                lengths = torch.where(lengths < GOING_ON, lengths - shift, lengths)
        frames = self.frames + chunk.x.size(1)
        return StreamState(frames, place, self.cycle, caches, lengths, chunk.last, self.ahead)


def ends_after(state: StreamState, chunk: Tensor, lengths: Tensor | None) -> Tensor | None:
    """Return the lengths of utterances after one more chunk, checked against the state.

    Args:
        state: The state before.
        chunk: (B, t, F).
        lengths: (B,) frames of each utterance in the chunk; None if the chunk holds t of each that
            has not ended.

    Raises:
        InputError: A length is out of range, or an utterance goes on after its end.
    """
    batch, frames = chunk.shape[:2]
    if lengths is None:
        return state.lengths
    lengths = lengths.to(chunk.device)
    if not is_capturing():
        _check_lengths(state, lengths, batch, frames)
    known = state.lengths
    if known is None:
        known = torch.full((batch,), GOING_ON, device=chunk.device)
    ends = torch.where(lengths < frames, state.place + lengths, known)
    return torch.where(known < GOING_ON, known, ends)


def _check_lengths(state: StreamState, lengths: Tensor, batch: int, frames: int) -> None:
    if lengths.shape != (batch,) or lengths.is_floating_point() or lengths.dtype == torch.bool:
        raise InputError(
            f"lengths must be integers of shape ({batch},), got {lengths.dtype} "
            f"{tuple(lengths.shape)}"
        )
    low, high = (int(value) for value in torch.aminmax(lengths))
    if low < 0 or high > frames:
        raise InputError(
            f"lengths must be from 0 to the frames of the chunk, {frames}, got {low} to {high}"
        )
    if state.lengths is not None:
        late = (state.lengths <= state.place) & (lengths > 0)
        if bool(late.any()):
            number = int(late.nonzero()[0])
            own = state.frames - state.place + int(state.lengths[number])
            raise InputError(
                f"utterance {number} of the batch ended after {own} frames, got "
                f"{int(lengths[number])} more; begin another with initial_state"
            )


def check_chunk(
    state: StreamState, chunk: Tensor, size: int, lengths: Tensor | None, training: bool
) -> None:
    """Check a chunk against the state.

    Args:
        state: The state before it.
        chunk: (B, t, F).
        size: F, as the network was built.
        lengths: (B,) frames of each utterance in the chunk, or None.
        training: Whether the network is in training mode.

    Raises:
        InputError: The stream is over, a shape is wrong, a valid frame is not finite, or the
            network is in training mode.
    """
    if training:
        raise InputError("an encoder in training mode does not stream; call eval() first")
    if state.over:
        raise InputError("the stream has ended; begin another with initial_state")
    if chunk.dim() != 3 or not chunk.is_floating_point() or chunk.size(2) != size:
        raise InputError(
            f"a chunk must be float (B, t, {size}), got {chunk.dtype} {tuple(chunk.shape)}"
        )
    batch = batch_of(state.caches)
    if batch != chunk.size(0):
        raise InputError(f"a chunk must be of {batch} utterances, got {chunk.size(0)}")
    if bool(torch.isfinite(chunk.sum())):
        return
    bad = ~torch.isfinite(chunk).all(dim=2)
    if lengths is not None:
        bad &= torch.arange(chunk.size(1), device=chunk.device) < lengths.unsqueeze(1)
    elif state.lengths is not None:
        bad &= (state.lengths > state.place).unsqueeze(1)
    if len(places := bad.nonzero()):
        utterance, frame = places[0].tolist()
        raise InputError(
            f"features of utterance {utterance} of the batch are NaN or infinite, first in frame "
            f"{state.frames + frame} of its stream; look at its audio and at the normalization"
        )


def batch_of(caches: Any) -> int:
    """Return B of nested caches; 0 if there is no tensor in them."""
    if isinstance(caches, Tensor):
        return caches.size(0)
    parts = caches.values() if isinstance(caches, dict) else caches
    return next((found for found in map(batch_of, parts) if found), 0)
