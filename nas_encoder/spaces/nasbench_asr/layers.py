"""The layers of NAS-Bench-ASR's network: convolutions over time, a block's start, the trunk.

See :mod:`nas_encoder.spaces.nasbench_asr.network` for sources and deviations.

B batch, T frames, F frequency bins, C filters, D output features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.network.deltas import input_frames
from nas_encoder.network.tapped import TappedEncoder, output_layer
from nas_encoder.ops.masking import is_capturing
from nas_encoder.spaces.nasbench_asr.config import CLIP, EPSILON, KERNEL, STRIDES, NasBenchConfig

# Future frames that a convolution may see; strided ones half as many (40 ms in both cases).
AHEAD = 4
# operation -> kernel and dilation; 'linear' is not a convolution.
CONVOLUTIONS: dict[str, tuple[int, int]] = {
    "conv5": (5, 1),
    "conv5d2": (5, 2),
    "conv7": (7, 1),
    "conv7d2": (7, 2),
}


def padding(kernel: int, dilation: int = 1, stride: int = 1) -> tuple[int, int]:
    """Return the frames of zero padding before and after the input of a convolution.

    A kernel that fits into its permitted future sees nothing of the past: ``conv5`` starts at the
    current frame.
    """
    ahead = min(AHEAD // stride, kernel * dilation - stride)
    behind = (kernel - 1) * dilation - ahead
    return max(behind, 0), ahead


class TimeConvolution(nn.Conv1d):
    """Convolution over time of (B, T, C), zero-padded to ceil(T / stride) frames, ReLU to 20.

    Args:
        inputs: Filters of an input frame.
        filters: C.
        kernel: Kernel size.
        dilation: Distance between its taps, in frames.
        stride: Stride in time.
        groups: Number of groups of the filters.
    """

    def __init__(
        self,
        inputs: int,
        filters: int,
        kernel: int,
        dilation: int = 1,
        stride: int = 1,
        groups: int = 1,
    ) -> None:
        super().__init__(inputs, filters, kernel, stride, dilation=dilation, groups=groups)
        self.behind, self.ahead = padding(kernel, dilation, stride)

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, T, C') to (B, ceil(T / stride), C).

        Padding frames hold any finite values; ``mask`` (B, T, 1) is 1 for valid frames, or None.
        """
        x = x if mask is None else x * mask.to(x.dtype)
        x = F.pad(x, (0, 0, self.behind, self.ahead))
        stride, dilation = int(self.stride[0]), int(self.dilation[0])
        # Three ways to compute the same; each is the fastest on CPUs for its kind of convolution
        # (benchmarks/nasbench_asr.py), and all give contiguous frames to the layer norms.
        if self.groups > 1:  # an image of one row, (B, C, 1, T), in the layout of (B, T, C)
            kernel = self.weight.unsqueeze(2).contiguous(memory_format=torch.channels_last)
            image = x.transpose(1, 2).unsqueeze(2)
            y = F.conv2d(
                image,
                kernel,
                self.bias,
                stride=(1, stride),
                dilation=(1, dilation),
                groups=self.groups,
            )
            y = y.squeeze(2).transpose(1, 2)
        elif stride == 1 or dilation > 1 or is_capturing():
            y = super().forward(x.transpose(1, 2).contiguous()).transpose(1, 2).contiguous()
        else:  # windows (B, T', C' * kernel) and one matrix product
            windows = x.unfold(1, int(self.kernel_size[0]), stride).flatten(2)
            y = F.linear(windows, self.weight.flatten(1), self.bias)
        return F.hardtanh(y, 0.0, CLIP)


class TimeLinear(nn.Linear):
    """Fully connected layer on each frame, ReLU to 20."""

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, T, C) to (B, T, C); padding frames do not affect others here."""
        return F.hardtanh(super().forward(x), 0.0, CLIP)


def build_node_operation(operation: str, filters: int, groups: int) -> nn.Module:
    """Build the module of an operation; ``zero`` has none."""
    if operation == "linear":
        return TimeLinear(filters, filters)
    kernel, dilation = CONVOLUTIONS[operation]
    return TimeConvolution(filters, filters, kernel, dilation, groups=groups)


class BlockStart(nn.Module):
    """The convolution and layer norm that start a block, from ``inputs`` to C filters."""

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv = TimeConvolution(inputs, filters, KERNEL, stride=stride)
        self.norm = nn.LayerNorm(filters, eps=EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, C') to (B, ceil(T / stride), C)."""
        y: Tensor = self.norm(self.conv(x, mask))
        return y


class NasBenchTrunk(TappedEncoder):
    """The part of NAS-Bench-ASR's networks that does not depend on the contents of cells.

    Args:
        config: Sizes.
        build_cell: Builds a cell with a given number of filters.

    Attributes:
        subsampling_factor: Input frames per output frame: 4.
        possible_taps: The cells, counted from 1, of the last block but the last.
    """

    def __init__(self, config: NasBenchConfig, build_cell: Callable[[int], nn.Module]) -> None:
        super().__init__(config)
        width = config.input_size * (3 if config.deltas else 1)
        self.starts = nn.ModuleList()
        self.cells = nn.ModuleDict()
        for filters, stride, count in zip(config.filters, STRIDES, config.block_cells, strict=True):
            self.starts.append(BlockStart(width, filters, stride))
            for _ in range(count):
                self.cells[str(len(self.cells))] = build_cell(filters)
            width = filters
        self.possible_taps = tuple(
            range(len(self.cells) - config.block_cells[-1] + 1, len(self.cells))
        )
        # It reads from left to right, so trailing padding never affects a valid frame.
        self.lstm = nn.LSTM(width, config.lstm_size, batch_first=True) if config.lstm_size else None
        self.head = output_layer(config.lstm_size or width, config.output_size)

    def through_cells(
        self,
        x: Tensor,
        lengths: Tensor | None,
        run: Callable[[int, nn.Module, Tensor, Tensor | None], Tensor],
    ) -> tuple[Tensor, Tensor | None]:
        """Return the last cell's output, (B, ceil(T / 4), C), and its mask, (B, T', 1) or None.

        Args:
            x: (B, T, F); values in padding frames are ignored.
            lengths: (B,), or None if no utterance is padded.
            run: Called with each cell's number from 1, the cell, its input and the mask; returns
                its output.
        """
        x, mask = input_frames(x, lengths, self.config.deltas)
        cells = enumerate(self.cells.values(), 1)
        for start, stride, count in zip(self.starts, STRIDES, self.config.block_cells, strict=True):
            x = start(x, mask)
            mask = mask if mask is None or stride == 1 else mask[:, ::stride]
            for number, cell in itertools.islice(cells, count):
                x = run(number, cell, x, mask)
        return x, mask

    def output(self, x: Tensor, mask: Tensor | None, dropout: float) -> Tensor:
        """Map the output of a cell of the last block to (B, T', D), zero in padding frames."""
        if self.lstm is not None:
            x, _ = self.lstm(F.dropout(x, dropout, self.training))
        y: Tensor = self.head(x)
        return y if mask is None else y * mask.to(y.dtype)
