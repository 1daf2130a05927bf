"""The convolution at the beginning of the network."""

from __future__ import annotations

from torch import Tensor, nn

from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d


class Stem(nn.Module):
    """3x3 convolution and batch norm.

    Args:
        channels: Of the input (3 with deltas).
        output_channels: 3C as in DARTS.
        stride: In time and frequency.
    """

    def __init__(
        self, channels: int, output_channels: int, stride: tuple[int, int], affine: bool = True
    ) -> None:
        super().__init__()
        self.stride = stride
        self.conv = nn.Conv2d(channels, output_channels, 3, stride=stride, padding=1, bias=False)
        self.norm = MaskedBatchNorm2d(output_channels, affine=affine)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F), zero in padding, to (B, D, ceil(T/s), ceil(F/r)), zero in padding."""
        return self.norm(self.conv(x), strided(mask, self.stride[0]))  # type: ignore[no-any-return]
