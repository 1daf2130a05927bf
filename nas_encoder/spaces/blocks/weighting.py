"""Weighted values of attention: fused kernels, and a backward pass of our own for CPUs.

The scores of relative positions are a product of the queries with the positions in which each row
starts one column later than the row above (Dai et al. 2019, appendix B). Read with rows shorter by
one column, it is in place; nothing is copied. The fused kernels of CPUs have no gradient for such a
bias, and autograd would write each slice's gradient into zeros of full size.

H heads, N sequences (utterances or chunks of them), R queries, S keys, P positions, D features.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from nas_encoder.ops.dropout import dropout_factor
from nas_encoder.ops.masking import is_capturing

_LEAST_PART = 32  # queries


def weighted(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    rate: float,
    places: tuple[Tensor, Tensor, int] | None = None,
) -> Tensor:
    """Return the values weighted by the softmax of the scores, (H, N, R, D).

    Args:
        query: (H, N, R, D), scaled.
        key: (H, N, S, D).
        value: (H, N, S, D).
        mask: (N or 1, R or 1, S) bool, true for keys that a query sees; at least one each.
        rate: Probability of dropping a weight.
        places: Of relative positions: queries (H, N, R, D), positions (H, P, D) and the column,
            from 0, at which the first query's scores begin in their product.
    """
    tensors = (query, key, value, *(() if places is None else places[:2]))
    if _is_own(*tensors):
        shifted, positions, start = (None, None, 0) if places is None else places
        result: Tensor = _Weighted.apply(  # type: ignore[no-untyped-call]
            query, key, value, shifted, positions, mask, start, rate
        )
        return result
    bias = None if mask is None else mask.unsqueeze(0)
    if places is not None:
        shifted, positions, start = places
        product = torch.matmul(shifted.flatten(1, 2), positions.transpose(1, 2))  # (H, N R, P)
        bias = _in_place(product, query.shape, key.size(2), start)
        if mask is not None:
            bias = bias + _low_where_unseen(mask, bias)
    # Sequences first, as fused kernels want masks.
    query, key, value = query.transpose(0, 1), key.transpose(0, 1), value.transpose(0, 1)
    if bias is not None:
        bias = bias.transpose(0, 1)
        # Those of GPUs want aligned rows, too.
        bias = bias if bias.device.type == "cpu" else bias.contiguous()
    context = F.scaled_dot_product_attention(query, key, value, bias, rate, scale=1.0)
    return context.transpose(0, 1)


def _is_own(*tensors: Tensor) -> bool:
    """Whether to use the backward pass below."""
    first = tensors[0]
    return (
        first.device.type == "cpu"
        and first.dtype in (torch.float32, torch.float64)
        and torch.is_grad_enabled()
        and any(tensor.requires_grad for tensor in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not is_capturing()
    )


def _low_where_unseen(mask: Tensor, scores: Tensor) -> Tensor:
    """Return what is added to scores: zero, or the lowest number of their type, halved.

    Finite, and half, so that no sum overflows. CPUs add it much faster than they fill by a mask.
    """
    low = float(torch.finfo(scores.dtype).min) / 2
    return scores.new_zeros(mask.shape).masked_fill_(~mask, low)


def _in_place(product: Tensor, query_shape: torch.Size, keys: int, start: int) -> Tensor:
    """Return the scores in a (contiguous) product (H, N R, P) as a view (H, N, R, S)."""
    heads, count, rows, _ = query_shape
    pitch = product.size(2) - 1
    flat = product.view(heads, count, -1)[..., start : start + rows * pitch]
    return flat.view(heads, count, rows, pitch)[..., :keys]


def _parts(rows: int, keys: int, start: int, positions: int) -> Iterator[tuple[slice, slice, int]]:
    """Cut the queries, since a part of them needs few positions beside the number of keys.

    Yields the rows and the columns of each part's product, and the column at which it begins.
    """
    size = max(_LEAST_PART, -(-rows // 4))
    # All, or groups, which have fewer positions.
    if positions != rows + keys or start != rows - 1 or size >= rows:
        yield slice(0, rows), slice(0, positions), start
        return
    for first in range(0, rows, size):
        last = min(first + size, rows)
        lowest = start - last + 1
        yield slice(first, last), slice(lowest, lowest + last - first + keys), last - first - 1


class _Weighted(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        shifted: Tensor | None,
        positions: Tensor | None,
        mask: Tensor | None,
        start: int,
        rate: float,
    ) -> Tensor:
        shape, keys = query.shape, key.size(2)
        query, key, value = (tensor.flatten(0, 1) for tensor in (query, key, value))
        scores = torch.bmm(query, key.transpose(1, 2))  # (H N, R, S)
        in_heads = scores.view(*shape[:3], keys)
        if shifted is not None and positions is not None:
            for rows, columns, first in _parts(shape[2], keys, start, positions.size(1)):
                part = shifted[:, :, rows]
                product = torch.bmm(part.flatten(1, 2), positions[:, columns].transpose(1, 2))
                in_heads[:, :, rows].add_(_in_place(product, part.shape, keys, first))
        if mask is not None:
            in_heads.add_(_low_where_unseen(mask, scores))
        weights = torch.softmax(scores, -1)
        dropped = weights * dropout_factor(weights, rate) if rate else weights
        ctx.save_for_backward(query, key, value, shifted, positions, weights, dropped)
        ctx.shape, ctx.start = shape, start
        return torch.bmm(dropped, value).view(shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, shifted, positions, weights, dropped = ctx.saved_tensors
        heads, count, rows, _ = ctx.shape
        keys = key.size(1)
        grad = grad.flatten(0, 1)
        grad_value = torch.bmm(dropped.transpose(1, 2), grad).view(heads, count, keys, -1)
        # Of the scores: with weights a and dropped ones w = a d, it is w g - a sum(w g).
        slope = torch.bmm(grad, value.transpose(1, 2)).mul_(dropped)
        slope.sub_(weights * slope.sum(-1, keepdim=True))
        grad_query = torch.bmm(slope, key).view(ctx.shape)
        grad_key = torch.bmm(slope.transpose(1, 2), query).view(heads, count, keys, -1)
        grad_shifted = grad_positions = None
        if positions is not None:
            grad_shifted, grad_positions = torch.empty_like(shifted), torch.zeros_like(positions)
            slopes = slope.view(heads, count, rows, keys)
            for own, columns, first in _parts(rows, keys, ctx.start, positions.size(1)):
                given, seen = shifted[:, :, own], positions[:, columns]
                product = slope.new_zeros(heads, count * given.size(2), seen.size(1))
                _in_place(product, given.shape, keys, first).copy_(slopes[:, :, own])
                grad_shifted[:, :, own] = torch.bmm(product, seen).view(given.shape)
                grad_positions[:, columns] += torch.bmm(
                    product.transpose(1, 2), given.flatten(1, 2)
                )
        return grad_query, grad_key, grad_value, grad_shifted, grad_positions, None, None, None
