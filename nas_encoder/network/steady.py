"""The step of an encoder as one graph, for chunks of one size, from the first chunk of a stream on.

:meth:`~nas_encoder.network.tapped.TappedEncoder.step` keeps what there is: near the beginning of a
stream its caches are still growing and fewer frames come out, so graphs of it differ. Here every
stream is taken to have gone on for ever, and what is before its first frame is masked as what is
past its end is. So all sizes are constant, also those of the state, and one graph is right for a
batch of streams that began and end at different times. For that the state holds a clock, which
stops where the network cannot see the beginning or the end any more: it neither overflows nor gets
less exact, however long a stream goes on.

B batch, t frames of a chunk, F features, S subsampling factor, t' = t / S output frames, D output
features, N values of the caches.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from nas_encoder.errors import ConfigError
from nas_encoder.network import nested
from nas_encoder.network.streaming import Chunk
from nas_encoder.network.tapped import TappedEncoder, Taps

# OpenVINO cuts whole numbers to 32 bits. So does not get beyond them: a clock, and an end that has
# not come, which is after all frames of a call.
_LARGEST = (1 << 31) - 1
_FAR = 1 << 30


class SteadyStep(nn.Module):
    """An encoder's step for chunks of t frames.

    Args:
        network: An encoder that streams, in evaluation mode.
        frames: t, a multiple of ``network.period``.

    Attributes:
        frames: t.
        seen: Input frames after which a stream is as if it had gone on for ever: none of the first
            ones is seen any more.
        delay: Output frames by which the output is behind the input: so many come out before the
            first of a stream, and so many are still to come when its last frame has come in.
        values: N.

    Raises:
        ConfigError: The encoder does not stream, tells all its frames apart, or sees so far back
            and ahead that the clock would not fit into 32 bits; or t is no multiple.
    """

    def __init__(self, network: TappedEncoder, frames: int) -> None:
        super().__init__()
        state = network.initial_state(1)
        if state.cycle is None:
            rule = "absolute positions have no end in a stream; a graph of constant size has"
            raise ConfigError("streaming", [rule])
        self.seen, period = state.cycle
        if frames < period or frames % period:
            rule = f"must be a multiple of {period} frames, got {frames}"
            raise ConfigError("chunk", [rule])
        self.network, self.frames = network, frames
        like = next(own for own in network.parameters() if own.is_floating_point())
        with torch.no_grad():
            before = like.new_zeros(1, self.seen, network.input_size)
            _, state = network.step(before, state)
            piece = Chunk(before.new_zeros(1, frames, network.input_size), self.seen, False)
            out, caches = network.stream(piece, state.caches, Taps())
        self._form = nested.shapes(state.caches)
        assert state.place == self.seen and nested.shapes(caches) == self._form
        assert out.size * network.subsampling_factor == frames
        self.delay = self.seen // network.subsampling_factor - out.start
        # Frames since the end, and one, of a stream of which no output frame is still to come. No
        # more are told apart: however far back it sees, the clock is as far as it sees ahead.
        self._after = self.delay * network.subsampling_factor + 1
        if (most := self.seen + self._after * (self.seen + 1)) > _LARGEST:
            rule = f"sees {self.seen} frames of the past and gives output {self._after - 1} frames "
            rule += f"late, so its clock in a graph would get to {most}; at most {_LARGEST} fits"
            raise ConfigError("streaming", [rule])
        # Empty caches are left out, of which recorded graphs cannot say how often they fit.
        self._sizes = [size for shape in nested.leaves(self._form) if (size := math.prod(shape))]
        self.values = sum(self._sizes)

    def initial_state(self, batch: int) -> tuple[Tensor, Tensor]:
        """Return the state of B streams before their first frames: zeros (B, N) and (B,) int64."""
        like = next(own for own in self.network.parameters() if own.is_floating_point())
        clock = torch.zeros(batch, dtype=torch.int64, device=like.device)
        return like.new_zeros(batch, self.values), clock

    def forward(
        self, chunk: Tensor, lengths: Tensor, caches: Tensor, clock: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Encode a chunk of each of a batch of streams.

        Args:
            chunk: (B, t, F); valid frames are finite.
            lengths: (B,) integer, valid frames of each; fewer than t end a stream. What a stream
                gives after that is ignored; so many output frames come out as were still to come.
            caches: (B, N), of the chunk before.
            clock: (B,) int64, likewise: the input frames so far, up to where the network does not
                see the first of them; for streams that have ended, how long ago, above that, until
                nothing is still to come out.

        Returns:
            (B, t', D), zero where there is no frame of a stream; (B, t') where there is one; and
            the next caches and clock.
        """
        seen, base = self.seen, self.seen + 1
        passed = clock % base
        over = torch.div(clock, base, rounding_mode="floor")  # frames since the end, and one
        ends = torch.where(over > 0, base - over, _FAR)
        ends = torch.where((over == 0) & (lengths < self.frames), seen + lengths, ends)
        piece = Chunk(chunk, seen, False, ends, seen - passed)
        valid = piece.valid(seen, seen + self.frames)
        assert valid is not None
        piece = piece.holding(chunk.masked_fill(~valid.unsqueeze(2), 0.0))
        out, kept = self.network.stream(piece, self._unpacked(caches), Taps())
        found = out.valid(out.start, out.end)
        assert found is not None
        over = (base - ends + self.frames).clamp(0, self._after)
        clock = (passed + self.frames).clamp(max=seen) + over * base
        leaves = zip(nested.leaves(kept), nested.leaves(self._form), strict=True)
        flat = [own.flatten(1) for own, shape in leaves if math.prod(shape)]
        return out.x, found, torch.cat(flat, 1), clock

    def _unpacked(self, caches: Tensor) -> Any:
        pieces = iter(torch.split(caches, self._sizes, 1))
        return nested.filled(self._form, pieces, caches)
