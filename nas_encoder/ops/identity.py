"""Operations without a kernel: identity, its strided form, and zero."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops.chunks import Chunk, Window, bins_after
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d


class Identity(nn.Module):
    """Return the input."""

    context = (0, 0)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return (B, C, T, F) unchanged."""
        return x

    def first_cache(self, empty: Tensor) -> tuple[()]:
        """Return the cache of streams (B, 0, F, C): nothing."""
        return ()

    def step(self, chunk: Chunk, cache: tuple[()]) -> tuple[Chunk, tuple[()]]:
        """Return a chunk (B, t, F, C) unchanged."""
        return chunk, cache


class Weightless(nn.Module):
    """An operation without parameters, whose channels do not matter."""

    context = (0, 0)

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    @classmethod
    def build(cls, channels: int, stride: int, affine: bool) -> Weightless:
        """Build it as all operations are built; ``channels`` and ``affine`` are ignored."""
        return cls(stride)


class Zero(Weightless):
    """The operation ``none`` of a search: zeros of the right shape."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to zeros (B, C, ceil(T/s), ceil(F/s))."""
        return torch.zeros_like(x[:, :, :: self.stride, :: self.stride])


def even_and_odd(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return the positions of (B, C, T, F) that are even in time and frequency, and the odd ones.

    Both are (B, C, ceil(T/2), ceil(F/2)); a zero replaces an odd position that odd sizes lack. A
    1x1 convolution of them is one of stride 2, at a quarter of its cost and far less in the
    backward pass, which in PyTorch also writes outside its memory
    (:mod:`nas_encoder.testing.convolutions`).
    """
    even, odd = x[:, :, ::2, ::2], x[:, :, 1::2, 1::2]
    return even, F.pad(odd, (0, even.size(3) - odd.size(3), 0, even.size(2) - odd.size(2)))


class FactorizedReduce(nn.Module):
    """Halve time and frequency by two shifted 1x1 convolutions (Liu et al. 2019's code).

    ReLU; half of the D output channels see the positions of the C input channels that are even in
    time and frequency, the others those odd in both; batch norm. Odd sizes are padded by a zero.
    """

    window = Window(0, 1, 2)
    context = window.context

    def __init__(self, channels: int, output_channels: int, affine: bool) -> None:
        super().__init__()
        self.output_channels = output_channels
        half = output_channels // 2
        self.even = nn.Conv2d(channels, half, 1, bias=False)
        self.odd = nn.Conv2d(channels, output_channels - half, 1, bias=False)
        self.norm = MaskedBatchNorm2d(output_channels, affine=affine)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, D, ceil(T/2), ceil(F/2)); see :mod:`nas_encoder.ops`."""
        return self.norm(self._halved(x), strided(mask, 2))  # type: ignore[no-any-return]

    def _halved(self, x: Tensor) -> Tensor:
        even, odd = even_and_odd(x)
        return torch.cat([self.even(F.relu(even)), self.odd(F.relu(odd))], dim=1)

    def first_cache(self, empty: Tensor) -> Tensor:
        """Return the cache of streams (B, 0, F, C)."""
        return self.window.first_cache(empty)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, F, C) to the frames that are complete."""
        shape = bins_after(chunk.x, 2), self.output_channels
        chunk, cache = self.window.step(chunk, cache, self._under, shape)
        return chunk.holding(chunk.cleared()), cache

    def _under(self, x: Tensor, _: Chunk) -> Tensor:
        return self.norm(self._halved(x))  # type: ignore[no-any-return]


def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    """Build the operation ``skip_connect``: identity, or its strided form."""
    return Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)
