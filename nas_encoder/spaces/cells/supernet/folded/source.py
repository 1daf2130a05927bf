"""All edges of a source as one autograd function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import is_capturing, strided
from nas_encoder.spaces.cells.supernet.folded.norm import Frames
from nas_encoder.spaces.cells.supernet.folded.others import PairBranch, ReduceBranch
from nas_encoder.spaces.cells.supernet.folded.outputs import (
    Branch,
    OutputGradients,
    Outputs,
    channels_first,
    channels_last,
    dropout_mask,
    kept_share,
)
from nas_encoder.spaces.cells.supernet.folded.separable import SeparableBranch
from nas_encoder.spaces.cells.supernet.folded.shared import IdentityMap, PoolMap, SharedBranch
from nas_encoder.spaces.cells.supernet.merged import (
    Copies,
    MergedPair7,
    MergedReduce,
    MergedSeparable,
    SharedIdentity,
    SharedPool,
)

_BRANCHES: dict[type[nn.Module], Callable[..., Branch]] = {
    MergedSeparable: SeparableBranch,
    MergedPair7: PairBranch,
    MergedReduce: ReduceBranch,
}
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
    """What is computed, and which of the shares belong to it.

    ``active`` adds to the outputs; ``probes`` have a share of exactly zero, so that only their
    share has a gradient and they are computed only in the backward pass; ``shared`` are maps that
    are equal on several edges.
    """

    frames: Frames
    shape: tuple[int, ...]
    edges: int
    active: list[tuple[Branch, list[int]]] = field(default_factory=list)
    probes: list[tuple[Branch, list[int]]] = field(default_factory=list)
    shared: list[tuple[SharedBranch, list[int]]] = field(default_factory=list)
    dropped: dict[int, float] = field(default_factory=dict)
    counts: list[int] = field(default_factory=list)

    def masks(self) -> dict[int, Tensor]:
        """Draw the dropout masks of the shares that have one."""
        rows = self.shape[0] * self.shape[1] * self.shape[2]
        return {
            place: dropout_mask((rows, self.shape[3]), probability)
            for place, probability in self.dropped.items()
        }


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
    plan = _Plan(where, shape, edges)
    factors = [1.0] * len(shares)
    numbers = shares.tolist()
    maps: list[Tensor] = []
    begin = 0
    for operation, own, drop in zip(operations, users, dropped, strict=True):
        places = list(range(begin, begin + len(own)))
        begin += len(own)
        on = [copy for copy, place in enumerate(places) if numbers[place] != 0.0]
        off = [copy for copy in range(len(own)) if copy not in on] if shares.requires_grad else []
        if drop and dropout > 0:
            for copy in (*on, *off):
                plan.dropped[places[copy]] = dropout
                factors[places[copy]] = 1.0 / kept_share(dropout)
        build = _BRANCHES.get(type(operation))
        if build is not None:
            for chosen, group, keep in ((on, plan.active, KEEP), (off, plan.probes, 0)):
                if chosen:
                    branch = build(operation, chosen, [own[copy] for copy in chosen], keep)
                    group.append((branch, [places[copy] for copy in chosen]))
        elif isinstance(operation, Copies):
            for copy in (*on, *off):
                maps.append(operation.operations[copy](x, mask))
                plan.shared.append((SharedBranch([own[copy]], None), [places[copy]]))
        elif on or off:
            one: IdentityMap | PoolMap = IdentityMap()
            if isinstance(operation, SharedPool):
                one = PoolMap(operation, mask, where)
            else:
                assert isinstance(operation, SharedIdentity)
            copies = [*on, *off]
            shared = SharedBranch([own[copy] for copy in copies], one)
            plan.shared.append((shared, [places[copy] for copy in copies]))
    if plan.dropped:
        shares = shares * shares.new_tensor(factors)
    parameters = [p for branch, _ in plan.active for p in branch.parameters()]
    result: tuple[Tensor, ...] = _SourceSums.apply(plan, x, shares, *maps, *parameters)  # type: ignore[no-untyped-call]
    return result


class _SourceSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, x: Tensor, shares: Tensor, *tensors: Tensor) -> Any:
        given = iter(tensors)
        out = Outputs(plan.edges, plan.shape, x)
        masks = plan.masks()
        numbers = shares.tolist()
        last = channels_last(x)
        u = torch.relu(last) if plan.active else last
        saved: list[Tensor] = []
        for branch, places in plan.active:
            own = shares[places].double()
            kept = [masks.get(place) for place in places]
            found = branch.forward(u, plan.frames, own, kept, out)
            plan.counts.append(len(found))
            saved += found
        maps: list[Tensor] = []
        for shared, places in plan.shared:
            kept = [masks.get(place) for place in places]
            if shared.source is None:
                value = channels_last(next(given))
                maps.append(value)
            else:
                value = shared.source.forward(last)
            shared.forward(value, [numbers[place] for place in places], kept, out)
        ctx.plan = plan
        ctx.masked = list(masks)
        ctx.given = len(maps)
        kept_maps = maps if ctx.needs_input_grad[2] else ()
        ctx.save_for_backward(last, shares, *masks.values(), *saved, *kept_maps)
        return out.finish(plan.frames)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        x, shares, *rest = ctx.saved_tensors
        masks = dict(zip(ctx.masked, rest, strict=False))
        saved = rest[len(masks) :]
        of_x, of_shares, *needed = ctx.needs_input_grad[1:]
        flows = OutputGradients(gradients, plan.frames)
        share_gradient = torch.zeros(len(shares), dtype=torch.float64)
        u = torch.relu(x) if plan.active or plan.probes else x
        du = torch.zeros_like(x) if of_x else None
        parameters: list[Tensor | None] = []
        needed_parameters = needed[ctx.given :]
        for (branch, places), count in zip(plan.active, plan.counts, strict=True):
            size = len(branch.parameters())
            wanted = any(needed_parameters[len(parameters) : len(parameters) + size])
            kept = [masks.get(place) for place in places]
            share_gradient[places], found = branch.backward(
                saved[:count], u, plan.frames, shares[places].double(), kept, flows, du, wanted
            )
            saved = saved[count:]
            parameters += found if wanted else [None] * size
        if of_shares:
            for branch, places in plan.probes:
                own = shares[places].double()
                kept = [masks.get(place) for place in places]
                branch.forward(u, plan.frames, own, kept, None)
                share_gradient[places], _ = branch.backward(
                    (), u, plan.frames, own, kept, flows, None, False
                )
        dx = None
        if du is not None:
            dx = torch.ops.aten.threshold_backward(du, u, 0) if plan.active else du
        numbers = shares.tolist()
        maps: list[Tensor | None] = []
        for shared, places in plan.shared:
            source = shared.source
            value = None
            if of_shares:
                value = saved[len(maps)] if source is None else source.again(x)
            wanted = of_x if source is not None else needed[len(maps)]
            kept = [masks.get(place) for place in places]
            own_gradient, flow = shared.backward(
                value, [numbers[place] for place in places], kept, flows, wanted
            )
            if own_gradient is not None:
                share_gradient[places] = own_gradient
            whole = None if flow is None else flow.view(plan.shape)
            if source is None:
                maps.append(None if whole is None else channels_first(whole))
            elif whole is not None and dx is not None:
                dx.add_(source.backward(x, whole))
        return (
            None,
            None if dx is None else channels_first(dx),
            share_gradient.to(shares.dtype) if of_shares else None,
            *maps,
            *parameters,
        )
