"""The torch operations that a cell is made of; their table is in :mod:`nas_encoder.tables`.

Every operation is an ``nn.Module`` built by ``OPERATIONS[name](channels, stride, affine)`` whose
``forward(x, mask)`` obeys one contract (tests/contract/test_operations.py checks every entry):

- ``x``: (B, C, T, F), zero in padding frames; ``mask``: (B, 1, T, 1), 1 for frames of the
  utterance and 0 for padding, or None if there is no padding.
- It returns (B, C, ceil(T / stride), ceil(F / stride)), again zero in padding frames; the valid
  frames do not depend on how many padding frames follow them.
- ``context``: how many input frames an output frame sees before and after the first of its own;
  the receptive field of a network is computed from this only.

B batch, C channels, T frames, F frequency bins.
"""

from nas_encoder.ops.convolution import ConvPair7, DilatedConv, SeparableConv
from nas_encoder.ops.identity import FactorizedReduce, Identity, Zero, skip_connect
from nas_encoder.ops.pooling import AvgPool3, MaxPool3
from nas_encoder.ops.table import OPERATIONS, build_operation

__all__ = [
    "OPERATIONS",
    "AvgPool3",
    "ConvPair7",
    "DilatedConv",
    "FactorizedReduce",
    "Identity",
    "MaxPool3",
    "SeparableConv",
    "Zero",
    "build_operation",
    "skip_connect",
]
