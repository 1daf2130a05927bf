"""The table of operations."""

from __future__ import annotations

from functools import partial
from typing import Protocol

from torch import nn

from nas_encoder.ops.convolution import ConvPair7, DilatedConv, SeparableConv
from nas_encoder.ops.identity import Zero, skip_connect
from nas_encoder.ops.pooling import AvgPool3, MaxPool3
from nas_encoder.registry import Registry


class OperationBuilder(Protocol):
    """Builds one operation on ``channels`` channels; ``affine`` is for its batch norms."""

    def __call__(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """Build the module."""


OPERATIONS: Registry[OperationBuilder] = Registry("operation")
OPERATIONS.add("none", Zero.build)
OPERATIONS.add("max_pool_3x3", MaxPool3.build)
OPERATIONS.add("avg_pool_3x3", AvgPool3.build)
OPERATIONS.add("skip_connect", skip_connect)
OPERATIONS.add("sep_conv_3x3", partial(SeparableConv, 3))
OPERATIONS.add("sep_conv_5x5", partial(SeparableConv, 5))
OPERATIONS.add("dil_conv_3x3", partial(DilatedConv, 3))
OPERATIONS.add("dil_conv_5x5", partial(DilatedConv, 5))
OPERATIONS.add("conv_7x1_1x7", ConvPair7)


def build_operation(name: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """Build one operation of the table.

    Args:
        name: Its name, for example ``"sep_conv_3x3"``.
        channels: C, of its input and of its output.
        stride: 1 or 2, in time and in frequency.
        affine: Whether its batch norms have a trainable scale and shift (evaluation networks:
            yes; search: no, as in DARTS).

    Raises:
        RegistryError: There is no operation of that name.
    """
    return OPERATIONS[name](channels, stride, affine)
