"""All edges of a source as one function of autograd."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from nas_encoder.ops.masking import is_capturing, strided
from nas_encoder.search.gradient.folded.norm import Frames
from nas_encoder.search.gradient.folded.others import PairBranch, ReduceBranch, SharedBranch
from nas_encoder.search.gradient.folded.outputs import (
    Branch,
    OutputGradients,
    Outputs,
    dropout_mask,
    kept_share,
)
from nas_encoder.search.gradient.folded.separable import SeparableBranch
from nas_encoder.search.gradient.merged import (
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
KEEP = 1  # how many maps of a convolution are kept for the backward pass; others are recomputed


def can_fold(x: Tensor) -> bool:
    """Whether the hand-written path is taken for a feature map."""
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
    share has a gradient and they are computed in the backward pass alone; ``shared`` are maps
    that autograd computes.
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

    An operation with a share of exactly zero is not computed, but for the gradient of its share.

    Args:
        operations: Merged operations.
        users: For each the edges of its copies.
        dropped: Whether dropout stands behind it.
        edges: m.
        stride: s.
        x: (B, C, T, F), zero in padding frames.
        mask: (B, 1, T, 1) or None.
        shares: One for each copy of each operation, operation after operation.
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
        elif on or off:
            for value, copies in _maps(operation, x, mask, inner, [*on, *off]):
                maps.append(value)
                edges_of = [own[copy] for copy in copies]
                plan.shared.append((SharedBranch(edges_of), [places[copy] for copy in copies]))
    if plan.dropped:
        shares = shares * shares.new_tensor(factors)
    parameters = [p for branch, _ in plan.active for p in branch.parameters()]
    u = F.relu(x) if plan.active or plan.probes else x
    result: tuple[Tensor, ...] = _SourceSums.apply(plan, u, shares, *maps, *parameters)  # type: ignore[no-untyped-call]
    return result


def _maps(
    operation: nn.Module, x: Tensor, mask: Tensor | None, inner: Tensor | None, copies: list[int]
) -> list[tuple[Tensor, list[int]]]:
    """Return the maps of an operation without a branch, each with the copies that it serves."""
    if isinstance(operation, SharedPool):
        return [(operation.norm(operation.pool(x, mask), inner), copies)]
    if isinstance(operation, SharedIdentity):
        return [(x, copies)]
    assert isinstance(operation, Copies)
    return [(operation.operations[copy](x, mask), [copy]) for copy in copies]


class _SourceSums(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, u: Tensor, shares: Tensor, *tensors: Tensor) -> Any:
        maps = tensors[: len(plan.shared)]
        out = Outputs(plan.edges, plan.shape, u)
        masks = plan.masks()
        numbers = shares.tolist()
        last = u.permute(0, 2, 3, 1).contiguous()
        saved: list[Tensor] = []
        for branch, places in plan.active:
            own = shares[places].double()
            kept = [masks.get(place) for place in places]
            found = branch.forward(last, plan.frames, own, kept, out)
            plan.counts.append(len(found))
            saved += found
        for x, (shared, places) in zip(maps, plan.shared, strict=True):
            kept = [masks.get(place) for place in places]
            flat = x.permute(0, 2, 3, 1).contiguous()
            shared.forward(flat, [numbers[place] for place in places], kept, out)
        ctx.plan = plan
        ctx.masked = list(masks)
        kept_maps = maps if ctx.needs_input_grad[2] else ()
        ctx.save_for_backward(last, shares, *masks.values(), *saved, *kept_maps)
        return out.finish(plan.frames)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        plan: _Plan = ctx.plan
        u, shares, *rest = ctx.saved_tensors
        masks = dict(zip(ctx.masked, rest, strict=False))
        saved = rest[len(masks) :]
        of_u, of_shares, *needed = ctx.needs_input_grad[1:]
        flows = OutputGradients(gradients, plan.frames)
        share_gradient = torch.zeros(len(shares), dtype=torch.float64)
        du = torch.zeros_like(u) if of_u else None
        parameters: list[Tensor | None] = []
        needed_parameters = needed[len(plan.shared) :]
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
        numbers = shares.tolist()
        maps: list[Tensor | None] = []
        for number, (shared, places) in enumerate(plan.shared):
            x = saved[number].permute(0, 2, 3, 1) if of_shares else None
            kept = [masks.get(place) for place in places]
            own_gradient, dx = shared.backward(
                x, [numbers[place] for place in places], kept, flows, needed[number]
            )
            if own_gradient is not None:
                share_gradient[places] = own_gradient
            maps.append(None if dx is None else dx.view(plan.shape).permute(0, 3, 1, 2))
        return (
            None,
            None if du is None else du.permute(0, 3, 1, 2),
            share_gradient.to(shares.dtype) if of_shares else None,
            *maps,
            *parameters,
        )
