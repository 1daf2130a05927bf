"""The network of NAS-Bench-ASR as an encoder.

Mehrotra et al. 2021, section 3: four blocks, each a convolution over time (ReLU clipped at 20,
layer norm) and some cells of the searched form; then, where wanted, an LSTM. The numbers that the
paper leaves open (padding, epsilon, where dropout is) are those of the published PyTorch code,
https://github.com/SamsungLabs/nb-asr. Where we deviate:

* Padding frames never take part in anything (masks), so an utterance gives the same output in
  any batch.
* An operation that leads nowhere (beside ``zero``) has no module, and all genotypes of the same
  published hash are the same network, see
  :meth:`~nas_encoder.genotype.nasbench.SkipArchitecture.reduced`. The published code keeps such
  operations, with their parameters, and lets a skip out of a ``zero`` carry what was added there.
* The published data are those of the TensorFlow code, whose convolutions ignore the dilation, so
  that its ``conv5d2`` is ``conv5``, and whose list of branches begins with the identity. We
  follow the paper and the PyTorch code: dilation 2, and a 1 in a vector is a skip.

B batch, T frames, F frequency bins, C filters, D output features.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.genotype.nasbench import NODES, ZERO, SkipArchitecture
from nas_encoder.network.deltas import with_deltas
from nas_encoder.network.inputs import check_inputs, is_capturing
from nas_encoder.network.nasbench_config import (
    CLIP,
    EPSILON,
    KERNEL,
    STRIDES,
    SUBSAMPLING,
    NasBenchConfig,
)
from nas_encoder.ops.masking import frame_mask

Condition = Callable[[Tensor], Tensor]

# Frames ahead that a convolution may see; strided ones half as many (40 ms in both cases).
AHEAD = 4
# operation -> kernel and dilation; 'linear' is no convolution.
CONVOLUTIONS: dict[str, tuple[int, int]] = {
    "conv5": (5, 1),
    "conv5d2": (5, 2),
    "conv7": (7, 1),
    "conv7d2": (7, 2),
}


def padding(kernel: int, dilation: int = 1, stride: int = 1) -> tuple[int, int]:
    """Return the frames of zeros before and after the input of a convolution.

    A kernel that fits into what it may see of the future sees nothing of the past: ``conv5``
    begins at its own frame.
    """
    ahead = min(AHEAD // stride, kernel * dilation - stride)
    behind = (kernel - 1) * dilation - ahead
    return max(behind, 0), ahead


class TimeConvolution(nn.Conv1d):
    """Convolution over time of (B, T, C), zero-padded to ceil(T / stride) frames, ReLU to 20.

    Args:
        inputs: Filters of an input frame.
        filters: C.
        kernel: Its size.
        dilation: Frames between its taps.
        stride: In time.
        groups: Into which the filters are divided.
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

        Args:
            x: Padding frames may hold anything finite.
            mask: (B, T, 1), 1 for frames of the utterance, or None where there is no padding.
        """
        x = x if mask is None else x * mask.to(x.dtype)
        x = F.pad(x, (0, 0, self.behind, self.ahead))
        stride, dilation = int(self.stride[0]), int(self.dilation[0])
        # Three ways to the same numbers; each is the fastest on CPUs for its kind of convolution
        # (benchmarks/nasbench_asr.py), and all give frames in one piece to the layer norms.
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
        """Map (B, T, C) to (B, T, C); padding frames never reach others here."""
        return F.hardtanh(super().forward(x), 0.0, CLIP)


def build_node_operation(operation: str, filters: int, groups: int) -> nn.Module:
    """Build the module of an operation's name, ``zero`` excepted."""
    if operation == "linear":
        return TimeLinear(filters, filters)
    kernel, dilation = CONVOLUTIONS[operation]
    return TimeConvolution(filters, filters, kernel, dilation, groups=groups)


