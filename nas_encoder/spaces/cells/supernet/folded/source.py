"""All edges of a source as one autograd function."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import islice
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
    Rectified,
    channels_first,
    channels_last,
    dropout_mask,
    kept_share,
)
from nas_encoder.spaces.cells.supernet.folded.shared import IdentityMap, PoolMap, SharedBranch
from nas_encoder.spaces.cells.supernet.merged import Copies, SharedIdentity, SharedPool

FEWEST_CHANNELS = 8  # below, merging edges is as fast: a register holds 8 to 16 channels


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
    edges: int
    dropout: float
    active: list[Branch] = field(default_factory=list)
    probes: list[Branch] = field(default_factory=list)
    shared: list[SharedBranch] = field(default_factory=list)
    dropped: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)  # of tensors kept for active, then shared


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
    where = Frames(inner, shape)
    plan = _Plan(where, edges, dropout)
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
                    group.append(BRANCHES[type(operation)](operation, chosen, *at, where))
        elif isinstance(operation, Copies):
            for copy in copies:
                maps.append(operation.operations[copy](x, mask))
                plan.shared.append(
                    SharedBranch([own[copy]], [places[copy]], IdentityMap(where), True)
                )
        elif copies:
            if isinstance(operation, SharedPool):
                one: IdentityMap = PoolMap(operation, mask, where)
            else:
                assert isinstance(operation, SharedIdentity)
                one = IdentityMap(where)
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
        frames = plan.frames
        size = frames.positions, frames.shape[3]
        masks = {place: dropout_mask(size, plan.dropout, x) for place in plan.dropped}
        numbers = shares.tolist()
        last = channels_last(x)
        given = iter(tensors)
        out = Outputs(plan.edges)
        saved: list[Tensor] = []
        of_parameters = ctx.needs_input_grad[3 + sum(s.given for s in plan.shared) :]
        u = Rectified(last) if plan.active else None
        begin = 0
        for branch in plan.active:
            assert u is not None
            end = begin + len(branch.parameters())
            found = branch.forward(u, shares, masks, out, any(of_parameters[begin:end]))
            begin = end
            plan.counts.append(len(found))
            saved += found
        for shared in plan.shared:
            found = shared.forward(
                channels_last(next(given)) if shared.given else last, numbers, masks, out
            )
            plan.counts.append(len(found))
            saved += found
        ctx.plan = plan
        ctx.save_for_backward(last, shares, *masks.values(), *saved)
        return out.finish(frames, x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        x, shares, *rest = ctx.saved_tensors
        masks = dict(zip(plan.dropped, rest, strict=False))
        saved = iter(rest[len(masks) :])
        of_x, of_shares, *needed = ctx.needs_input_grad[1:]
        given = sum(s.given for s in plan.shared)
        of_maps, of_parameters = needed[:given], needed[given:]
        kept = [list(islice(saved, count)) for count in plan.counts]
        flows = OutputGradients(gradients, plan.frames)
        share_gradient = torch.zeros_like(shares)
        probes = plan.probes if of_shares else []
        u = Rectified(x) if plan.active or probes else None
        parameters: list[Tensor | None] = []
        for branch in plan.active:
            assert u is not None
            size = len(branch.parameters())
            wanted = any(of_parameters[len(parameters) : len(parameters) + size])
            own, found = branch.backward(kept.pop(0), u, shares, masks, flows, of_x, wanted)
            share_gradient[branch.places] = own
            parameters += found if wanted else [None] * size
        for branch in probes:
            assert u is not None
            maps = branch.forward(u, shares, masks, None, False)
            own, _ = branch.backward(maps, u, shares, masks, flows, False, False)
            share_gradient[branch.places] = own
        dx = None
        if of_x:
            dx = u.gradient() if u is not None and plan.active else torch.zeros_like(x)
        maps_gradient: list[Tensor | None] = []
        numbers = shares.tolist()
        for shared in plan.shared:
            wanted = of_maps[len(maps_gradient)] if shared.given else of_x
            some, flow = shared.backward(x, kept.pop(0), numbers, masks, flows, of_shares, wanted)
            if some is not None:
                share_gradient[shared.places] = some
            if shared.given:
                maps_gradient.append(None if flow is None else channels_first(flow))
            elif flow is not None and dx is not None:
                dx.add_(flow)
        return (
            None,
            None if dx is None else channels_first(dx),
            share_gradient if of_shares else None,
            *maps_gradient,
            *parameters,
        )
