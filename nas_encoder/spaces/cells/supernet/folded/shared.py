"""Operations equal on every edge of a source: identity, and pooling with its batch norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas_encoder.ops import MaxPool3
from nas_encoder.spaces.cells.supernet.folded.norm import Frames, statistics
from nas_encoder.spaces.cells.supernet.folded.outputs import (
    Kept,
    OutputGradients,
    Outputs,
    channels_first,
    channels_last,
)
from nas_encoder.spaces.cells.supernet.merged import SharedPool


class IdentityMap:
    """skip_connect at stride 1, or a map that autograd computes."""

    def __init__(self, frames: Frames) -> None:
        self.frames = frames

    def forward(self, x: Tensor) -> list[Tensor]:
        """Map (B, T, F, C) to (N, C), first of what the backward pass needs."""
        return [self.frames.pack(x)]

    def add(self, edge: int, x: Tensor, share: float, kept: Tensor | None, out: Outputs) -> None:
        """Add ``share`` times the map to an edge's output."""
        out.add(edge, x, share, kept)

    def along(self, gradient: Tensor, x: Tensor) -> Tensor:
        """Return the gradient () of a share from the output's (N, C)."""
        return torch.dot(gradient.view(-1), x.view(-1))

    def backward(self, x: Tensor, saved: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """Return the gradient of x (B, T, F, C) from that of the map (N, C)."""
        return self.frames.unpack(gradient)


class PoolMap(IdentityMap):
    """Pooling and its batch norm."""

    def __init__(self, module: SharedPool, mask: Tensor | None, frames: Frames) -> None:
        super().__init__(frames)
        self.module = module
        self.mask = mask

    def forward(self, x: Tensor) -> list[Tensor]:
        """See :class:`IdentityMap`."""
        pool = self.module.pool
        places: list[Tensor] = []
        if isinstance(pool, MaxPool3):
            pooled, *places = pool.with_places(channels_first(x), self.mask)
        else:
            pooled = pool(channels_first(x), self.mask)
        packed = self.frames.pack(channels_last(pooled))
        self.statistics = statistics(self.module.norm, [packed], [0])
        return [packed, *places]

    def add(self, edge: int, x: Tensor, share: float, kept: Tensor | None, out: Outputs) -> None:
        """See :class:`IdentityMap`."""
        scale, shift = self.statistics.affine(self.statistics.mean.new_tensor(share))
        out.add_affine(edge, x, scale[0], shift[0], kept)

    def along(self, gradient: Tensor, x: Tensor) -> Tensor:
        """See :class:`IdentityMap`."""
        return self.statistics.backward(0, gradient, x, wanted=False)[0].sum()

    def backward(self, x: Tensor, saved: Sequence[Tensor], gradient: Tensor) -> Tensor:
        """See :class:`IdentityMap`."""
        packed, *places = saved
        _, gradient = self.statistics.backward(0, gradient, packed)
        given = channels_first(self.frames.unpack(gradient))
        found = self.module.pool.input_gradient(channels_first(x), self.mask, given, *places)
        return channels_last(found)


class SharedBranch:
    """Adds one map to several edges.

    Args:
        edges: The edges.
        places: For each edge the place of its share.
        source: How the map is computed.
        given: Whether autograd computes it, instead of ``source`` from the state.
    """

    def __init__(
        self,
        edges: Sequence[int],
        places: Sequence[int],
        source: IdentityMap,
        given: bool = False,
    ) -> None:
        self.edges = edges
        self.places = list(places)
        self.source = source
        self.given = given

    def forward(
        self, x: Tensor, shares: Sequence[float], masks: Kept, out: Outputs
    ) -> list[Tensor]:
        """Add to the edges' outputs; return what :meth:`backward` needs."""
        saved = self.source.forward(x)
        for edge, place in zip(self.edges, self.places, strict=True):
            if shares[place] != 0.0:
                self.source.add(edge, saved[0], shares[place], masks.get(place), out)
        return saved

    def backward(
        self,
        x: Tensor,
        saved: Sequence[Tensor],
        shares: Sequence[float],
        masks: Kept,
        gradients: OutputGradients,
        of_shares: bool,
        of_x: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the shares (n,) and of x (B, T, F, C), if asked for."""
        found: list[Tensor] = []
        total: Tensor | None = None
        for edge, place in zip(self.edges, self.places, strict=True):
            share, kept = shares[place], masks.get(place)
            if of_shares:
                found.append(self.source.along(gradients.of(edge, kept), saved[0]))
            if not of_x or share == 0.0:
                continue
            own = gradients.maps[edge]
            if total is None:
                total = own * share if kept is None else (own * kept).mul_(share)
            elif kept is None:
                total.add_(own, alpha=share)
            else:
                total.addcmul_(own, kept, value=share)
        dx = None if total is None else self.source.backward(x, saved, total)
        return torch.stack(found) if of_shares else None, dx
