"""A pointwise convolution and the batch norm after it, folded into one matrix product.

Mean and variance of ``y = W d`` follow from mean and covariance of its input, so the normalized
output is an affine map of ``d``, and neither ``y`` nor its normalized form is ever written to
memory: a mixed operation adds to a node by one accumulating product. Backward works the same way:
sums over positions enter as small matrices (``d^T G`` and the covariance), and the gradient of
``d`` is two products.

N positions (batch, time, frequency), C channels in, D channels out, n copies (edges). Small
matrices are float64, because a variance is a difference of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from nas_encoder.ops.masking import is_recomputing
from nas_encoder.ops.norm import MaskedBatchNorm2d, over_processes


class Frames(NamedTuple):
    """Which frames of a feature map are valid.

    ``mask`` is (B, T, 1, 1) or None, ``positions`` the number of valid ones.
    """

    mask: Tensor | None
    positions: float

    def clear(self, x: Tensor) -> Tensor:
        """Set the padding frames of (B, T, F, C) to zero, in place."""
        return x if self.mask is None else x.mul_(self.mask)


def _moments(maps: Sequence[Tensor], frames: Frames, group: Any) -> tuple[Tensor, Tensor, float]:
    """Return mean (n, C), covariance (n, C, C) and the number of positions they are over."""
    size = maps[0].size(-1)
    sums = maps[0].new_empty(len(maps), size)
    squares = maps[0].new_empty(len(maps), size, size)
    for place, x in enumerate(maps):
        flat = x.view(-1, size)
        torch.sum(flat, 0, out=sums[place])
        torch.mm(flat.t(), flat, out=squares[place])
    positions = frames.positions
    mean, second = sums.double(), squares.double()
    if group is not None:
        total = mean.new_tensor(positions)
        mean, second, total = over_processes(group, mean, second, total)
        positions = float(total)
    mean = mean / positions
    second = second / positions
    return mean, second - mean[:, :, None] * mean[:, None, :], positions


class FoldedNorm(NamedTuple):
    """``n`` pointwise convolutions and their batch norms as affine maps.

    ``weight`` (n, D, C) and ``mean`` (n, C), ``covariance`` (n, C, C) of the input (None if the
    statistics are running ones), ``centre`` (n, D) and ``inverse`` (n, D) of the output: mean and
    inverse standard deviation. ``group`` are the processes that share the statistics.
    """

    weight: Tensor
    mean: Tensor | None
    covariance: Tensor | None
    centre: Tensor
    inverse: Tensor
    positions: float
    group: Any

    def affine(self, dtype: torch.dtype, share: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return matrices (n, D, C) and shifts (n, D), scaled by each copy's weight (n,)."""
        scale = self.inverse if share is None else self.inverse * share[:, None]
        matrix, shift = scale[:, :, None] * self.weight, -scale * self.centre
        return matrix.to(dtype), shift.to(dtype)

    def backward(
        self, maps: Sequence[Tensor], flows: Sequence[tuple[Tensor, Tensor]], share: Tensor
    ) -> Gradients:
        """Return the gradients of ``share * (W d - centre) * inverse``.

        Args:
            maps: The inputs d (B, T, F, C) of the n copies.
            flows: The gradients G (N, D) of their outputs, each with its sum (D,).
            share: (n,), the factor of each copy.
        """
        pairs = zip(maps, flows, strict=True)
        products = torch.stack([x.view(-1, x.size(-1)).t() @ flow for x, (flow, _) in pairs])
        product = products.double()  # (n, C, D), d^T G over positions
        total = torch.stack([total for _, total in flows]).double()
        scale = self.inverse * share[:, None]
        matrix = scale[:, :, None] * self.weight
        if self.mean is None or self.covariance is None:
            along = ((self.weight * product.mT).sum(-1) - self.centre * total) * self.inverse
            weight, curve, offset = scale[:, :, None] * product.mT, None, None
            share_gradient = along.sum(-1)
        else:
            centred = (product - self.mean[:, :, None] * total[:, None, :]).mT  # (n, D, C)
            along = (self.weight * centred).sum(-1) * self.inverse  # G times the normalized output
            slope = (scale * self.inverse * along)[:, :, None]
            weight = scale[:, :, None] * centred - slope * (self.weight @ self.covariance)
            share_gradient = along.sum(-1)
            if self.group is not None:
                # Those above are one process's parts of sums; the input's needs the whole sums.
                along, total = over_processes(self.group, along, total)
                slope = (scale * self.inverse * along)[:, :, None]
            curve = self.weight.mT @ (slope * self.weight) / self.positions
            rest = (total[:, None, :] @ matrix) / self.positions
            offset = ((self.mean[:, None, :] @ curve - rest)[:, 0]).to(products.dtype)
            curve = curve.to(products.dtype)
        dtype = products.dtype
        return Gradients(share_gradient, weight.to(dtype), matrix.to(dtype), curve, offset)


