"""The network of NAS-Bench-ASR written plainly, channels before time, as the public code has it.

It knows no padding and no skipped work: it is what the network of the package is compared with
(tests/parity/test_nasbench_parity.py) and timed against (benchmarks/nasbench_asr.py). The public
code clips its ReLUs in place, which PyTorch's autograd refuses today; here that is not in place.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

KERNELS = {1: (5, 1), 2: (5, 2), 3: (7, 1), 4: (7, 2)}  # operation's number -> kernel, dilation


class PaddedConvolution(nn.Module):
    """Zeros on both sides, convolution, ReLU, clip, dropout; (B, C', T) to (B, C, T')."""

    def __init__(
        self,
        inputs: int,
        filters: int,
        kernel: int,
        dilation: int,
        stride: int,
        groups: int,
        dropout: float,
    ) -> None:
        super().__init__()
        room = kernel * dilation - stride
        if 4 // stride >= room:
            sides = (0, room)
        else:
            sides = ((kernel - 1) * dilation - 4 // stride, 4 // stride)
        self.pad = nn.ConstantPad1d(sides, 0.0)
        self.conv = nn.Conv1d(
            inputs, filters, kernel, stride=stride, dilation=dilation, groups=groups
        )
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C', T) to (B, C, T')."""
        y: Tensor = self.dropout(torch.clamp(self.relu(self.conv(self.pad(x))), max=20))
        return y


class FrameLinear(nn.Module):
    """Fully connected layer on each frame, ReLU, clip, dropout; (B, C, T) to (B, C, T)."""

    def __init__(self, filters: int, dropout: float) -> None:
        super().__init__()
        self.linear = nn.Linear(filters, filters)
        self.relu = nn.ReLU()
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        y = torch.clamp(self.relu(self.linear(x.permute(0, 2, 1))), max=20)
        return self.dropout(y).permute(0, 2, 1)  # type: ignore[no-any-return]


class Zero(nn.Module):
    """Zeros."""

    def forward(self, x: Tensor) -> Tensor:
        """Return zeros of the same shape."""
        return torch.zeros_like(x)


class FrameNorm(nn.Module):
    """Layer norm over the channels of (B, C, T)."""

    def __init__(self, filters: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(filters, eps=0.001)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        y: Tensor = self.norm(x.permute(0, 2, 1)).permute(0, 2, 1)
        return y


class PlainCell(nn.Module):
    """Nodes in a row: each an operation on the last output plus every branch."""

    def __init__(
        self, vector: Sequence[Sequence[int]], filters: int, groups: int, dropout: float
    ) -> None:
        super().__init__()
        self.vector = vector
        self.ops = nn.ModuleList()
        self.branches = nn.ModuleList()
        for op, *bits in vector:
            if op == 0:
                self.ops.append(FrameLinear(filters, dropout))
            elif op in KERNELS:
                kernel, dilation = KERNELS[op]
                self.ops.append(
                    PaddedConvolution(filters, filters, kernel, dilation, 1, groups, dropout)
                )
            else:
                self.ops.append(Zero())
            self.branches.append(nn.ModuleList(nn.Identity() if bit else Zero() for bit in bits))
        self.norm = FrameNorm(filters)

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, C, T) to (B, C, T)."""
        outputs = [x]
        for op, branches in zip(self.ops, self.branches, strict=True):
            terms = [op(outputs[-1])]
            assert isinstance(branches, nn.ModuleList)
            terms += [branch(y) for branch, y in zip(branches, outputs, strict=True)]
            outputs.append(sum(terms))
        result: Tensor = self.norm(outputs[-1])
        return result


class PlainNasBench(nn.Module):
    """The whole model: (B, F, T) to (B, T', classes + 1), or to (B, T', D) without classes."""

    def __init__(
        self,
        vector: Sequence[Sequence[int]],
        features: int = 80,
        filters: Sequence[int] = (600, 800, 1000, 1200),
        cells: Sequence[int] = (3, 4, 5, 6),
        groups: int = 100,
        lstm: int = 500,
        classes: int | None = 48,
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.starts = nn.ModuleList()
        self.norms = nn.ModuleList()
        self.cells = nn.ModuleList()
        before = features
        for width, stride, count in zip(filters, (1, 1, 2, 2), cells, strict=True):
            self.starts.append(PaddedConvolution(before, width, 8, 1, stride, 1, 0.0))
            self.norms.append(FrameNorm(width))
            self.cells.append(
                nn.ModuleList(PlainCell(vector, width, groups, dropout) for _ in range(count))
            )
            before = width
        self.dropout = nn.Dropout(dropout)
        self.lstm = nn.LSTM(before, lstm, batch_first=True) if lstm else None
        before = lstm or before
        self.classes = nn.Linear(before, classes + 1) if classes else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, F, T) to (B, T', classes + 1)."""
        for start, norm, cells in zip(self.starts, self.norms, self.cells, strict=True):
            x = norm(start(x))
            assert isinstance(cells, nn.ModuleList)
            for cell in cells:
                x = cell(x)
        x = x.permute(0, 2, 1)
        if self.lstm is not None:
            x, _ = self.lstm(self.dropout(x))
        y: Tensor = self.classes(x)
        return y


def copy_weights(plain: PlainNasBench, encoder: nn.Module) -> None:
    """Give the plain model the weights of an encoder of the package."""

    def copy(target: nn.Module, source: nn.Module) -> None:
        target.load_state_dict(source.state_dict())

    cells = iter(encoder.cells.values())  # type: ignore[operator, union-attr]
    for number, (start, norm) in enumerate(zip(plain.starts, plain.norms, strict=True)):
        copy(start.conv, encoder.starts[number].conv)  # type: ignore[arg-type, index, union-attr]
        copy(norm.norm, encoder.starts[number].norm)  # type: ignore[arg-type, index, union-attr]
        for target in plain.cells[number]:  # type: ignore[union-attr]
            source = next(cells)
            copy(target.norm.norm, source.norm)
            for place, op in enumerate(target.ops, 1):
                if not isinstance(op, Zero):
                    inner = op.linear if isinstance(op, FrameLinear) else op.conv
                    copy(inner, source.operations[str(place)])
    if plain.lstm is not None:
        copy(plain.lstm, encoder.lstm)  # type: ignore[arg-type]
