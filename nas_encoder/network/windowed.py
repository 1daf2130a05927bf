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
        lengths = (lengths - window.start).clamp(1, window.x.size(1))
        ends = encoder.output_lengths(chunk.lengths)
    first = window.start // factor
    x: Tensor = encoder.encode(window.x, lengths, taps)[:, begin - first : end - first]
    out = replace(chunk, x=x, start=begin, lengths=ends)
    return out.holding(out.cleared()), cache