class Gradients(NamedTuple):
    """What :meth:`FoldedNorm.backward` returns.

    ``share`` (n,), ``weight`` (n, D, C); the gradient of the input is
    ``G @ matrix - d @ curve + offset`` with (n, D, C), (n, C, C) and (n, C); the last two are None
    if the statistics do not depend on the input. All but ``share`` have the maps' dtype.
    """

    share: Tensor
    weight: Tensor
    matrix: Tensor
    curve: Tensor | None
    offset: Tensor | None

    def of_input(self, place: int, flow: Tensor, x: Tensor, frames: Frames) -> Tensor:
        """Return the gradient (B, T, F, C) of one copy's input x from its output's G (N, D)."""
        if self.curve is None or self.offset is None:
            result = flow @ self.matrix[place]
        else:
            result = torch.addmm(self.offset[place], flow, self.matrix[place])
            result.addmm_(x.view(-1, x.size(-1)), self.curve[place], alpha=-1)
        return frames.clear(result.view_as(x))


def fold(
    weight: Tensor,
    norm: MaskedBatchNorm2d,
    maps: Sequence[Tensor],
    frames: Frames,
    copies: Sequence[int],
) -> FoldedNorm:
    """Fold convolutions with the batch norms of some copies of a merged operation.

    In training the running statistics of these copies are updated.

    Args:
        weight: (n, D, C), weights of the copies.
        norm: The merged norm of all copies, without scale and shift.
        maps: The inputs (B, T, F, C), one per copy or one for all.
        frames: Their valid frames.
        copies: Places of the copies in the norm.
    """
    weight = weight.double()
    eps = float(norm.eps)
    if not norm.training:
        assert norm.running_mean is not None and norm.running_var is not None
        size = weight.size(1)
        centre = norm.running_mean.view(-1, size)[list(copies)].double()
        variance = norm.running_var.view(-1, size)[list(copies)].double()
        return FoldedNorm(weight, None, None, centre, torch.rsqrt(variance + eps), 0.0, None)
    group = norm.group()
    mean, covariance, positions = _moments(maps, frames, group)
    centre = (weight @ mean[:, :, None])[:, :, 0]
    variance = ((weight @ covariance) * weight).sum(-1).clamp_(min=0.0)
    move_statistics(norm, centre, variance, positions, copies)
    inverse = torch.rsqrt(variance + eps)
    return FoldedNorm(weight, mean, covariance, centre, inverse, positions, group)


def move_statistics(
    norm: MaskedBatchNorm2d, mean: Tensor, variance: Tensor, positions: float, copies: Sequence[int]
) -> None:
    """Update the running statistics of some copies of a merged norm, as batch norm does.

    Mean and biased variance are (n, D), taken over a number of positions.
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
        if value is not None:
            rows[list(copies)] = rows[list(copies)].lerp(value.to(rows.dtype), rate)
