"""NeMo's cache-aware streaming around our networks.

NeMo's programs keep the state of all streams in three tensors, index them along the batch, zero
what belongs to a stream that has ended, and put streams of different ages into one batch. So the
state of a stream is one row of numbers (:mod:`nas_encoder.network.stream_rows`): reshaped, it is
``cache_last_channel``; the stream's last output frame is ``cache_last_time``, and its place
``cache_last_channel_len``.

Letters in shapes: B batch, F features, T frames, D output features, T' output frames, S subsampling
factor, N rows of D numbers that hold a stream's state.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from nemo.collections.asr.models.configs import CacheAwareStreamingConfig
from nemo.collections.asr.parts.mixins.streaming import StreamingEncoder
from nemo.utils import logging
from torch import Tensor

from nas_encoder.common.problems import show
from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError, InputError
from nas_encoder.nemo import cached_graph
from nas_encoder.nemo.cached_graph import CachedGraph, held
from nas_encoder.nemo.chunks import Chunking, chunking, possible
from nas_encoder.nemo.neural_types import CACHES
from nas_encoder.network.stream_rows import StreamRows, new_marks

Caches = tuple[Tensor, Tensor, Tensor]


@dataclass(frozen=True)
class Sampling:
    """What NeMo's buffers ask of ``encoder.pre_encode``.

    Attributes:
        cached: Frames before a chunk that a buffer adds, at the beginning of a stream and later.
    """

    cached: tuple[int, int]

    def get_sampling_frames(self) -> list[int]:
        """Return the fewest frames of a chunk, the first and others.

        One frame has an output frame, and a buffer never sends the end of a stream if that has
        fewer than these.
        """
        return [1, 1]

    def get_streaming_cache_size(self) -> list[int]:
        """Return the frames before a chunk, see :attr:`cached`."""
        return list(self.cached)


class CacheAwareEncoder(StreamingEncoder):
    """NeMo's ``StreamingEncoder`` for a class with our ``network``.

    Attributes:
        streaming_cfg: Of :meth:`setup_streaming_params`; None before.
    """

    network: Any
    streaming_cfg: CacheAwareStreamingConfig | None = None
    _rows: StreamRows | None = None
    _chunking: Chunking | None = None
    _graph: CachedGraph | None = None
    _exports_caches = False
    _last = False  # whether the step that runs is the last of its streams

    # -- what NeMo asks -------------------------------------------------------------------------

    @property
    def att_context_size(self) -> list[int]:
        """Output frames that one sees before and after itself; -1 for the whole utterance."""
        try:
            return self._context(self.network.field())
        except ConfigError:
            return [-1, -1]

    @property
    def att_context_size_all(self) -> list[list[int]]:
        """All contexts that it was trained with, in the order of ``network.lookaheads``."""
        try:
            return [self._context(field) for field in self.network.fields()]
        except ConfigError:
            return [[-1, -1]]

    def _context(self, field: ReceptiveField) -> list[int]:
        factor = int(self.network.subsampling_factor)
        return [-(-field.left // factor), field.right // factor]

    @property
    def pre_encode(self) -> Sampling:
        """What NeMo's buffers ask of the front end."""
        chunks = self._chunking
        return Sampling((0, chunks.prefix if chunks else int(self.network.subsampling_factor)))

    @property
    def export_cache_support(self) -> bool:
        """Whether ``model.export`` writes a graph with caches; see :mod:`.cached_graph`."""
        return self._exports_caches

    @export_cache_support.setter
    def export_cache_support(self, wanted: bool) -> None:
        """Set it; ConfigError if the encoder does not stream, or no graph can hold its caches."""
        if wanted:
            cached_graph.check(self._streams())
        self._exports_caches = bool(wanted)

    def set_default_att_context_size(self, att_context_size: Any) -> None:
        """Select one of :attr:`att_context_size_all`; begin new streams then.

        Raises:
            ConfigError: It is another or no list, or the encoder does not stream.
        """
        self.setup_streaming_params(att_context_size=att_context_size)

    def setup_streaming_params(
        self,
        chunk_size: int | None = None,
        shift_size: int | None = None,
        left_chunks: int | None = None,
        att_context_size: Any = None,
        max_context: int = 10000,
    ) -> None:
        """Set ``streaming_cfg``: what NeMo's buffers send.

        Args:
            chunk_size: Output frames whose input a chunk holds; by default the fewest of chunks
                that do not overlap.
            shift_size: Output frames from one chunk to the next: ``chunk_size``, or less by the
                lookahead in output frames, which NeMo's buffers then send again.
            left_chunks: Ignored with a warning: the caches hold all that the genotype sees.
            att_context_size: One of :attr:`att_context_size_all`, which is selected for all that
                follows; None for :attr:`att_context_size`, the one selected before.
            max_context: Not needed: no cache grows for ever.

        Raises:
            ConfigError: The encoder does not stream, with what sees the whole utterance; or the
                sizes are not possible, with those that are.
        """
        if att_context_size is not None:
            self._select(_context_of(att_context_size))
        rows = self._streams()
        if left_chunks is not None:
            logging.warning(
                f"left_chunks={left_chunks} is ignored: the caches of this encoder hold exactly "
                "what its genotype sees"
            )
        self._chunking = chunks = chunking(rows, chunk_size, shift_size)
        self._graph = None
        self.streaming_cfg = CacheAwareStreamingConfig(
            chunk_size=chunks.frames,
            shift_size=chunks.shift,
            cache_drop_size=chunks.repeated // chunks.factor,
            last_channel_cache_size=-(-chunks.size // self.network.output_size),
            valid_out_len=chunks.shift // chunks.factor,
            pre_encode_cache_size=[0, chunks.prefix],
            drop_extra_pre_encoded=chunks.prefix // chunks.factor,
            last_channel_num=1,
            last_time_num=1,
        )
        logging.info(f"Streaming: {chunks}. {possible(rows)}")

    def get_initial_cache_state(
        self,
        batch_size: int = 1,
        dtype: torch.dtype = torch.float32,
        device: torch.device | None = None,
        max_dim: int = 0,
    ) -> Caches:
        """Return the caches of B streams before their first frames.

        Args:
            batch_size: B.
            dtype: Of the caches, at least as wide as the parameters, which hold them without loss.
            device: By default that of the parameters.
            max_dim: Not needed.

        Returns:
            (1, B, N, D), (1, B, D, 1) and (B,) int64, all zero; zeroing those of a stream begins
            it afresh.

        Raises:
            ConfigError: The encoder does not stream.
        """
        rows, width = self._streams(), int(self.network.output_size)
        if self.streaming_cfg is None:
            self.setup_streaming_params()
        assert self.streaming_cfg is not None
        like = rows.like()
        like = like.to(like.device if device is None else device)
        like = like.to(torch.promote_types(dtype, like.dtype))
        size = self.streaming_cfg.last_channel_cache_size
        channels = like.new_zeros(1, batch_size, size, width)
        times = like.new_zeros(1, batch_size, width, 1)
        return channels, times, new_marks(batch_size, channels.device)

    def cache_aware_stream_step(
        self,
        processed_signal: Tensor,
        processed_signal_length: Tensor | None = None,
        cache_last_channel: Tensor | None = None,
        cache_last_time: Tensor | None = None,
        cache_last_channel_len: Tensor | None = None,
        keep_all_outputs: bool = True,
        drop_extra_pre_encoded: int | None = None,
        bypass_pre_encode: bool = False,
    ) -> tuple[Tensor | None, ...]:
        """Encode a chunk of B streams of any ages, in evaluation mode.

        Args:
            processed_signal: (B, F, T), ``streaming_cfg.chunk_size`` frames after those that
                ``drop_extra_pre_encoded`` says; fewer at the end of a stream.
            processed_signal_length: (B,) valid frames; fewer than T end a stream.
            cache_last_channel: (1, B, N, D); this and the next two are of the step before, or of
                :meth:`get_initial_cache_state`; or all are None for whole utterances.
            cache_last_time: (1, B, D, 1).
            cache_last_channel_len: (B,).
            keep_all_outputs: Whether the chunk is the last of all these streams.
            drop_extra_pre_encoded: How many times S frames before the chunk are to be dropped, by
                default those of ``streaming_cfg``.
            bypass_pre_encode: Must be false.

        Returns:
            (B, D, T'), T' >= 1, whose frames after a stream's valid ones repeat its last one; (B,)
            valid frames; and the next caches.

        Raises:
            InputError: A stream has ended before, a valid frame is not finite, a chunk is too
                long, or there are no caches and it is not the last.
            ConfigError: The encoder does not stream.
        """
        with self._being_last(keep_all_outputs):
            result = super().cache_aware_stream_step(
                processed_signal,
                processed_signal_length,
                cache_last_channel,
                cache_last_time,
                cache_last_channel_len,
                keep_all_outputs,
                drop_extra_pre_encoded,
                bypass_pre_encode,
            )
        return tuple(result)

    def streaming_post_process(
        self, rets: tuple[Tensor, ...], keep_all_outputs: bool = True
    ) -> tuple[Tensor | None, ...]:
        """Return five results: those of ``forward`` with caches as they are, all frames are valid.

        Raises:
            InputError: They are of ``forward`` without caches, for a chunk that is not the last. It
                is no whole utterance, for which such a chunk was taken.
        """
        if len(rets) == 2:
            if keep_all_outputs:
                return (*rets, None, None, None)
            raise InputError(
                "a chunk that is not the last needs caches, of encoder.get_initial_cache_state() "
                "or the step before (streaming.use_cache: true in NeMo's pipelines): alone it is "
                "not what it is within its utterance"
            )
        return tuple(rets)

    # -- steps ----------------------------------------------------------------------------------

    def _streams(self) -> StreamRows:
        rows, own = self._rows, self.network
        if rows is None or rows.network is not own or rows.selected != own.selected:
            self._rows = rows = StreamRows(own)
            # Sizes were of another network or lookahead.
            self.streaming_cfg = self._chunking = self._graph = None
        return rows

    def _select(self, context: list[int]) -> None:
        if context == self.att_context_size:
            return
        known, lookaheads = self.att_context_size_all, self.network.lookaheads
        found = [own for own, seen in zip(lookaheads, known, strict=False) if seen == context]
        if len(found) == 1:
            self.network.select_lookahead(found[0])
            return
        if found:  # attention sees less far than what is beside it
            rule = f"{context} is that of several lookaheads, {found}; choose one with "
            rule += "encoder.network.select_lookahead"
        else:
            which = "one of" if len(known) > 1 else "that of the genotype,"
            rule = f"must be null or {which} {', '.join(map(str, known))}, got {context}; "
            rule += "train with several (encoder.lookaheads)"
        raise ConfigError("att_context_size", [rule])

    def _cached_graph(self) -> CachedGraph:
        """Return what an export with caches records, built before it is traced."""
        rows = self._streams()
        if self.streaming_cfg is None:
            self.setup_streaming_params()
        assert self.streaming_cfg is not None and self._chunking is not None
        if self._graph is None or self._graph.step.network is not self.network:
            size = int(self.streaming_cfg.last_channel_cache_size)
            self._graph = CachedGraph(rows, self._chunking, size)
            logging.info(f"Export: {self._graph}")
        return self._graph

    @contextmanager
    def _being_last(self, last: bool) -> Iterator[None]:
        self._last = last
        try:
            yield
        finally:
            self._last = False

    def _stream(
        self, features: Tensor, lengths: Tensor, caches: tuple[Tensor | None, ...]
    ) -> tuple[Tensor, ...]:
        """Map (B, T, F), and (B,) valid frames, to five values; see the step above."""
        state = [own for own in caches if own is not None]
        check_caches(state)
        rows = self._streams()
        if self.streaming_cfg is None:
            self.setup_streaming_params()
        assert self.streaming_cfg is not None and self._chunking is not None
        chunks, (channels, times, marks) = self._chunking, state
        prefix = int(self.streaming_cfg.drop_extra_pre_encoded) * chunks.factor
        lengths = lengths.to(device=features.device, dtype=torch.int64)
        frames = features.size(1) - prefix
        if not 0 <= frames <= chunks.frames:
            raise InputError(
                f"a chunk must be of {chunks.frames} frames after {prefix} that "
                f"drop_extra_pre_encoded says, and fewer at the end, got {features.size(1)} in all"
            )
        found = rows.step(
            features[:, prefix:].to(rows.like().dtype),
            channels[0].flatten(1),
            marks,
            lengths - prefix,
            self._last,
            chunks.repeated,
            closing=frames < chunks.frames,
        )
        counts = found.counts.to(features.device)
        outputs, last = held(found.y, counts, times[0, :, :, 0])
        batch, width = outputs.size(0), outputs.size(2)
        states = found.rows.reshape(batch, -1, width).unsqueeze(0)
        return outputs.transpose(1, 2), counts, states, last[None, :, :, None], found.marks


def _context_of(given: Any) -> list[Any]:
    """Return ``att_context_size`` as a list, which OmegaConf's and tuples become."""
    if not isinstance(given, Sequence) or isinstance(given, (str, bytes)):
        rule = f"must be null or a list of two, the frames before and after, got {show(given)}"
        raise ConfigError("att_context_size", [rule])
    return list(given)


def check_caches(given: list[Tensor]) -> None:
    """Refuse some of the caches without the others, by an InputError."""
    if len(given) < len(CACHES):
        raise InputError(f"needs {', '.join(CACHES)} together, or none of them")
