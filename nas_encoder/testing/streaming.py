"""What streaming promises: see :meth:`~nas_encoder.network.tapped.TappedEncoder.step`.

B batch, T input frames, F features, S subsampling factor, T' output frames, D output features.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
import torch
from torch import Tensor

from nas_encoder.errors import ConfigError
from nas_encoder.network.steady import SteadyStep
from nas_encoder.network.streaming import StreamState


@torch.no_grad()
def streamed(
    network: Any, x: Tensor, sizes: Iterable[int], lengths: Tensor | None = None, **options: Any
) -> list[Tensor]:
    """Return what comes out of each chunk, (B, t', D).

    Args:
        network: A :class:`~nas_encoder.network.tapped.TappedEncoder` in evaluation mode.
        x: (B, T, F); frames past the end of an utterance are given as NaN.
        sizes: Frames of the chunks, T in all.
        lengths: (B,) frames of each utterance; None for T.
        **options: Of ``step``.
    """
    state: StreamState = network.initial_state(x.size(0))
    pieces, start, given = [], 0, list(sizes)
    for number, size in enumerate(given):
        piece, valid = x[:, start : start + size], None
        if lengths is not None:
            valid = (lengths - start).clamp(0, size)
            padding = torch.arange(size) >= valid.unsqueeze(1)
            piece = piece.masked_fill(padding.unsqueeze(2), float("nan"))
        y, state = network.step(piece, state, number == len(given) - 1, valid, **options)
        pieces.append(y)
        start += size
    assert start == x.size(1)
    return pieces


def chunks_give_the_same(network: Any, sizes: Iterable[int], lengths: list[int]) -> None:
    """Compare the outputs of chunks to those of whole utterances, in float64 to 1e-10.

    Args:
        network: In evaluation mode, in float64.
        sizes: Frames of the chunks; their sum is the batch's T.
        lengths: Frames of each utterance.
    """
    given = list(sizes)
    x = torch.randn(len(lengths), sum(given), network.input_size, dtype=torch.float64)
    ends = torch.tensor(lengths)
    with torch.no_grad():
        whole, _ = network(x, ends)
    found = torch.cat(streamed(network, x, given, ends), 1)
    torch.testing.assert_close(found, whole, rtol=0, atol=1e-10)


def streams_or_says_why_not(network: Any) -> bool:
    """Check that chunks give what whole utterances give, or that streams are refused with reasons.

    Args:
        network: In evaluation mode, in float64.

    Returns:
        Whether it streams.
    """
    try:
        ahead = network.lookahead()
    except ConfigError as refusal:
        with pytest.raises(ConfigError) as caught:
            network.initial_state(1)
        assert caught.value.problems == refusal.problems
        return False
    # Longer than what is seen ahead, so that frames come out before the end.
    size = network.min_length + ahead
    chunks_give_the_same(network, [size, 1, size + 9, 5], [2 * size + 15, size + 3])
    if network.period is not None:
        chunk = -(-size // network.period) * network.period
        one_graph_gives_the_same(network, chunk, [size + 3, chunk + size + 2])
    return True


@torch.no_grad()
def one_graph_gives_the_same(network: Any, chunk: int, lengths: list[int]) -> None:
    """Compare the steady step with whole utterances, in float64 to 1e-10.

    Each stream of the batch begins a chunk later than the one before, and frames past its end are
    NaN.

    Args:
        network: In evaluation mode, in float64.
        chunk: Its frames, a multiple of ``network.period``.
        lengths: Frames of each stream.
    """
    step, factor = SteadyStep(network, chunk), network.subsampling_factor
    streams = [torch.randn(1, n, network.input_size, dtype=torch.float64) for n in lengths]
    caches, clock = step.initial_state(len(lengths))
    shapes = (caches.shape, clock.shape)
    found: list[list[Tensor]] = [[] for _ in lengths]
    # Until the last output frame of each is out, and one more.
    rounds = max(n + number * chunk for number, n in enumerate(lengths)) // chunk
    for number in range(rounds + 2 + step.delay * factor // chunk + 1):
        x = torch.full((len(lengths), chunk, network.input_size), float("nan")).double()
        valid = torch.zeros(len(lengths), dtype=torch.int64)
        for row, stream in enumerate(streams):
            piece = stream[0, max(0, number - row) * chunk :][: chunk if number >= row else 0]
            x[row, : len(piece)], valid[row] = piece, len(piece)
            if number == row:
                caches[row], clock[row] = 0, 0
        y, there, caches, clock = step(x, valid, caches, clock)
        assert (caches.shape, clock.shape) == shapes and y.size(1) * factor == chunk
        assert not y[~there].abs().any()
        for row, own in enumerate(found):
            own.append(y[row, there[row]] if number >= row else y[row, :0])
    for stream, pieces in zip(streams, found, strict=True):
        whole, _ = network(stream, torch.tensor([stream.size(1)]))
        torch.testing.assert_close(torch.cat(pieces), whole[0], rtol=0, atol=1e-10)


@torch.no_grad()
def lookahead_is_exact(network: Any, period: int, changes: int = 1) -> None:
    """Check the lookahead by changing input frames, and that no output comes later than it must.

    Args:
        network: In evaluation mode, in float64.
        period: Input frames after which what frames depend on is the same again, a multiple of S.
        changes: Of each frame; more than one for networks in which the largest of several frames
            hides a change of another.
    """
    factor, ahead = network.subsampling_factor, network.lookahead()
    first = -(-ahead // period) * period  # such that what is changed changes no border
    frames = first + 2 * period + 2 * ahead + 1
    x = torch.randn(1, frames, network.input_size, dtype=torch.float64)
    batch = x.repeat(changes * period + 1, 1, 1)
    for number in range(changes * period):
        change = 30 * torch.randn(network.input_size, dtype=torch.float64)
        batch[number, first + number // changes] += change
    y, _ = network(batch, torch.full((len(batch),), frames))
    changed = (y[:-1] - y[-1]).abs().amax(2) > 1e-12  # (period * changes, T')
    changed = changed.unflatten(0, (period, changes)).any(1)
    assert changed.any(1).all()
    earliest = changed.int().argmax(1)  # the first output frame that each change shows in
    distance = first + torch.arange(period) - factor * earliest
    assert int(distance.max()) == ahead
    counts = [piece.size(1) for piece in streamed(network, x, [1] * frames)]
    for place, frame in enumerate(earliest.tolist()):
        # Before the changed frame comes in, what does not depend on it or later ones is out.
        later = min([frame, *earliest[place:].tolist()])
        if place < period - factor or later == frame:
            assert sum(counts[: first + place]) == later
