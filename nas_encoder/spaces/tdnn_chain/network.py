"""The chain network as an encoder: TDNN layers in a row, a third of the frame rate out.

Zheng, An, Ou 2021 (ST-NAS), section 4: six searched layers of one width, and between the third
and the fourth a fixed one of stride 3. Where we deviate: padding frames never take part in
anything (masks), and the last linear layer, which gives the classes there, is the toolkit's.

B batch, T frames, F frequency bins, C channels, D output features.
"""

from __future__ import annotations

import re
from functools import partial

import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.deltas import with_deltas
from nas_encoder.network.tapped import TappedEncoder, Taps
from nas_encoder.ops.masking import frame_mask
from nas_encoder.spaces.tdnn_chain.architecture import ChainArchitecture
from nas_encoder.spaces.tdnn_chain.config import SUBSAMPLE_AFTER, SUBSAMPLING, ChainConfig

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
        stride: In time.

    Attributes:
        output_channels: C.
    """

    def __init__(
        self, inputs: int, channels: int, half_context: int, dilation: int, stride: int = 1
    ) -> None:
        super().__init__()
        self.output_channels = channels
        self.stride = stride
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
        """Map (B, T, C') to (B, ceil(T / stride), C), zero in padding frames.

        Args:
            x: Zero in padding frames.
            mask: (B, T, 1), 1 for frames of the utterance, or None where there is no padding.
            dropout: Its probability, in training.
        """
        y: Tensor = self.norm(F.relu(self.conv(x.transpose(1, 2))).transpose(1, 2))
        y = F.dropout(y, dropout, self.training) if dropout else y
        return y if mask is None else y * mask[:, :: self.stride].to(y.dtype)


def build_tdnn(operation: str, inputs: int, channels: int) -> TDNNLayer:
    """Build the layer of an operation's name."""
    return TDNNLayer(inputs, channels, *tdnn_shape(operation))


def chain_features(x: Tensor, lengths: Tensor | None, deltas: bool) -> tuple[Tensor, Tensor | None]:
    """Return the chain's input (B, T, F or 3F), zero in padding frames, and its mask (B, T, 1).

    Args:
        x: (B, T, F); what stands in padding frames plays no part.
        lengths: (B,), or None where no utterance is padded.
        deltas: Whether delta and delta-delta follow the features.
    """
    mask = None
    if lengths is not None:
        mask = frame_mask(lengths, x.size(1), x.dtype)[:, 0]  # (B, T, 1)
        x = x.masked_fill(mask == 0, 0.0)  # not a product: padding may be NaN
    if deltas:
        x = with_deltas(x, lengths).transpose(1, 2).flatten(2)  # (B, T, 3F)
        x = x if mask is None else x * mask  # a delta is not zero just behind the last frame
    return x, mask


class ChainEncoder(TappedEncoder):
    """A searched chain of TDNN layers.

    What a condition of ``forward_taps`` gives is projected and added to the block's output, with
    ``config.conditioning``.

    Args:
        genotype: The blocks.
        config: Everything else.

    Attributes:
        subsampling_factor: Input frames for each output frame: 3.
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
            problems = config.problems(len(architecture.blocks))
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        super().__init__(config)
        self.genotype = genotype
        width = config.input_size * (3 if config.deltas else 1)
        self.blocks = nn.ModuleList()
        for operation in architecture.blocks:
            self.blocks.append(build_tdnn(operation, width, config.channels))
            width = config.channels
        self.subsample_after = min(SUBSAMPLE_AFTER, len(self.blocks))
        self.possible_taps = tuple(range(SUBSAMPLE_AFTER + 1, len(self.blocks)))
        self.subsample = TDNNLayer(width, width, 1, 1, SUBSAMPLING)
        self.head = (
            nn.Sequential(nn.Linear(width, config.output_size), nn.ReLU())
            if config.output_size != width
            else nn.Identity()
        )
        if config.conditioning:
            self.condition_projection = nn.Linear(config.output_size, width)

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / 3), D); taps go through the same last layer."""
        x, mask = chain_features(x, lengths, self.config.deltas)
        dropout = self.config.dropout
        for number, block in enumerate(self.blocks, 1):
            x = block(x, mask, dropout)
            if number == self.subsample_after:
                x = self.subsample(x, mask, dropout)
                mask = None if mask is None else mask[:, ::SUBSAMPLING]
            condition = taps.take(number, partial(self._output, x, mask))
            if condition is not None:
                added = self.condition_projection(condition)
                x = x + (added if mask is None else added * mask.to(added.dtype))
        return self._output(x, mask)

    def _output(self, x: Tensor, mask: Tensor | None) -> Tensor:
        y: Tensor = self.head(x)
        return y if mask is None else y * mask.to(y.dtype)
