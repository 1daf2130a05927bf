"""Batch norms of copies of an operation, without scale and shift, and products before them.

What follows a norm is a factor of each channel, so no normalized map is written: an operation adds
to a node by one pass over the output of its product, and its backward pass multiplies small
matrices by the factor instead of maps.

N valid positions (batch, time, frequency), B batch, C channels in, D channels out, T frames,
F frequency bins, n copies (edges). Maps are (B, T, F, C).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from nas_encoder.ops.masking import is_recomputing
from nas_encoder.ops.norm import MaskedBatchNorm2d, over_processes

_WIDTH = 64  # channels that sums over positions are fastest with
_HAS_ONEDNN = bool(
    torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
) and hasattr(torch.ops.mkldnn, "_linear_pointwise")


class Frames:
    """Which frames of maps of one size are valid.

    Args:
        mask: (B, 1, T, 1) or None if all are.
        shape: B, T, F, C.
    """

    def __init__(self, mask: Tensor | None, shape: Sequence[int]) -> None:
        self.shape = tuple(shape)
        self.rows = None if mask is None else mask.reshape(-1).nonzero().squeeze(1)
        batch, frames, bins, _ = self.shape
        self.positions = (batch * frames if self.rows is None else len(self.rows)) * bins

    def pack(self, x: Tensor) -> Tensor:
        """Return the valid positions (N, C) of (B, T, F, C)."""
        channels = x.size(3)
        if self.rows is not None:
            x = x.reshape(-1, x.size(2) * channels).index_select(0, self.rows)
        return x.reshape(-1, channels)

    def unpack(self, x: Tensor) -> Tensor:
        """Return (B, T, F, C), zero in padding frames, of (N, C)."""
        batch, frames, bins, _ = self.shape
        channels = x.size(1)
        if self.rows is None:
            return x.view(batch, frames, bins, channels)
        whole = x.new_zeros(batch * frames, bins * channels)
        whole.index_copy_(0, self.rows, x.view(-1, bins * channels))
        return whole.view(batch, frames, bins, channels)


def product(x: Tensor, matrix: Tensor) -> Tensor:
    """Return (N, D), each row of (N, C) multiplied by a matrix (D, C)."""
    if x.dtype == torch.float32 and _HAS_ONEDNN:
        # 10 to 30 % faster than PyTorch's own for this few channels.
        found: Tensor = torch.ops.mkldnn._linear_pointwise(x, matrix, None, "none", [], "")
        return found
    return F.linear(x, matrix)


class Statistics(NamedTuple):
    """Mean and inverse standard deviation of the maps of n copies, (n, C) each.

    ``positions`` is the number that they are over, None if they are running ones; ``group`` are
    the processes that share them.
    """

    mean: Tensor
    inverse: Tensor
    positions: float | None
    group: Any

    def affine(self, share: Tensor) -> tuple[Tensor, Tensor]:
        """Return factors and shifts (n, C) that normalize, then multiply by ``share`` (n, 1)."""
        scale = self.inverse * share
        return scale, -scale * self.mean

    def normalized(self) -> Statistics:
        """Return those of the normalized maps."""
        zeros, ones = torch.zeros_like(self.mean), torch.ones_like(self.mean)
        return self._replace(mean=zeros, inverse=ones)

    def backward(
        self, place: int, gradient: Tensor, x: Tensor, wanted: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of a factor of each channel, (C,), and of the map x (N, C).

        ``gradient`` (N, C) is that of the normalized map. If it is not ``wanted``, the second is
        not to be used.
        """
        mean, inverse = self.mean[place], self.inverse[place]
        own = wanted and self.positions is not None and self.group is None
        dx, along, total = torch.ops.aten.native_batch_norm_backward(
            gradient, x, None, None, None, mean, inverse, True, 0.0, [own, True, True]
        )
        if wanted and self.positions is None:
            dx = gradient * inverse
        elif wanted and self.positions is not None and self.group is not None:
            # A factor's gradient is one process's part of a sum; the map's needs the whole sums.
            whole, total = over_processes(self.group, along, total)
            slope = inverse * inverse * whole / self.positions
            offset = mean * slope - inverse * total / self.positions
            dx = torch.addcmul(offset, gradient, inverse).sub_(x * slope)
        return along, dx


def statistics(
    norm: MaskedBatchNorm2d, maps: Sequence[Tensor], copies: Sequence[int]
) -> Statistics:
    """Return the statistics that normalize the maps (N, C) of some copies.

    In training the running statistics of these copies are updated.

    Args:
        norm: The merged norm of all copies, without scale and shift.
        maps: One for each of the copies.
        copies: Their places in the norm.
    """
    rows, size = maps[0].shape
    eps = float(norm.eps)
    if not norm.training:
        assert norm.running_mean is not None and norm.running_var is not None
        mean = norm.running_mean.view(-1, size)[list(copies)]
        variance = norm.running_var.view(-1, size)[list(copies)]
        return Statistics(mean, torch.rsqrt(variance + eps), None, None)
    mean, variance = _moments(maps)
    positions, group = float(rows), norm.group()
    if group is not None:
        own = mean.double()
        sums = own * rows, (variance.double() + own.square()) * rows, own.new_tensor(positions)
        total, squares, count = over_processes(group, *sums)
        positions = float(count)
        own = total / positions
        variance = (squares / positions - own.square()).clamp_(min=0.0).to(mean.dtype)
        mean = own.to(mean.dtype)
    _move_statistics(norm, mean, variance, positions, copies)
    return Statistics(mean, torch.rsqrt(variance + eps), positions, group)


def _moments(maps: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
    """Return the mean and the biased variance of each channel of each map (N, C): (n, C)."""
    rows, size = maps[0].shape
    parts = next(p for p in (8, 4, 2, 1) if p == 1 or (p * size <= _WIDTH and rows % p == 0))
    found = [
        torch.batch_norm_update_stats(x.view(rows // parts, parts * size), None, None, 0.0)
        for x in maps
    ]
    means, variances = (torch.stack(own).view(-1, parts, size) for own in zip(*found, strict=True))
    if parts == 1:
        return means[:, 0], variances[:, 0]
    between, mean = torch.var_mean(means, 1, correction=0)
    return mean, variances.mean(1).add_(between)


def _move_statistics(
    norm: MaskedBatchNorm2d, mean: Tensor, variance: Tensor, positions: float, copies: Sequence[int]
) -> None:
    """Update the running statistics of some copies of a merged norm, as batch norm does.

    Mean and biased variance are (n, C), taken over a number of positions.
    """
    if is_recomputing():
        return
    assert norm.running_mean is not None and norm.running_var is not None
    assert norm.num_batches_tracked is not None
    norm.num_batches_tracked.add_(1)
    rate = 1.0 / float(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    size = mean.size(1)
    # A single value says nothing about the variance.
    unbiased = variance * (positions / (positions - 1)) if positions > 1 else None
    for buffer, value in ((norm.running_mean, mean), (norm.running_var, unbiased)):
        rows = buffer.view(-1, size)
        if value is None:
            continue
        if len(copies) == len(rows):
            rows.lerp_(value.to(rows.dtype), rate)
        else:
            rows[list(copies)] = rows[list(copies)].lerp(value.to(rows.dtype), rate)
