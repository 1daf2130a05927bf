"""Which part of the biggest module's weights a smaller one takes.

A slice is the first features of each axis (widths, hidden units, channels), in each of the groups
that an axis holds side by side (queries, keys, values; both halves of a gate), and of a kernel the
taps around its frame. W width, U hidden units, K taps, G groups.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from nas_encoder.spaces.blocks.attention import AttentionModule
from nas_encoder.spaces.blocks.front import Convolutions1d, Convolutions2d
from nas_encoder.spaces.blocks.modules import (
    ConvolutionModule,
    DepthwiseOverTime,
    GatedMlpModule,
    MemoryModule,
    ParallelModule,
)


@dataclass(frozen=True)
class Slice:
    """The part of a parameter that a smaller one of a shape is.

    Attributes:
        shape: Of the part.
        groups: Groups of equal size along the first axis and along the second.
        taps: First tap of the part along the last axis; None where that is no kernel.
        flat: Whether the features are those of all heads, (heads, features of a head).
    """

    shape: tuple[int, ...]
    groups: tuple[int, int] = (1, 1)
    taps: int | None = None
    flat: bool = False

    def of(self, whole: Tensor) -> Tensor:
        """Return the part of a contiguous parameter: a view, but for groups that are not whole."""
        shape = self.shape
        if tuple(whole.shape) == shape:
            return whole
        if self.flat:
            return whole.flatten()[: shape[0] * shape[1]].view(shape)
        for axis, groups in enumerate(self.groups[: whole.dim()]):
            whole = _first(whole, axis, shape[axis], groups)
        if self.taps is not None:
            whole = whole[..., self.taps : self.taps + shape[-1]]
        return whole


def _first(whole: Tensor, axis: int, size: int, groups: int) -> Tensor:
    """Return the first features of each group, ``size`` in all."""
    if whole.size(axis) == size:
        return whole
    if groups == 1:
        return whole.narrow(axis, 0, size)
    parts = whole.view(*whole.shape[:axis], groups, -1, *whole.shape[axis + 1 :])
    return parts.narrow(axis + 1, 0, size // groups).flatten(axis, axis + 1)


def slices(small: nn.Module, big: nn.Module) -> Mapping[str, Slice]:
    """Return the slice of each parameter of a module, in that of the biggest of its kind."""
    owners = dict(small.named_modules())
    found = {}
    for name, parameter in small.named_parameters():
        path, _, own = name.rpartition(".")
        found[name] = _slice(parameter, own, path, owners, big.get_submodule(path))
    return found


def _slice(
    parameter: Tensor, name: str, path: str, owners: Mapping[str, nn.Module], big: nn.Module
) -> Slice:
    shape = tuple(parameter.shape)
    owner = owners[path]
    if isinstance(owner, AttentionModule):
        return Slice(shape, flat=True)  # the biases of heads
    if isinstance(owner, MemoryModule) and isinstance(big, MemoryModule):
        return Slice(shape, taps=big.back - owner.back)
    above, _, role = path.rpartition(".")
    parent = owners.get(above)
    groups = _groups(parent, role) if parent is not None and path else (1, 1)
    taps = None
    if isinstance(owner, DepthwiseOverTime) and isinstance(big, DepthwiseOverTime):
        taps = big.back - owner.back if name == "weight" else None
    if role.isdigit() and isinstance(owners.get(above.rpartition(".")[0]), Convolutions1d):
        groups = (1, 3)  # frames side by side
    return Slice(shape, groups, taps)


def _groups(parent: nn.Module, role: str) -> tuple[int, int]:
    """Return the groups of a layer's rows and columns, by its role in the module above it."""
    if isinstance(parent, AttentionModule) and role == "inputs":
        return 3, 1
    if isinstance(parent, ConvolutionModule) and role == "expand" and parent.gated:
        return 2, 1
    if isinstance(parent, GatedMlpModule) and role == "expand":
        return 2, 1
    if isinstance(parent, ParallelModule) and role in ("merge", "project"):
        return (2, 1) if role == "merge" else (1, 2)
    if isinstance(parent, Convolutions2d) and role == "output":
        first: Any = parent.convolutions[0]
        return 1, parent.output.in_features // int(first.out_channels)
    return 1, 1
