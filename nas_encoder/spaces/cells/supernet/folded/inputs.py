"""A cell's preprocessing of one input, ReLU, 1x1 convolution and batch norm, as one function.

Its input has the channels of four nodes and does not fit in a cache, and two cells read it. So
ReLU is not kept but repeated, rows are taken a few at a time, and only the input itself is kept,
which both cells share.

N positions (batch, time, frequency), B batch, C channels in, D channels out, T frames,
F frequency bins.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.fused import has_hooks
from nas_encoder.ops.norm import MaskedBatchNorm2d, SyncMaskedBatchNorm2d
from nas_encoder.spaces.cells.cell import PointwiseNorm
from nas_encoder.spaces.cells.supernet.folded.norm import Frames, product, statistics
from nas_encoder.spaces.cells.supernet.folded.outputs import channels_first, channels_last

_VALUES = 2**17  # of a block of rows, half a megabyte


def preprocessed(module: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
    """Return what a preprocessing layer of a supernet does, (B, D, T, F), for a map to be folded.

    Args:
        module: The layer.
        x: (B, C, T, F).
        mask: (B, 1, T, 1) or None.
    """
    if type(module) is not PointwiseNorm or not _is_known(module):
        return module(x, mask)  # type: ignore[no-any-return]
    result: Tensor = _Preprocess.apply(x, module.conv.weight, module.norm, mask)  # type: ignore[no-untyped-call]
    return result


def _is_known(module: PointwiseNorm) -> bool:
    """Whether the layer is as a supernet builds it, with no replaced part and no hooks."""
    conv, norm = module.conv, module.norm
    return (
        type(conv) is nn.Conv2d
        and conv.bias is None
        and type(norm) in (MaskedBatchNorm2d, SyncMaskedBatchNorm2d)
        and norm.track_running_stats
        and not norm.affine
        and not any(map(has_hooks, (module, conv, norm)))
    )


class _Preprocess(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, norm: MaskedBatchNorm2d, mask: Tensor | None
    ) -> Tensor:
        last = channels_last(x)
        batch, frames, bins, channels = last.shape
        matrix = weight.flatten(1)
        y = last.new_empty(batch * frames * bins, matrix.size(0))
        for rows, out in _blocks(last.view(-1, channels), y):
            out.copy_(product(torch.relu(rows), matrix))
        valid = Frames(mask, (batch, frames, bins, channels))
        y = valid.pack(y.view(batch, frames, bins, -1))
        ctx.statistics = statistics(norm, [y], [0])
        scale, shift = ctx.statistics.affine(y.new_ones(1))
        ctx.frames = valid
        ctx.save_for_backward(last, weight, y)
        return channels_first(valid.unpack(torch.addcmul(shift[0], y, scale[0])))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        last, weight, y = ctx.saved_tensors
        valid: Frames = ctx.frames
        of_x, of_weight, *_ = ctx.needs_input_grad
        _, flow = ctx.statistics.backward(0, valid.pack(channels_last(gradient)), y)
        flow = valid.unpack(flow).view(-1, y.size(1))
        matrix = weight.flatten(1)
        dx = torch.empty_like(last)
        dw = torch.zeros_like(matrix) if of_weight else None
        size = last.size(3)
        for rows, own, out in _blocks(last.view(-1, size), flow, dx.view(-1, size)):
            rectified = torch.relu(rows)
            if dw is not None:
                dw.addmm_(own.t(), rectified)
            if of_x:
                torch.ops.aten.threshold_backward.grad_input(
                    product(own, matrix.t()), rectified, 0, grad_input=out
                )
        return (
            channels_first(dx) if of_x else None,
            None if dw is None else dw.view_as(weight),
            None,
            None,
        )


def _blocks(*maps: Tensor) -> Any:
    """Yield blocks of the same rows of maps (N, ...)."""
    rows = max(1, _VALUES // maps[0].size(1))
    return zip(*(torch.split(x, rows) for x in maps), strict=True)
