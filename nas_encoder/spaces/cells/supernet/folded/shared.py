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
        """Return (B, T, F, C) unchanged."""
        return x

    def again(self, x: Tensor) -> Tensor:
        """Repeat :meth:`forward`."""
        return x

    def backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of x from that of the map."""
        return gradient


class PoolMap:
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
        """Map (B, T, F, C) to (B, T', F', C)."""
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

    def again(self, x: Tensor) -> Tensor:
        """Repeat :meth:`forward` from its statistics."""
        return self.frames.clear((self._pool(x) - self.mean).mul_(self.inverse))

    def backward(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Return the gradient of x (B, T, F, C) from that of the map (B, T', F', C)."""
        with torch.enable_grad():
            leaf = channels_first(x.detach()).requires_grad_()
            pooled = self.module.pool(leaf, self.mask)
        if self.training:
            value = channels_last(pooled.detach())
            value = self.frames.clear((value - self.mean).mul_(self.inverse))
            flat, own = gradient.view(-1, value.size(-1)), value.view(-1, value.size(-1))
            total, product = over_processes(self.group, flat.sum(0), (flat * own).sum(0))
            gradient = gradient - value.mul_(product / self.positions)
            gradient = gradient.sub_(total / self.positions)
        gradient = self.frames.clear(gradient * self.inverse)
        (dx,) = torch.autograd.grad(pooled, leaf, channels_first(gradient))
        return channels_last(dx)


class SharedBranch:
    """Adds one map to several edges, with a weight for each."""

    def __init__(self, edges: Sequence[int], source: IdentityMap | PoolMap | None) -> None:
        self.edges = edges
        self.source = source

    def forward(self, x: Tensor, shares: Sequence[float], kept: Kept, out: Outputs) -> None:
        """Add ``share * x`` (B, T', F', C) to the edges' outputs."""
        flat = x.view(-1, x.size(-1))
        for edge, share, keep in zip(self.edges, shares, kept, strict=True):
            total = out.maps[edge].view_as(flat)
            total.add_(flat if keep is None else flat * keep, alpha=share)

    def backward(
        self,
        x: Tensor | None,
        shares: Sequence[float],
        kept: Kept,
        gradients: OutputGradients,
        wanted: bool,
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the gradients of the shares, if x is given, and of x, if wanted: (N, C)."""
        found: list[Tensor] = []
        dx: Tensor | None = None
        for edge, share, keep in zip(self.edges, shares, kept, strict=True):
            gradient = gradients.maps[edge] if keep is None else gradients.maps[edge] * keep
            if x is not None:
                found.append(torch.dot(gradient.view(-1), x.reshape(-1)).double())
            if wanted:
                if dx is None:
                    dx = gradient * share
                else:
                    dx.add_(gradient, alpha=share)
        return torch.stack(found) if found else None, dx
