"""The chain network as an encoder: TDNN layers in a row, a third of the frame rate out.

Zheng, An, Ou 2021 (ST-NAS), section 4: six searched layers of one width, and between the third
and the fourth a fixed one of stride 3. Deviations: padding frames are masked everywhere, and the
last linear layer, which gives the classes there, is the toolkit's.

B batch, T frames, F frequency bins, C channels, D output features.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeVar

import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.deltas import WINDOW, DeltaStream, input_frames
from nas_encoder.network.tapped import TappedEncoder, Taps, output_layer
from nas_encoder.ops.chunks import Chunk, Window
from nas_encoder.ops.masking import apply_mask
from nas_encoder.spaces.tdnn_chain.space import (
    SUBSAMPLE_AFTER,
    SUBSAMPLING,
    ChainArchitecture,
    ChainConfig,
)

T = TypeVar("T")
_TDNN = re.compile(r"tdnn_c([1-9])_d([1-9])\Z")


def tdnn_shape(operation: str) -> tuple[int, int]:
    """Return half of the context and the dilation of an operation, ``tdnn_c2_d1`` -> (2, 1)."""
    match = _TDNN.match(operation)
    if match is None:
        raise ValueError(f"{operation!r} is no TDNN layer")
    return int(match[1]), int(match[2])


class TDNNLayer(nn.Module):
    """Convolution over time, ReLU, layer norm, dropout.

    Args:
        inputs: Features of an input frame.
        channels: C.
        half_context: c; the kernel is 2c + 1.
        dilation: d; the layer sees c * d frames to either side.
        stride: Stride in time.

    Attributes:
        output_channels: C.
    """

    def __init__(
        self, inputs: int, channels: int, half_context: int, dilation: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.output_channels = channels
        self.stride = stride
        self.window = Window(half_context * dilation, half_context * dilation, stride)
        self.conv = nn.Conv1d(
            inputs,
            channels,
            2 * half_context + 1,
            stride=stride,
            padding=half_context * dilation,
            dilation=dilation,
        )
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
        """Map (B, T, C') to (B, ceil(T / stride), C); both are zero in padding frames.

        ``mask`` (B, T, 1) is 1 for valid frames, or None; ``dropout`` acts in training only.
        """
        y: Tensor = self.norm(F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        y = F.dropout(y, dropout, self.training) if dropout else y
        return y if mask is None else y * mask[:, :: self.stride].to(y.dtype)

    def initial_cache(self, batch: int, like: Tensor) -> Tensor:
        """Return the cache of B streams, zeros before their first frames (B, n, C')."""
        return like.new_zeros(batch, self.window.before, self.conv.in_channels)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, C') to the frames (B, t', C) that are complete."""
        clear = chunk.holding(chunk.cleared())
        return self.window.step_frames(clear, cache, self._under, self.output_channels)

    def _under(self, x: Tensor) -> Tensor:
        conv, x = self.conv, x.transpose(1, 2)
        y = F.conv1d(x, conv.weight, conv.bias, conv.stride, 0, conv.dilation)
        return self.norm(F.relu(y).transpose(1, 2))  # type: ignore[no-any-return]


def build_tdnn(operation: str, inputs: int, channels: int) -> TDNNLayer:
    """Build the layer of an operation's name."""
    return TDNNLayer(inputs, channels, *tdnn_shape(operation))


class Chain(TappedEncoder):
    """Blocks in a row, including the layer of stride 3, and the last layer.

    Args:
        config: Sizes.
        blocks: Specification of each block.
        build: Builds a block from its specification and its number of input features.

    Attributes:
        subsampling_factor: Input frames per output frame: 3.
    """

    def __init__(
        self, config: ChainConfig, blocks: Sequence[T], build: Callable[[T, int], nn.Module]
    ) -> None:
        super().__init__(config)
        width = config.input_size * (3 if config.deltas else 1)
        self.blocks = nn.ModuleList()
        for block in blocks:
            self.blocks.append(build(block, width))
            width = config.channels
        self.subsample_after = min(SUBSAMPLE_AFTER, len(self.blocks))
        self.possible_taps = tuple(range(SUBSAMPLE_AFTER + 1, len(self.blocks)))
        self.subsample = TDNNLayer(width, width, 1, 1, SUBSAMPLING)
        self.head = output_layer(width, config.output_size)

    def through_blocks(
        self,
        x: Tensor,
        lengths: Tensor | None,
        dropout: float,
        run: Callable[[int, nn.Module, Tensor, Tensor | None], Tensor],
    ) -> Tensor:
        """Return (B, ceil(T / 3), D).

        Args:
            x: (B, T, F).
            lengths: (B,), or None if no utterance is padded.
            dropout: Probability after the layer of stride 3, in training.
            run: Called with each block's number from 1, the block, its input and the mask; returns
                its output.
        """
        x, mask = input_frames(x, lengths, self.config.deltas)
        for number, block in enumerate(self.blocks, 1):
            x = run(number, block, x, mask)
            if number == self.subsample_after:
                x = self.subsample(x, mask, dropout)
                mask = None if mask is None else mask[:, ::SUBSAMPLING]
        return self.output(x, mask)

    def output(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map the output of a block to (B, T', D), zero in padding frames."""
        return apply_mask(self.head(x), mask)


class ChainEncoder(Chain):
    """A searched chain of TDNN layers.

    With ``config.conditioning``, the condition of ``forward_taps`` is projected and added to the
    block's output.

    Attributes:
        possible_taps: The blocks, counted from 1, whose outputs ``forward_taps`` can return: at
            the output's frame rate, and not the last.

    Raises:
        ConfigError: An option breaks its rule; all problems are listed.
    """

    def __init__(self, genotype: Genotype, config: ChainConfig) -> None:
        architecture = genotype.architecture
        if not isinstance(architecture, ChainArchitecture):
            problems = [f"genotype: space '{genotype.space}' has no chain of blocks"]
        else:
            problems = config.problems(architecture=architecture)
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        super().__init__(
            config, architecture.blocks, lambda op, width: build_tdnn(op, width, config.channels)
        )
        self.genotype = genotype
        if config.conditioning:
            self.condition_projection = nn.Linear(config.output_size, config.channels)

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / 3), D); taps go through the same last layer."""
        dropout = self.config.dropout

        def run(number: int, block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            y: Tensor = block(x, mask, dropout)
            condition = taps.take(number, partial(self.output, y, mask))
            if condition is None:
                return y
            return y + apply_mask(self.condition_projection(condition), mask)

        return self.through_blocks(x, lengths, dropout, run)

    def initial_caches(self, batch: int, like: Tensor) -> Any:
        """Return the caches of B streams, of the type and on the device of ``like``."""
        blocks: Any = self.blocks
        return (
            self._arriving.first_cache(like.new_zeros(batch, 0, self.input_size)),
            tuple(block.initial_cache(batch, like) for block in blocks),
            self.subsample.initial_cache(batch, like),
        )

    def stream(self, chunk: Chunk, caches: Any, taps: Taps) -> tuple[Chunk, Any]:
        """Map a chunk (B, t, F), zero past the ends, to the frames (B, t', D) that are complete."""
        first, own, subsample = caches
        chunk, first = self._arriving.step_frames(chunk, first)
        blocks: Any = self.blocks
        kept = []
        for number, (block, cache) in enumerate(zip(blocks, own, strict=True), 1):
            chunk, cache = block.step(chunk, cache)
            kept.append(cache)
            condition = taps.take(number, partial(self.output, chunk.x, chunk.mask()))
            if condition is not None:
                chunk = chunk.holding(chunk.x + self.condition_projection(condition))
            if number == self.subsample_after:
                chunk, subsample = self.subsample.step(chunk, subsample)
        out = chunk.holding(self.output(chunk.x, chunk.mask()))
        return out, (first, tuple(kept), subsample)

    @property
    def _arriving(self) -> DeltaStream:
        return DeltaStream(self.config.deltas)

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most."""
        return receptive_field(self.genotype.architecture, self.config)


build = ChainEncoder


def receptive_field(architecture: ChainArchitecture, config: ChainConfig) -> ReceptiveField:
    """Return the receptive field of an output frame in time."""
    field, jump = ReceptiveField().plus(2 * WINDOW if config.deltas else 0), 1
    for number, block in enumerate(architecture.blocks, 1):
        half_context, dilation = tdnn_shape(block)
        field = field.plus(half_context * dilation * jump)
        if number == min(SUBSAMPLE_AFTER, len(architecture.blocks)):
            field, jump = field.plus(jump), jump * SUBSAMPLING
    return field
