"""Operations equal on every edge of a source: identity, and pooling with its batch norm."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from nas_encoder.ops.norm import over_processes
from nas_encoder.spaces.cells.supernet.folded.norm import Frames, move_statistics
from nas_encoder.spaces.cells.supernet.folded.outputs import (
    Kept,
    OutputGradients,
    Outputs,
    channels_first,
    channels_last,
)
from nas_encoder.spaces.cells.supernet.merged import SharedPool


class IdentityMap:
    """skip_connect at stride 1."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, T, F, C) to (B, T', F', C)."""
        return x

    def again(self, x: Tensor) -> Tensor:
        """Repeat :meth:`forward` in the backward pass."""
        return x

    def backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of x (B, T, F, C) from that of the map (B, T', F', C)."""
        return gradient


class PoolMap(IdentityMap):
    """Pooling and its batch norm; only the statistics are kept."""

    def __init__(self, module: SharedPool, mask: Tensor | None, frames: Frames) -> None:
        self.module = module
        self.mask = mask
        self.frames = frames
        self.training = module.norm.training
        self.group = module.norm.group() if self.training else None
        self.positions = frames.positions

    def _pool(self, x: Tensor) -> Tensor:
        return channels_last(self.module.pool(channels_first(x), self.mask))

    def forward(self, x: Tensor) -> Tensor:
        """See :class:`IdentityMap`."""
        norm = self.module.norm
        pooled = self._pool(x)
        if self.training:
            total, count = over_processes(
                self.group, pooled.sum((0, 1, 2)).double(), x.new_tensor(self.positions).double()
            )
            self.positions = float(count)
            self.mean = (total / count).to(x.dtype)
            centred = self.frames.clear(pooled - self.mean)
            flat = centred.view(-1, centred.size(-1))
            (squares,) = over_processes(self.group, (flat * flat).sum(0).double())
            variance = squares / self.positions
            move_statistics(norm, self.mean[None], variance[None], self.positions, [0])
        else:
            assert norm.running_mean is not None and norm.running_var is not None
            self.mean, variance = norm.running_mean, norm.running_var
            centred = self.frames.clear(pooled - self.mean)
        self.inverse = torch.rsqrt(variance + float(norm.eps)).to(x.dtype)
        return centred.mul_(self.inverse)

    def _normed(self, pooled: Tensor) -> Tensor:
        return self.frames.clear((pooled - self.mean).mul_(self.inverse))

    def again(self, x: Tensor) -> Tensor:
        """See :class:`IdentityMap`; from the statistics of the first time."""
        return self._normed(self._pool(x))

    def backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """See :class:`IdentityMap`."""
        with torch.enable_grad():
            leaf = channels_first(x.detach()).requires_grad_()
            pooled = self.module.pool(leaf, self.mask)
        if self.training:
            value = self._normed(channels_last(pooled.detach()))
            flat, own = gradient.view(-1, value.size(-1)), value.view(-1, value.size(-1))
            total, product = over_processes(self.group, flat.sum(0), (flat * own).sum(0))
            gradient = gradient - value.mul_(product / self.positions)
            gradient = gradient.sub_(total / self.positions)
        gradient = self.frames.clear(gradient * self.inverse)
        (dx,) = torch.autograd.grad(pooled, leaf, channels_first(gradient))
        return channels_last(dx)


class SharedBranch:
    """Adds one map, or one that is given if there is no ``source``, to several edges.

    Args:
        edges: The edges.
        places: For each edge the place of its share.
        source: How the map is computed.
    """

    def __init__(
        self, edges: Sequence[int], places: Sequence[int], source: IdentityMap | None
    ) -> None:
        self.edges = edges
        self.places = places
        self.source = source

    def forward(self, x: Tensor, shares: Sequence[float], masks: Kept, out: Outputs) -> None:
        """Add ``share * x`` (B, T', F', C) to the edges' outputs."""
        flat = x.view(-1, x.size(-1))
        for edge, place in zip(self.edges, self.places, strict=True):
            added = flat * masks[place] if place in masks else flat
            out.maps[edge].view_as(flat).add_(added, alpha=shares[place])

    def backward(
        self,
        x: Tensor | None,
        shares: Sequence[float],
        masks: Kept,
        gradients: OutputGradients,
        wanted: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the shares, if x is given, and of x, if wanted: (N, C)."""
        found: list[Tensor] = []
        dx: Tensor | None = None
        for edge, place in zip(self.edges, self.places, strict=True):
            gradient = gradients.maps[edge]
            if place in masks:
                gradient = gradient * masks[place]
            if x is not None:
                found.append(torch.dot(gradient.view(-1), x.reshape(-1)).double())
            if wanted and dx is None:
                dx = gradient * shares[place]
            elif dx is not None:
                dx.add_(gradient, alpha=shares[place])
        return torch.stack(found) if found else None, dx
