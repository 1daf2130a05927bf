"""The torch operations that a cell is made of; their table is in :mod:`nas_encoder.tables`.

Every operation is an ``nn.Module`` built by ``OPERATIONS[name](channels, stride, affine)`` whose
``forward(x, mask)`` obeys one contract (tests/contract/test_operations.py checks every entry):

- ``x``: (B, C, T, F), zero in padding frames; ``mask``: (B, 1, T, 1), 1 for frames of the
  utterance and 0 for padding, or None if there is no padding.
- It returns (B, C, ceil(T / stride), ceil(F / stride)), again zero in padding frames; the valid
  frames do not depend on how many padding frames follow them.
- ``context``: how many input frames an output frame sees before and after the first of its own;
  the receptive field of a network is computed from this only.
- ``make_causal()``, if it sees further ahead than the ``stride`` frames of its own and need not:
  from then on it does not. Weights and shapes stay the same.
- ``step(chunk, cache)``, if it streams with a cache of its own: in evaluation mode, maps a
  :class:`~nas_encoder.ops.chunks.Chunk` (B, t, F, C), zero past the ends of utterances, to the
  frames that are complete, likewise zero there, and the next cache. The first cache is
  ``first_cache(empty)``, ``empty`` (B, 0, F, C). Networks with an operation that has none encode
  windows of their input again.

B batch, C channels, T frames, F frequency bins.
"""

from typing import Any, Protocol

from torch import nn

from nas_encoder.errors import ConfigError
from nas_encoder.ops.convolution import ConvPair7, DilatedConv, SeparableConv
from nas_encoder.ops.identity import FactorizedReduce, Identity, Zero, skip_connect
from nas_encoder.ops.pooling import AvgPool3, MaxPool3
from nas_encoder.registry import Registry
from nas_encoder.tables import OPERATIONS as _TABLE

__all__ = [
    "OPERATIONS",
    "AvgPool3",
    "ConvPair7",
    "DilatedConv",
    "FactorizedReduce",
    "Identity",
    "MaxPool3",
    "OperationBuilder",
    "SeparableConv",
    "Zero",
    "build_operation",
    "skip_connect",
]


class OperationBuilder(Protocol):
    """Builds one operation on ``channels`` channels; ``affine`` applies to its batch norms."""

    def __call__(self, channels: int, stride: int, affine: bool) -> nn.Module:
        """Build the module."""


OPERATIONS: Registry[OperationBuilder] = _TABLE


def build_operation(
    name: str, channels: int, stride: int, affine: bool = True, causal: bool = False
) -> nn.Module:
    """Build one operation of the table.

    Args:
        name: Its name, for example ``"sep_conv_3x3"``.
        channels: C, of its input and of its output.
        stride: 1 or 2, in time and in frequency.
        affine: Whether its batch norms have a trainable scale and shift (True in evaluation
            networks, False in search, as in DARTS).
        causal: Whether an output frame sees no frames after the ``stride`` ones of its own.

    Raises:
        RegistryError: No operation has that name.
        ConfigError: It cannot be causal.
    """
    operation: Any = OPERATIONS[name](channels, stride, affine)
    if causal and operation.context[1] >= stride:
        if not hasattr(operation, "make_causal"):
            ahead = operation.context[1] - stride + 1
            rule = f"'{name}' sees ahead of a frame's own frames by {ahead} and cannot be causal"
            raise ConfigError("operation", [f"op: {rule}, as it has no 'make_causal'"])
        operation.make_causal()
    return operation  # type: ignore[no-any-return]
