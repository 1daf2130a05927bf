"""The end of the network: fully connected layers on each frame's flattened feature map."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.spaces.cells.cell import State
from nas_encoder.spaces.cells.config import CellConfig


class Head(nn.Module):
    """Flatten channels and frequency, then linear layers with ReLU (He et al. 2020, figure 1).

    Args:
        channels: C, channels of the last cell's output.
        config: ``hidden_sizes``, ``output_size`` and ``dropout``.
    """

    def __init__(self, channels: int, config: CellConfig) -> None:
        super().__init__()
        size = channels * output_bins(config)
        # No modules: weight names must not depend on dropout, so that a model can be trained
        # further with a different one.
        self.dropout = config.dropout
        layers: list[nn.Module] = []
        for width in (*config.hidden_sizes, config.output_size):
            layers += [nn.Linear(size, width), nn.ReLU()]
            size = width
        self.layers = nn.Sequential(*layers)

    def forward(self, state: State) -> Tensor:
        """Map (B, C, T, F) to (B, T, D), zero in padding frames."""
        x = state.value.permute(0, 2, 1, 3).flatten(2)  # (B, T, C * F)
        for layer in self.layers:
            if self.dropout and isinstance(layer, nn.Linear):
                x = F.dropout(x, self.dropout, self.training)
            x = layer(x)
        return x if state.mask is None else x * state.mask[:, 0].to(x.dtype)


def output_bins(config: CellConfig) -> int:
    """Return the frequency bins that remain after the stem and two reductions."""
    bins = config.input_size
    for stride in (config.stem_stride[1], 2, 2):
        bins = -(-bins // stride)
    return bins
