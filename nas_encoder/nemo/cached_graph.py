"""What ``model.export`` of NeMo records of an encoder with its caches.

It is :class:`~nas_encoder.network.steady.SteadyStep`, right for streams of all ages in a batch, in
the form of NeMo's cache-aware graphs: batch first, frames before the chunk that are dropped, and
caches of the shapes that ``encoder.get_initial_cache_state`` gives.

Letters in shapes: B batch, F features, T frames of an input, t of a chunk, D output features, T'
output frames, N rows of D numbers that hold a stream's state.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.errors import ConfigError
from nas_encoder.nemo.chunks import Chunking
from nas_encoder.network.steady import SteadyStep
from nas_encoder.network.stream_rows import StreamRows
from nas_encoder.ops.chunks import size_of

SUBJECT = "cache_support"
_INSTEAD = "nas-encoder export --stream writes a graph with a beginning and an end of streams"


class CachedGraph:
    """A step of streams whose chunks have one size. No module, so that it adds no weights.

    Args:
        rows: The encoder's streams.
        chunks: Their sizes.
        size: N.

    Raises:
        ConfigError: It is not possible with these chunks, or with this encoder.
    """

    def __init__(self, rows: StreamRows, chunks: Chunking, size: int) -> None:
        check(rows)
        if chunks.repeated:
            rule = "chunk_size and shift_size must be equal, as a graph has each frame once; got "
            sizes = f"{chunks.frames // chunks.factor} and {chunks.shift // chunks.factor}"
            remedy = f"call encoder.setup_streaming_params(chunk_size=...); or {_INSTEAD}"
            raise ConfigError(SUBJECT, [f"{rule}{sizes}; {remedy}"])
        self.step = SteadyStep(rows.network, chunks.frames)
        self.chunks, self.size, self.width = chunks, size, int(rows.network.output_size)
        self.like = rows.like()
        assert self.step.values <= size * self.width

    @property
    def frames(self) -> int:
        """T, of the frames before the chunk and those of the chunk."""
        return self.chunks.prefix + self.chunks.frames

    def __str__(self) -> str:
        behind = f"outputs come {self.step.delay} output frames late" if self.step.delay else ""
        rest = "calls without valid frames give the rest" if self.step.delay else ""
        lines = (
            f"a graph with caches takes {self.frames} frames, of which it drops the first "
            f"{self.chunks.prefix}",
            "a length below that ends a stream",
            behind,
            rest,
        )
        return "; ".join(filter(None, lines))

    def __call__(
        self, features: Tensor, lengths: Tensor, channels: Tensor, times: Tensor, clock: Tensor
    ) -> tuple[Tensor, ...]:
        """Encode a chunk of B streams.

        Args:
            features: (B, T, F).
            lengths: (B,) valid frames, those before the chunk included; fewer than T end a stream.
            channels: (B, 1, N, D) caches; zeros of a new stream, as of the next two.
            times: (B, 1, D, 1) the last output frames.
            clock: (B,) int64.

        Returns:
            (B, D, T'), whose frames after a stream's valid ones repeat its last one; (B,) valid
            ones; and the next caches.
        """
        prefix = self.chunks.prefix
        flat = channels.flatten(1)[:, : self.step.values].to(self.like.dtype)
        fresh = (lengths.to(torch.int64) - prefix).clamp(min=0)
        chunk = features[:, prefix:].to(self.like.dtype)
        y, valid, kept, clock = self.step(chunk, fresh, flat, clock)
        counts = valid.sum(1)
        # A stream's first output frames are still to come in its first chunk.
        first = (valid.to(torch.int64).cumsum(1) == 0).sum(1) * (counts > 0)
        outputs, last = held(y, counts, times[:, 0, :, 0], first)
        unused = self.size * self.width - self.step.values
        rows = F.pad(kept, (0, unused)).to(channels.dtype)
        rows = rows.view(-1, 1, self.size, self.width)
        return outputs.transpose(1, 2), counts, rows, last[:, None, :, None], clock


def check(rows: StreamRows) -> None:
    """Refuse an encoder whose caches no graph can hold.

    Raises:
        ConfigError: It is one.
    """
    if rows.cycle is None:
        rule = "absolute positions have no end in a stream, and caches of a graph have a size; use "
        raise ConfigError(SUBJECT, [f"{rule}relative ones"])


def held(
    y: Tensor, counts: Tensor, before: Tensor, first: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Repeat the last valid frame of each stream after it.

    NeMo's CTC pipeline decodes all frames, whatever their number says; in greedy decoding a frame
    and the same again are one.

    Args:
        y: (B, T', D).
        counts: (B,) valid frames.
        before: (B, D) last frames of the steps before.
        first: (B,) place of the first valid frame, moved to the front; None for 0.

    Returns:
        (B, max(T', 1), D), and (B, D) the last frames of this step.
    """
    known = torch.cat((before.to(y.dtype).unsqueeze(1), y), 1)
    places = torch.arange(max(1, size_of(y, 1)), device=y.device) + 1
    index = places.minimum(counts.unsqueeze(1))
    if first is not None:
        index = index + first.unsqueeze(1)
    kept = known.gather(1, index.unsqueeze(2).expand(-1, -1, y.size(2)))
    return kept, kept[:, -1].to(before.dtype)
