"""How far ahead an encoder sees, found by changing frames, and its streaming, whoever made it.

T input frames, F features, S subsampling factor, T' output frames, D output features.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from nas_encoder.network.tapped import TappedEncoder
from nas_encoder.peers.peer import Peer

_AT_ONCE = 32  # changed utterances
_CHANGE = 30.0
_SAME = 1e-9  # of float64


@torch.no_grad()
def streamed(encoder: Peer | TappedEncoder, x: Tensor, frames: int = 0) -> Iterator[Tensor]:
    """Encode an utterance in chunks, of an encoder of ours or a toolkit's.

    Args:
        encoder: In evaluation mode.
        x: (1, T, F).
        frames: As of :func:`chunk_of`.

    Yields:
        The output frames (1, t', D) of each chunk, t' >= 0; together they are those of ``forward``.

    Raises:
        ConfigError: The encoder does not stream.
    """
    if isinstance(encoder, Peer):
        yield from encoder.stream(x, frames)
        return
    state, size = encoder.initial_state(1), chunk_of(encoder, frames)
    for start in range(0, x.size(1), size):
        last = start + size >= x.size(1)
        y, state = encoder.step(x[:, start : start + size], state, last)
        yield y


def chunk_of(encoder: Peer | TappedEncoder, frames: int = 0) -> int:
    """Return the input frames of a chunk: the longest one of at most ``frames``, or the smallest.

    The smallest is a toolkit's own, of which there may be no other, or of ours what the encoder
    treats alike. Of ours the longest is of whole output frames.

    Raises:
        ConfigError: The encoder does not stream.
    """
    if isinstance(encoder, Peer):
        return encoder.chunk(frames)
    factor = encoder.subsampling_factor
    return frames // factor * factor or encoder.period or factor


@torch.no_grad()
def seen_ahead(network: Any, frames: int, seed: int = 0) -> int:
    """Return how many input frames after the first of its own an output frame depends on.

    Each frame of an utterance is changed, one after the other, so what is only so at its beginning
    counts too. The first frame of output frame t is S * t. A chance value that hides a change (a
    ReLU, a maximum) makes the result smaller, never larger.

    Args:
        network: With ``input_size``, ``subsampling_factor`` and
            ``forward(x (B, T, F), lengths (B,)) -> (y (B, T', D), lengths (B,))``. It is measured
            in float64 and in evaluation mode, and afterwards is as before.
        frames: T, several times what is expected.
        seed: Of the utterance and of the changes.
    """
    generator = torch.Generator().manual_seed(seed)
    shape = (frames, int(network.input_size))
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    changes = _CHANGE * torch.randn(shape, generator=generator, dtype=torch.float64)
    furthest = 0
    with _measured(network):
        for start in range(0, frames, _AT_ONCE):
            places = torch.arange(start, min(start + _AT_ONCE, frames))
            batch = x.repeat(len(places) + 1, 1, 1)  # the last one stays as it is
            batch[torch.arange(len(places)), places] += changes[places]
            y, _ = network(batch, torch.full((len(batch),), frames))
            changed = (y[:-1] - y[-1]).abs().amax(2) > _SAME  # (places, T')
            earliest = changed.int().argmax(1)
            ahead = (places - int(network.subsampling_factor) * earliest)[changed.any(1)]
            furthest = max([furthest, *ahead.tolist()])
    return furthest


@contextmanager
def _measured(network: Any) -> Iterator[None]:
    """Put a network into evaluation mode and float64."""
    training = network.training
    kept: dict[str, Tensor] = {key: own.clone() for key, own in network.state_dict().items()}
    types = {key: own.dtype for key, own in network.named_parameters()}
    network.double().eval()
    try:
        yield
    finally:
        network.to(next(iter(types.values())))
        network.load_state_dict(kept)
        network.train(training)