class SkipCell(nn.Module):
    """A cell: three nodes in a row with skips, then a layer norm.

    Args:
        architecture: The nodes, reduced.
        filters: C.
        groups: Of its convolutions.
        dropout: Behind every operation.

    Attributes:
        output_channels: C.
    """

    def __init__(
        self, architecture: SkipArchitecture, filters: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.output_channels = filters
        self.dropout = dropout
        self.skips = tuple(node.skips for node in architecture.nodes)
        self.operations = nn.ModuleDict(
            {
                str(number): build_node_operation(node.op, filters, groups)
                for number, node in enumerate(architecture.nodes, 1)
                if node.op != ZERO
            }
        )
        self.norm = nn.LayerNorm(filters, eps=EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, C) to (B, T, C).

        Args:
            x: Padding frames may hold anything finite.
            mask: (B, T, 1) or None where there is no padding.
        """
        outputs: list[Tensor | None] = [x]
        for number, skips in enumerate(self.skips, 1):
            total: Tensor | None = None
            if str(number) in self.operations:
                total = self.operations[str(number)](outputs[-1], mask)
                if self.dropout:
                    total = F.dropout(total, self.dropout, self.training)
            for source in skips:
                added = outputs[source]
                if added is not None:
                    total = added if total is None else total + added
            outputs.append(total)
        # Without any way to the output the cell gives zeros; what is before it keeps a gradient.
        result = x * 0.0 if outputs[-1] is None else outputs[-1]
        normed: Tensor = self.norm(result)
        return normed


class BlockStart(nn.Module):
    """The convolution and layer norm that begin a block.

    Args:
        inputs: Filters of the block before.
        filters: C.
        stride: In time.
    """

    def __init__(self, inputs: int, filters: int, stride: int) -> None:
        super().__init__()
        self.conv = TimeConvolution(inputs, filters, KERNEL, stride=stride)
        self.norm = nn.LayerNorm(filters, eps=EPSILON)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, T, C') to (B, ceil(T / stride), C)."""
        y: Tensor = self.norm(self.conv(x, mask))
        return y


class NasBenchEncoder(nn.Module):
    """A network of NAS-Bench-ASR.

    Args:
        genotype: The nodes of its cells.
        config: Everything else.

    Attributes:
        output_size: D, features of an output frame.
        subsampling_factor: Input frames for each output frame: 4.
        min_length: The fewest frames of an utterance that are accepted.
        possible_taps: The cells, counted from 1, whose outputs ``forward_taps`` can return: those
            of the last block but the last.

    Raises:
        ConfigError: An option breaks its rule; all problems are listed.
    """

    def __init__(self, genotype: Genotype, config: NasBenchConfig) -> None:
        super().__init__()
        architecture = genotype.architecture
        if not isinstance(architecture, SkipArchitecture) or len(architecture.nodes) != NODES:
            problems = [f"genotype: space '{genotype.space}' has no nodes with skips"]
        else:
            problems = config.problems()
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        self.genotype = genotype
        self.config = config
        self.output_size = config.output_size
        self.subsampling_factor = config.subsampling_factor
        self.min_length = config.subsampling_factor
        reduced = architecture.reduced()
        width = config.input_size * (3 if config.deltas else 1)
        self.starts = nn.ModuleList()
        self.cells = nn.ModuleDict()
        for filters, stride, count in zip(config.filters, STRIDES, config.block_cells, strict=True):
            self.starts.append(BlockStart(width, filters, stride))
            for _ in range(count):
                self.cells[str(len(self.cells))] = SkipCell(
                    reduced, filters, config.groups, config.dropout
                )
            width = filters
        self.possible_taps = tuple(
            range(len(self.cells) - config.block_cells[-1] + 1, len(self.cells))
        )
        # It reads from left to right, so padding, which comes last, never reaches a valid frame.
        self.lstm = nn.LSTM(width, config.lstm_size, batch_first=True) if config.lstm_size else None
        behind = config.lstm_size or width
        self.head = (
            nn.Sequential(nn.Linear(behind, config.output_size), nn.ReLU())
            if config.output_size != behind
            else nn.Identity()
        )
        if config.conditioning:
            self.condition_projection = nn.Linear(config.output_size, width)

    def forward(self, x: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
        """Encode a padded batch of utterances.

        Args:
            x: (B, T, F) features; what stands in padding frames plays no part.
            lengths: (B,) integer, number of valid frames of each utterance.

        Returns:
            (B, ceil(T / 4), D), zero in padding frames, and (B,) ceil(lengths / 4).

        Raises:
            InputError: A shape or length is wrong, or a valid frame is not finite (checked in
                eager execution, not in compiled or exported graphs).
            UtteranceTooShortError: An utterance has fewer than ``min_length`` frames.
        """
        output, output_lengths, _ = self.forward_taps(x, lengths)
        return output, output_lengths

    def forward_taps(
        self,
        x: Tensor,
        lengths: Tensor,
        condition: Condition | None = None,
        taps: Sequence[int] | None = None,
    ) -> tuple[Tensor, Tensor, list[tuple[int, Tensor]]]:
        """Encode, and return the intermediate outputs at some cells too.

        Args:
            x: (B, T, F), as in :meth:`forward`.
            lengths: (B,), as in :meth:`forward`.
            condition: With ``config.conditioning``: called at every tap with its (B, T', D); the
                (B, T', D) that it returns is projected and added to the cell's output.
            taps: Cells among ``possible_taps``; None for ``config.taps``.

        Returns:
            As :meth:`forward`, and a list of (cell number from 1, (B, T', D)); a tap goes through
            the same LSTM and last layer as the final output.
        """
        lengths = lengths.to(x.device)
        capturing = is_capturing()
        if not capturing:
            padded = check_inputs(x, lengths, self.config.input_size, self.min_length)
        valid = lengths if capturing or padded else None
        mask = None
        if valid is not None:
            mask = frame_mask(valid, x.size(1), x.dtype)[:, 0]  # (B, T, 1)
            x = x.masked_fill(mask == 0, 0.0)  # not a product: padding may be NaN
        if self.config.deltas:
            x = with_deltas(x, valid).transpose(1, 2).flatten(2)  # (B, T, 3F)
        wanted = self.config.taps if taps is None else taps
        found: list[tuple[int, Tensor]] = []
        cells = iter(self.cells.values())
        number = 0
        for start, stride, count in zip(self.starts, STRIDES, self.config.block_cells, strict=True):
            x = start(x, mask)
            mask = mask if mask is None or stride == 1 else mask[:, ::stride]
            for _ in range(count):
                number += 1
                x = next(cells)(x, mask)
                if number in wanted:
                    tap = self._output(x, mask)
                    found.append((number, tap))
                    if condition is not None and self.config.conditioning:
                        x = x + self.condition_projection(condition(tap))
        lengths = torch.div(lengths + SUBSAMPLING - 1, SUBSAMPLING, rounding_mode="floor")
        return self._output(x, mask), lengths, found

    def _output(self, x: Tensor, mask: Tensor | None) -> Tensor:
        if self.lstm is not None:
            x, _ = self.lstm(F.dropout(x, self.config.dropout, self.training))
        y: Tensor = self.head(x)
        return y if mask is None else y * mask.to(y.dtype)


def tensorflow_parameters(encoder: Any, classes: int) -> int:
    """Return the parameters as the published data count them (their column ``params``).

    They count a TensorFlow model with a fully connected layer of ``classes`` outputs behind the
    encoder. Beside ours it has one bias vector in the LSTM and not two. The layer has as many
    outputs as there are phones (48), though the paper's text and code have one more for the
    blank: so the published 26,338,848 of ``[[1,0],[1,0,0],[1,0,0,0]]`` comes out, where the
    PyTorch model has 26,341,349.

    Args:
        encoder: A :class:`NasBenchEncoder`.
        classes: Without the blank.
    """
    own = sum(int(parameter.numel()) for parameter in encoder.parameters())
    second_bias = 4 * int(encoder.config.lstm_size)
    return own - second_bias + (int(encoder.output_size) + 1) * classes
