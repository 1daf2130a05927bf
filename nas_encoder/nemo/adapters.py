"""NeMo's adapters in our networks: one after every cell or block."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any

from nemo.collections.asr.parts.utils import adapter_utils
from nemo.core.classes.mixins import adapter_mixins
from torch import Tensor, nn

from nas_encoder.network.tapped import TappedEncoder
from nas_encoder.ops.chunks import Chunk
from nas_encoder.ops.masking import apply_mask

POINTS = "adapter_points"


class AdapterPoint(nn.Module, adapter_mixins.AdapterModuleMixin):
    """The adapters after one cell or block; a forward hook there calls :meth:`after`.

    Adapters treat each frame alone, so streams have them without caches: :meth:`after_step`.

    Its only parameters are those of the adapters, so a network without adapters has the same
    state as outside NeMo.

    Args:
        width: C, features of the adapters' input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.mixin.set_accepted_adapter_types([adapter_utils.LINEAR_ADAPTER_CLASSPATH])

    @property
    def mixin(self) -> Any:
        """The point as NeMo's adapter module, which is untyped."""
        return self

    def add(self, name: str, cfg: Any) -> None:
        """Add an adapter whose input has this point's width."""
        own = copy.deepcopy(cfg)  # widths differ, and the model keeps the user's config
        self.mixin.add_adapter(
            name, adapter_utils.update_adapter_cfg_input_dim(self, own, module_dim=self.width)
        )

    def after(self, _module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        """Run the enabled adapters on a cell's State or on a block's (B, T, C)."""
        if isinstance(output, tuple):  # a feature map and its mask
            image, mask = output
            image = self.mixin.forward_enabled_adapters(image.permute(0, 2, 3, 1))  # (B, T, F, C)
            state: Any = type(output)
            return state(apply_mask(image.permute(0, 3, 1, 2), mask), mask)
        adapted: Tensor = self.mixin.forward_enabled_adapters(output)
        mask = inputs[1]
        # The layers of a chain, whose mask is (B, T, 1) with 1 in valid frames, rely on zeros in
        # padding frames. Other blocks, which get (B, T) or more than a mask, mask their inputs.
        if isinstance(mask, Tensor) and mask.dim() == 3:
            return adapted * mask.to(adapted.dtype)
        return adapted

    def after_step(self, step: Any, *inputs: Any) -> tuple[Chunk, Any]:
        """Run the enabled adapters on what a cell's or block's step gives, (B, t, C), (B, t, F, C).

        Args:
            step: The module's own.
            *inputs: Its arguments.
        """
        chunk, kept = step(*inputs)
        adapted = chunk.holding(self.mixin.forward_enabled_adapters(chunk.x))
        return (adapted.holding(adapted.cleared()) if chunk.x.dim() == 4 else adapted), kept


def add_points(network: nn.Module) -> nn.ModuleDict:
    """Add an adapter point after every cell or block of a network.

    Returns:
        The points by the name of the module that they follow, without dots, which a
        ``ModuleDict`` does not allow in keys.
    """
    points = nn.ModuleDict()
    for name, module, width in adaptable(network):
        points[name] = point = AdapterPoint(width)
        # A bound method: copying the network copies the point with it.
        module.register_forward_hook(point.after)
        if hasattr(module, "step"):
            module.step = partial(point.after_step, module.step)  # type: ignore[assignment]
    return points


def in_streams(network: Any) -> bool:
    """Whether streams have the adapters: if they run steps, or windows again, of what has them."""
    if type(network).stream is TappedEncoder.stream:
        return True
    return all(hasattr(module, "step") for _, module, _ in adaptable(network))


def adaptable(network: Any) -> list[tuple[str, nn.Module, int]]:
    """Return (name, module, output width) of the parts that an adapter can follow."""
    if hasattr(network, "cells"):
        return [(f"cell{name}", cell, cell.output_channels) for name, cell in network.cells.items()]
    return [
        (f"block{number}", block, getattr(block, "output_channels", network.output_size))
        for number, block in enumerate(network.blocks)
    ]
