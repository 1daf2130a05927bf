"""3x3 pooling operations that never see padding, neither at the borders nor in a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.ops.depthwise import depthwise_conv2d
from nas_encoder.ops.identity import Weightless
from nas_encoder.ops.masking import apply_mask, is_capturing, strided


class AvgPool3(Weightless):
    """3x3 average pooling that divides by the number of valid positions in the window."""

    context = (1, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        if mask is None and not _is_on_cpu(x):
            return F.avg_pool2d(x, 3, self.stride, padding=1, count_include_pad=False)
        valid = x.new_ones(1, 1, x.size(2), 1) if mask is None else mask
        # Both averages divide by 9, so their ratio divides by the number of valid positions.
        share = F.avg_pool2d(valid.expand(-1, -1, -1, x.size(3)), 3, self.stride, padding=1)
        factor = share.clamp(min=1 / 16).reciprocal()
        kept = strided(mask, self.stride)
        if kept is not None:
            factor = factor * kept
        return self._ninth_of_sum(x) * factor.to(x.dtype)

    def _ninth_of_sum(self, x: Tensor) -> Tensor:
        if not _is_on_cpu(x):
            return F.avg_pool2d(x, 3, self.stride, padding=1)
        # On a CPU a depthwise convolution is several times faster than the library's pooling.
        box = x.new_full((x.size(1), 1, 3, 3), 1 / 9)
        return depthwise_conv2d(x, box, self.stride, dilation=1)


def _is_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not is_capturing()


class MaxPool3(Weightless):
    """3x3 max pooling over valid positions."""

    context = (1, 1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        if mask is None:
            return F.max_pool2d(x, 3, self.stride, padding=1)
        # Padding becomes the lowest finite number: adding a product is much faster on CPU than a
        # masked fill, and unlike -inf it keeps windows of padding only finite.
        lowest = (1 - mask.to(x.dtype)) * torch.finfo(x.dtype).min
        x = F.max_pool2d(x + lowest, 3, self.stride, padding=1)
        return apply_mask(x, strided(mask, self.stride))
