"""The layers of NAS-Bench-ASR's networks; see :mod:`.network` for the source.

B batch, T frames, t frames of a chunk, C filters.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops.chunks import Chunk, Window
from nas_encoder.ops.masking import apply_mask, is_capturing
from nas_encoder.spaces.nasbench_asr.config import CLIP, EPSILON, KERNEL

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
        return self._under(F.pad(apply_mask(x, mask), (0, 0, self.behind, self.ahead)))

    def initial_cache(self, batch: int, like: Tensor) -> Tensor:
        """Return the cache of B streams, zeros before their first frames (B, n, C')."""
        return like.new_zeros(batch, self.behind, self.in_channels)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, C') to the frames (B, t', C) that are complete."""
        window = Window(self.behind, self.ahead, int(self.stride[0]))
        clear = chunk.holding(chunk.cleared())
        return window.step_frames(clear, cache, self._under, self.out_channels)

    def _under(self, x: Tensor) -> Tensor:
        """Map all frames under the windows, (B, n, C'), to (B, T', C)."""
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

    def initial_cache(self, batch: int, like: Tensor) -> tuple[()]:
        """Return the cache of B streams: nothing."""
        return ()

    def step(self, chunk: Chunk, cache: tuple[()]) -> tuple[Chunk, tuple[()]]:
        """Map a chunk (B, t, C) to (B, t, C)."""
        return chunk.holding(self(chunk.x)), cache


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

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, C') to the frames (B, t', C) that are complete."""
        out, cache = self.conv.step(chunk, cache)
        return out.holding(self.norm(out.x)), cache
