"""An edge of the supernet: the weighted sum of its operations."""

from __future__ import annotations

from collections.abc import Container, Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.ops import build_operation
from nas_encoder.ops.masking import strided
from nas_encoder.ops.norm import MaskedBatchNorm2d

NONE = "none"


class MixedOperation(nn.Module):
    """All operations that are alive on one edge (Liu et al. 2019, equation 2).

    Batch norms have no scale and shift, and one follows each pooling, as in DARTS: otherwise
    an operation could raise its share by its scale. ``none`` adds nothing and is not computed.

    Args:
        operations: Names, in the order of the weights.
        channels: C.
        stride: 1 or 2.
        regularized: Operations behind which dropout stands.
    """

    def __init__(
        self, operations: Sequence[str], channels: int, stride: int, regularized: Container[str]
    ) -> None:
        super().__init__()
        self.stride = stride
        self.places = [place for place, op in enumerate(operations) if op != NONE]
        names = [operations[place] for place in self.places]
        self.dropped = [op in regularized for op in names]
        self.operations = nn.ModuleList(
            build_operation(op, channels, stride, affine=False) for op in names
        )
        self.pool_norms = nn.ModuleDict(
            {
                str(index): MaskedBatchNorm2d(channels, affine=False)
                for index, op in enumerate(names)
                if "pool" in op
            }
        )

    def forward(
        self, x: Tensor, mask: Tensor | None, weights: Tensor, dropout: float
    ) -> Tensor | None:
        """Return sum_o weights[o] o(x), (B, C, ceil(T/s), ceil(F/s)), or None where it is zero.

        Args:
            x: (B, C, T, F), zero in padding frames.
            mask: (B, 1, T, 1) or None.
            weights: (n,), one for each operation, ``none`` included.
            dropout: Probability behind the regularized operations, in training.
        """
        total: Tensor | None = None
        for index, (place, operation) in enumerate(zip(self.places, self.operations, strict=True)):
            value = operation(x, mask)
            if str(index) in self.pool_norms:
                value = self.pool_norms[str(index)](value, strided(mask, self.stride))
            if self.dropped[index] and dropout > 0:
                value = F.dropout(value, dropout, self.training)
            value = value * weights[place]
            total = value if total is None else total + value
        return total
