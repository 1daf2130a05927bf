"""The streaming form of any encoder whose receptive field has a bound: it encodes windows again.

The cache holds the input frames that frames still to come depend on. Each chunk is encoded with
them, and what has seen all that it depends on comes out. The work of a chunk is that of the chunk
and the receptive field together, so chunks should not be short beside it.

B batch, t frames of a chunk, F features, S subsampling factor, t' frames that come out.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.network.streaming import Chunk


def stream(
    encoder: Any, field: ReceptiveField, chunk: Chunk, cache: Tensor, taps: Any
) -> tuple[Chunk, Tensor]:
    """Map a chunk (B, t, F), zero past the ends, to the frames (B, t', D) that are complete.

    Args:
        encoder: A :class:`~nas_encoder.network.tapped.TappedEncoder` in evaluation mode.
        field: Its receptive field, ``right`` counted from the first of a frame's S.
        chunk: The chunk.
        cache: (B, n, F), the frames before it that are still needed.
        taps: As of ``encode``.
    """
    factor = int(encoder.subsampling_factor)
    window = chunk.after(cache)
    begin = max(0, (chunk.start - 1 - field.right) // factor + 1)
    end = max(begin, (chunk.end - 1 - field.right) // factor + 1)
    if chunk.last:
        end = int(encoder.output_lengths(torch.tensor(chunk.end)))
        end = max(begin, end) if chunk.end else 0
    # From a multiple of S on, so that all strides fall on the same frames.
    kept = max(0, end * factor - field.left) // factor * factor
    cache = window.x[:, max(0, kept - window.start) :].clone()
    if end <= begin:
        empty = chunk.x.new_zeros(chunk.x.size(0), 0, encoder.output_size)
        return replace(chunk, x=empty, start=begin), cache
    lengths = ends = chunk.lengths
    if lengths is not None:
        lengths = (lengths - window.start).clamp(1, window.size)
        ends = encoder.output_lengths(chunk.lengths)
    first, x = window.start // factor, window.x
    if chunk.begins is None:
        x = encoder.encode(x, lengths, taps)[:, begin - first : end - first]
    else:
        x = _from_begins(encoder, window, lengths, taps, (begin - first, end - first))
    begins = chunk.begins_after(factor)
    out = replace(chunk, x=x, start=begin, lengths=ends, begins=begins)
    return out.holding(out.cleared()), cache


def _from_begins(
    encoder: Any, window: Chunk, lengths: Tensor | None, taps: Any, wanted: tuple[int, int]
) -> Tensor:
    """Encode each utterance of a window (B, n, F) from its own beginning on.

    Args:
        encoder: The encoder.
        window: Frames, in some utterances with others before the beginning.
        lengths: (B,) frames of each utterance in the window, counted from the window's first.
        taps: As of ``encode``.
        wanted: The first and the end of the output frames to return, counted likewise.
    """
    assert window.begins is not None
    count, factor = window.size, int(encoder.subsampling_factor)
    before = (window.begins - window.start).clamp(min=0)
    lengths = (count if lengths is None else lengths) - before
    place = torch.arange(count, device=window.x.device) + before.unsqueeze(1)  # (B, n)
    y = encoder.encode(_gathered(window.x, place.clamp(max=count - 1)), lengths.clamp(min=1), taps)
    shift = torch.div(before, factor, rounding_mode="floor").unsqueeze(1)
    place = torch.arange(*wanted, device=y.device) - shift
    return _gathered(y, place.clamp(min=0))


def _gathered(x: Tensor, places: Tensor) -> Tensor:
    """Return the frames of (B, T, C) at places (B, n), (B, n, C)."""
    return x.gather(1, places.unsqueeze(2).expand(-1, -1, x.size(2)))
