"""All edges of a source as one autograd function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import is_capturing, strided
from nas_encoder.spaces.cells.supernet.folded.branches import BRANCHES, Branch
from nas_encoder.spaces.cells.supernet.folded.norm import Frames
from nas_encoder.spaces.cells.supernet.folded.outputs import (
    OutputGradients,
    Outputs,
    channels_first,
    channels_last,
    dropout_mask,
    kept_share,
)
from nas_encoder.spaces.cells.supernet.folded.shared import IdentityMap, PoolMap, SharedBranch
from nas_encoder.spaces.cells.supernet.merged import Copies, SharedIdentity, SharedPool

FEWEST_CHANNELS = 8  # below, merging edges is as fast: a register holds 8 to 16 channels
KEEP = 2  # maps of a convolution kept for the backward pass; others are recomputed


def can_fold(x: Tensor) -> bool:
    """Whether the custom backward is used for a feature map."""
    return (
        x.device.type == "cpu"
        and x.size(1) >= FEWEST_CHANNELS
        and x.dtype in (torch.float32, torch.float64)
        and not is_capturing()
        and not torch.is_autocast_enabled("cpu")
    )


@dataclass
class _Plan:
    """What is computed.

    ``active`` adds to the outputs; ``probes`` have a share of exactly zero, so that only their
    share has a gradient and they are computed only in the backward pass; ``shared`` are maps that
    are equal on several edges; ``dropped`` are the places of shares that dropout follows.
    """

    frames: Frames
    shape: tuple[int, ...]
    edges: int
    dropout: float
    active: list[Branch] = field(default_factory=list)
    probes: list[Branch] = field(default_factory=list)
    shared: list[SharedBranch] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)


def source_sums(
    operations: Sequence[nn.Module],
    users: Sequence[Sequence[int]],
    dropped: Sequence[bool],
    edges: int,
    stride: int,
    x: Tensor,
    mask: Tensor | None,
    shares: Tensor,
    dropout: float,
) -> tuple[Tensor, ...]:
    """Return for each edge the weighted sum of its operations.

    An operation with a share of exactly zero is only computed for the gradient of its share.

    Args:
        operations: Merged operations.
        users: For each operation the edges of its copies.
        dropped: For each operation whether dropout follows it.
        edges: m.
        stride: s.
        x: (B, C, T, F), zero in padding frames.
        mask: (B, 1, T, 1) or None.
        shares: One per copy of each operation, operation after operation.
        dropout: Its probability; 0 in evaluation.

    Returns:
        m maps (B, C, ceil(T/s), ceil(F/s)).
    """
    inner = strided(mask, stride)
    batch, channels, frames, bins = x.shape
    shape = (batch, -(-frames // stride), -(-bins // stride), channels)
    if inner is None:
        where = Frames(None, float(shape[0] * shape[1] * shape[2]))
    else:
        where = Frames(inner.permute(0, 2, 3, 1), float(inner.sum()) * shape[2])
    plan = _Plan(where, shape, edges, dropout)
    numbers = shares.tolist()
    maps: list[Tensor] = []
    begin = 0
    for operation, own, drop in zip(operations, users, dropped, strict=True):
        places = range(begin, begin + len(own))
        begin += len(own)
        on = [copy for copy, place in enumerate(places) if numbers[place] != 0.0]
        off = [copy for copy in range(len(own)) if copy not in on] if shares.requires_grad else []
        copies = [*on, *off]
        if drop and dropout > 0:
            plan.dropped += [places[copy] for copy in copies]
        if type(operation) in BRANCHES:
            for chosen, group in ((on, plan.active), (off, plan.probes)):
                if chosen:
                    at = ([own[copy] for copy in chosen], [places[copy] for copy in chosen])
                    group.append(BRANCHES[type(operation)](operation, chosen, *at, where, KEEP))
        elif isinstance(operation, Copies):
            for copy in copies:
                maps.append(operation.operations[copy](x, mask))
                plan.shared.append(SharedBranch([own[copy]], [places[copy]], None))
        elif copies:
            if isinstance(operation, SharedPool):
                one: IdentityMap = PoolMap(operation, mask, where)
            else:
                assert isinstance(operation, SharedIdentity)
                one = IdentityMap()
            at = ([own[copy] for copy in copies], [places[copy] for copy in copies])
            plan.shared.append(SharedBranch(*at, one))
    if plan.dropped:
        factors = torch.ones_like(shares)
        factors[plan.dropped] = 1.0 / kept_share(dropout)
        shares = shares * factors
    parameters = [p for branch in plan.active for p in branch.parameters()]
    result: tuple[Tensor, ...] = _SourceSums.apply(plan, x, shares, *maps, *parameters)  # type: ignore[no-untyped-call]
    return result


class _SourceSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, shares: Tensor, *tensors: Tensor) -> Any:
        given = iter(tensors)
        out = Outputs(plan.edges, plan.shape, x)
        flat = (plan.shape[0] * plan.shape[1] * plan.shape[2], plan.shape[3])
        masks = {place: dropout_mask(flat, plan.dropout) for place in plan.dropped}
        numbers = shares.tolist()
        last = channels_last(x)
        u = torch.relu(last) if plan.active else last
        saved: list[Tensor] = []
        for branch in plan.active:
            found = branch.forward(u, shares, masks, out)
            plan.counts.append(len(found))
            saved += found
        maps: list[Tensor] = []
        for shared in plan.shared:
            if shared.source is None:
                value = channels_last(next(given))
                maps.append(value)
            else:
                value = shared.source.forward(last)
            shared.forward(value, numbers, masks, out)
        ctx.plan = plan
        ctx.given = len(maps)
        kept_maps = maps if ctx.needs_input_grad[2] else ()
        ctx.save_for_backward(last, shares, *masks.values(), *saved, *kept_maps)
        return out.finish(plan.frames)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        x, shares, *rest = ctx.saved_tensors
        masks = dict(zip(plan.dropped, rest, strict=False))
        saved = rest[len(masks) :]
        of_x, of_shares, *needed = ctx.needs_input_grad[1:]
        flows = OutputGradients(gradients, plan.frames)
        share_gradient = torch.zeros(len(shares), dtype=torch.float64)
        u = torch.relu(x) if plan.active or plan.probes else x
        du = torch.zeros_like(x) if of_x else None
        parameters: list[Tensor | None] = []
        needed_parameters = needed[ctx.given :]
        for branch, count in zip(plan.active, plan.counts, strict=True):
            size = len(branch.parameters())
            wanted = any(needed_parameters[len(parameters) : len(parameters) + size])
            share_gradient[branch.places], found = branch.backward(
                saved[:count], u, shares, masks, flows, du, wanted
            )
            saved = saved[count:]
            parameters += found if wanted else [None] * size
        for branch in plan.probes if of_shares else ():
            maps = branch.forward(u, shares, masks, None)
            share_gradient[branch.places], _ = branch.backward(
                maps, u, shares, masks, flows, None, False
            )
        dx = None
        if du is not None:
            dx = torch.ops.aten.threshold_backward(du, u, 0) if plan.active else du
        numbers = shares.tolist()
        of_maps: list[Tensor | None] = []
        for shared in plan.shared:
            source = shared.source
            value = None
            if of_shares:
                value = saved[len(of_maps)] if source is None else source.again(x)
            wanted = of_x if source is not None else needed[len(of_maps)]
            own, flow = shared.backward(value, numbers, masks, flows, wanted)
            if own is not None:
                share_gradient[shared.places] = own
            whole = None if flow is None else flow.view(plan.shape)
            if source is None:
                of_maps.append(None if whole is None else channels_first(whole))
            elif whole is not None and dx is not None:
                dx.add_(source.backward(x, whole))
        return (
            None,
            None if dx is None else channels_first(dx),
            share_gradient.to(shares.dtype) if of_shares else None,
            *of_maps,
            *parameters,
        )
