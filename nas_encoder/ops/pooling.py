"""3x3 pooling operations that never see padding, neither at the borders nor in a batch."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.ops.chunks import Chunk, Window, bins_after
from nas_encoder.ops.depthwise import depthwise_conv2d, depthwise_input_gradient
from nas_encoder.ops.identity import Weightless
from nas_encoder.ops.masking import apply_mask, is_capturing, strided


class _Pool3(Weightless):
    def __init__(self, stride: int) -> None:
        super().__init__(stride)
        self.window = Window(1, 1, stride)

    @property
    def context(self) -> tuple[int, int]:  # type: ignore[override]
        """Input frames before and after the first of a frame's own."""
        return self.window.context

    def make_causal(self) -> None:
        """See no further than a frame's own frames."""
        self.window = self.window.causal()

    def _moved(self, x: Tensor, fill: float = 0.0) -> tuple[Tensor, tuple[int, int]]:
        """Return (B, C, T, F), with what is to be around it in time, and the padding left to do."""
        if not self.window.delay:
            return x, (1, 1)
        return F.pad(x, (0, 0, *self.window.context), value=fill), (0, 1)

    def _in_window(self, x: Tensor, valid: Tensor | None) -> Tensor:
        """Pool the frames under windows (B, C, n, F).

        ``valid`` (B or 1, 1, n, 1) is true for those within an utterance; None if all are.
        """
        raise NotImplementedError

    def first_cache(self, empty: Tensor) -> Tensor:
        """Return the cache of streams (B, 0, F, C)."""
        return self.window.first_cache(empty)

    def step(self, chunk: Chunk, cache: Tensor) -> tuple[Chunk, Tensor]:
        """Map a chunk (B, t, F, C) to the frames that are complete."""

        def pooled(x: Tensor, under: Chunk) -> Tensor:
            return self._in_window(x, _within(under, chunk.end if chunk.last else under.end))

        shape = bins_after(chunk.x, self.stride), chunk.x.size(3)
        out, cache = self.window.step(chunk, cache, pooled, shape)
        return out.holding(out.cleared()), cache


def _within(chunk: Chunk, end: int) -> Tensor | None:
    """Return (B or 1, 1, t, 1), true for frames of utterances in a stream that ends at ``end``.

    None if all are.
    """
    mask = chunk.valid(chunk.start, chunk.end)
    if chunk.start < 0 or end < chunk.end:
        places = torch.arange(chunk.start, chunk.end, device=chunk.x.device)
        own = ((places >= 0) & (places < end)).unsqueeze(0)
        mask = own if mask is None else mask & own
    return None if mask is None else mask[:, None, :, None]


class AvgPool3(_Pool3):
    """3x3 average pooling that divides by the number of valid positions in the window."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        if mask is None and not self.window.delay and not _is_on_cpu(x):
            return F.avg_pool2d(x, 3, self.stride, padding=1, count_include_pad=False)
        return self._ninth_of_sum(x) * self._factor(x, mask)

    def _factor(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Return what the ninth of a window's sum is multiplied by, (B or 1, 1, T', F')."""
        valid = x.new_ones(1, 1, x.size(2), 1) if mask is None else mask
        valid, padding = self._moved(valid.expand(-1, -1, -1, x.size(3)))
        factor = _nine_over_count(valid, padding, self.stride)
        kept = strided(mask, self.stride)
        if kept is not None:
            factor = factor * kept
        return factor.to(x.dtype)

    def input_gradient(self, x: Tensor, mask: Tensor | None, grad: Tensor) -> Tensor:
        """Return the gradient of x (B, C, T, F) from the output's, for centred windows."""
        box = x.new_full((x.size(1), 1, 3, 3), 1 / 9)
        return depthwise_input_gradient(x, box, grad * self._factor(x, mask), self.stride, 1)

    def _ninth_of_sum(self, x: Tensor) -> Tensor:
        if not _is_on_cpu(x):
            x, padding = self._moved(x)
            return F.avg_pool2d(x, 3, self.stride, padding=padding)
        # On a CPU a depthwise convolution is several times faster than the library's pooling.
        box = x.new_full((x.size(1), 1, 3, 3), 1 / 9)
        return depthwise_conv2d(x, box, self.stride, 1, self.window.delay)

    def _in_window(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if valid is None:
            return F.avg_pool2d(x, 3, self.stride, padding=(0, 1), count_include_pad=False)
        valid = valid.to(x.dtype).expand(-1, -1, -1, x.size(3))
        factor = _nine_over_count(valid, (0, 1), self.stride)
        return F.avg_pool2d(x, 3, self.stride, padding=(0, 1)) * factor


def _nine_over_count(valid: Tensor, padding: tuple[int, int], stride: int) -> Tensor:
    """Return 9 / n for windows with n valid positions; ``valid`` is (B, 1, T, F)."""
    # Both averages divide by 9, so their ratio divides by the number of valid positions.
    return F.avg_pool2d(valid, 3, stride, padding=padding).clamp(min=1 / 16).reciprocal()


def _is_on_cpu(x: Tensor) -> bool:
    return x.device.type == "cpu" and x.dtype == torch.float32 and not is_capturing()


class MaxPool3(_Pool3):
    """3x3 max pooling over valid positions."""

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """Map (B, C, T, F) to (B, C, ceil(T/s), ceil(F/s)); see :mod:`nas_encoder.ops`."""
        x, padding = self._moved(_lowered(x, mask), torch.finfo(x.dtype).min)
        x = F.max_pool2d(x, 3, self.stride, padding=padding)
        return apply_mask(x, strided(mask, self.stride))

    def with_places(self, x: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return what ``forward`` does and what :meth:`input_gradient` needs, both (B, C, T', F').

        For centred windows; autograd does not see them.
        """
        x, places = F.max_pool2d(_lowered(x, mask), 3, self.stride, padding=1, return_indices=True)
        return apply_mask(x, strided(mask, self.stride)), places

    def input_gradient(
        self, x: Tensor, mask: Tensor | None, grad: Tensor, places: Tensor
    ) -> Tensor:
        """Return the gradient of x (B, C, T, F) from the output's, zero in padding frames."""
        stride = [self.stride, self.stride]
        found: Tensor = torch.ops.aten.max_pool2d_with_indices_backward(
            grad, x, [3, 3], stride, [1, 1], [1, 1], False, places
        )
        return found

    def _in_window(self, x: Tensor, valid: Tensor | None) -> Tensor:
        if valid is not None:
            x = x.masked_fill(~valid, torch.finfo(x.dtype).min)
        return F.max_pool2d(x, 3, self.stride, padding=(0, 1))


def _lowered(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return x (B, C, T, F) with the lowest finite number in padding frames.

    Adding a product is much faster on CPU than a masked fill, and unlike -inf that number keeps
    windows of padding only finite.
    """
    return x if mask is None else x + (1 - mask.to(x.dtype)) * torch.finfo(x.dtype).min
