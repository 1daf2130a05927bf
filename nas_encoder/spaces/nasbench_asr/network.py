"""The network of NAS-Bench-ASR as an encoder.

Mehrotra et al. 2021, section 3: four blocks, each a convolution over time (ReLU clipped at 20,
layer norm) and some cells of the searched form; then, optionally, an LSTM. Values that the paper
leaves open (padding, epsilon, position of dropout) are those of the published PyTorch code,
https://github.com/SamsungLabs/nb-asr. Deviations:

* Padding frames are masked everywhere, so an utterance gives the same output in any batch.
* An operation without effect (because of ``zero``) has no module, and all genotypes of the same
  published hash are the same network, see
  :meth:`~nas_encoder.spaces.nasbench_asr.architecture.SkipArchitecture.reduced`. The
  published code keeps such operations, with their parameters, and lets a skip from a ``zero``
  carry what was added there.
* The published data are those of the TensorFlow code, whose convolutions ignore the dilation, so
  that its ``conv5d2`` is ``conv5``, and whose list of branches begins with the identity. We
  follow the paper and the PyTorch code: dilation 2, and a 1 in a vector is a skip.

B batch, T frames, F frequency bins, C filters, D output features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.common.receptive_field import ReceptiveField
from nas_encoder.errors import ConfigError
from nas_encoder.genotype import Genotype
from nas_encoder.network.deltas import WINDOW, input_frames
from nas_encoder.network.tapped import TappedEncoder, Taps, output_layer
from nas_encoder.ops.masking import apply_mask, is_capturing
from nas_encoder.spaces.nasbench_asr.architecture import NODES, ZERO, SkipArchitecture
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
        **options: The ``stride`` in time, ``dilation`` and ``groups`` of ``nn.Conv1d``.
    """

    def __init__(self, inputs: int, filters: int, kernel: int, **options: int) -> None:
        super().__init__(inputs, filters, kernel, **options)  # type: ignore[arg-type]
        self.behind, self.ahead = padding(kernel, int(self.dilation[0]), int(self.stride[0]))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        """Map (B, T, C') to (B, ceil(T / stride), C).

        Padding frames hold any finite values; ``mask`` (B, T, 1) is 1 for valid frames, or None.
        """
        x = F.pad(apply_mask(x, mask), (0, 0, self.behind, self.ahead))
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
    return TimeConvolution(filters, filters, kernel, dilation=dilation, groups=groups)


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
        return apply_mask(self.head(x), mask)


class SkipCell(nn.Module):
    """A cell: three nodes in a row with skips, then a layer norm.

    Args:
        architecture: The nodes, reduced.
        filters: C.
        groups: Groups of its convolutions.
        dropout: Dropout after every operation.

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
        """Map (B, T, C), with mask (B, T, 1) or None; padding frames hold any finite values."""
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
        # Without a path to the output the cell gives zeros; earlier layers still get a gradient.
        result = x * 0.0 if outputs[-1] is None else outputs[-1]
        normed: Tensor = self.norm(result)
        return normed


class NasBenchEncoder(NasBenchTrunk):
    """A network of NAS-Bench-ASR.

    With ``config.conditioning``, the condition of ``forward_taps`` is projected and added to the
    cell's output.

    Raises:
        ConfigError: An option breaks its rule; all problems are listed.
    """

    def __init__(self, genotype: Genotype, config: NasBenchConfig) -> None:
        architecture = genotype.architecture
        if not isinstance(architecture, SkipArchitecture) or len(architecture.nodes) != NODES:
            problems = [f"genotype: space '{genotype.space}' has no nodes with skips"]
        else:
            problems = config.problems(architecture=architecture)
        if problems:
            raise ConfigError(f"encoder of genotype '{genotype.name}'", problems)
        reduced = architecture.reduced()
        super().__init__(
            config, lambda filters: SkipCell(reduced, filters, config.groups, config.dropout)
        )
        self.genotype = genotype
        if config.conditioning:
            self.condition_projection = nn.Linear(config.output_size, config.filters[-1])

    def encode(self, x: Tensor, lengths: Tensor | None, taps: Taps) -> Tensor:
        """Return (B, ceil(T / 4), D); taps go through the same LSTM and last layer."""
        dropout = self.config.dropout

        def run(number: int, cell: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            y: Tensor = cell(x, mask)
            condition = taps.take(number, partial(self.output, y, mask, dropout))
            return y if condition is None else y + self.condition_projection(condition)

        return self.output(*self.through_cells(x, lengths, run), dropout)

    def field(self) -> ReceptiveField:
        """Return what an output frame depends on at most; refused with an LSTM."""
        return receptive_field(self.genotype.architecture, self.config)


build = NasBenchEncoder


def receptive_field(architecture: SkipArchitecture, config: NasBenchConfig) -> ReceptiveField:
    """Return the receptive field of an output frame in time.

    Raises:
        ConfigError: The network has an LSTM.
    """
    if config.lstm_size:
        raise ConfigError(
            "receptive field",
            ["lstm_size: an LSTM reaches back to the beginning of the utterance"],
        )
    field, jump = ReceptiveField().plus(2 * WINDOW if config.deltas else 0), 1
    nodes = architecture.reduced().nodes
    for stride, count in zip(STRIDES, config.block_cells, strict=True):
        behind, ahead = padding(KERNEL, stride=stride)
        field = field.plus(behind * jump, ahead * jump)
        jump *= stride
        for _ in range(count):
            states: list[ReceptiveField | None] = [field]
            for node in nodes:
                terms = [states[source] for source in node.skips]
                before = states[-1]
                if node.op in CONVOLUTIONS and before is not None:
                    behind, ahead = padding(*CONVOLUTIONS[node.op])
                    before = before.plus(behind * jump, ahead * jump)
                if node.op != ZERO:
                    terms.append(before)
                known = [term for term in terms if term is not None]
                states.append(reduce(ReceptiveField.union, known) if known else None)
            field = states[-1] or ReceptiveField()
    return field


def tensorflow_parameters(encoder: Any, classes: int) -> int:
    """Return the number of parameters as the published data count them (column ``params``).

    They count a TensorFlow model with a fully connected layer of ``classes`` outputs (without the
    blank) after the encoder. Unlike ours its LSTM has one bias vector, not two. The layer has as
    many outputs as there are phones (48), though the paper's text and code have one more for the
    blank: this yields the published 26,338,848 of ``[[1,0],[1,0,0],[1,0,0,0]]``, where the PyTorch
    model has 26,341,349.
    """
    own = sum(int(parameter.numel()) for parameter in encoder.parameters())
    second_bias = 4 * int(encoder.config.lstm_size)
    return own - second_bias + (int(encoder.output_size) + 1) * classes
