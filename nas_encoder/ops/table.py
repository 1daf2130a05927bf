"""The table of operations."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from nas_encoder.registry import Registry
from nas_encoder.tables import OPERATIONS as _TABLE


class OperationBuilder(Protocol):
    """Builds one operation on ``channels`` channels; ``affine`` applies to its batch norms."""

    def __call__(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """Build the module."""


OPERATIONS: Registry[OperationBuilder] = _TABLE


def build_operation(name: str, channels: int, stride: int, affine: bool = True) -> nn.Module:
    """Build one operation of the table.

    Args:
        name: Its name, for example ``"sep_conv_3x3"``.
        channels: C, of its input and of its output.
        stride: 1 or 2, in time and in frequency.
        affine: Whether its batch norms have a trainable scale and shift (True in evaluation
            networks, False in search, as in DARTS).

    Raises:
        RegistryError: No operation has that name.
    """
    return OPERATIONS[name](channels, stride, affine)
