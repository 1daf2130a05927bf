"""The supernet of the chain spaces: every block holds all its candidate layers.

B batch, T frames, F frequency bins, V tokens (blank included), E blocks, n operations of a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from nas_encoder.network.choices.mixing import choose
from nas_encoder.network.choices.parameters import BLOCKS, Alive
from nas_encoder.network.choices.straight_through import Paths
from nas_encoder.network.ctc import log_probabilities
from nas_encoder.network.inputs import check_inputs
from nas_encoder.ops.masking import reduced_lengths
from nas_encoder.spaces.tdnn_chain.config import SUBSAMPLE_AFTER, SUBSAMPLING, ChainConfig
from nas_encoder.spaces.tdnn_chain.network import TDNNLayer, build_tdnn, chain_features


class ChainSupernet(nn.Module):
    """The network that a gradient search trains in a chain space, with a CTC output.

    Args:
        alive: Operations of each block.
        config: As for an evaluation network.
        vocabulary: V.
    """

    def __init__(self, alive: Alive, config: ChainConfig, vocabulary: int) -> None:
        super().__init__()
        self.config = config
        self.subsampling_factor = config.subsampling_factor
        width = config.input_size * (3 if config.deltas else 1)
        self.blocks = nn.ModuleList()
        for operations in alive[BLOCKS]:
            self.blocks.append(
                nn.ModuleList(build_tdnn(name, width, config.channels) for name in operations)
            )
            width = config.channels
        self.subsample_after = min(SUBSAMPLE_AFTER, len(self.blocks))
        self.subsample = TDNNLayer(width, width, 1, 1, SUBSAMPLING)
        self.head = (
            nn.Sequential(nn.Linear(width, config.output_size), nn.ReLU())
            if config.output_size != width
            else nn.Identity()
        )
        self.classifier = nn.Linear(config.output_size, vocabulary)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        weights: Mapping[str, Tensor] | Mapping[str, Paths],
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / 3), V) and lengths (B,).

        Args:
            x: (B, T, F) features.
            lengths: (B,) valid frames.
            weights: For the kind ``blocks`` (E, n) weights of a mixture (Liu et al. 2019,
                equation 2), or the paths that are drawn.
            dropout: Probability behind every layer, in training.

        Raises:
            InputError: See :func:`~nas_encoder.network.inputs.check_inputs`.
        """
        padded = check_inputs(x, lengths, self.config.input_size, self.subsampling_factor)
        x, mask = chain_features(x, lengths if padded else None, self.config.deltas)
        for index, block in enumerate(self.blocks):
            assert isinstance(block, nn.ModuleList)
            run = partial(_layer, block, x, mask, dropout)
            chosen = choose(weights[BLOCKS], index, run, partial(torch.zeros_like, x))
            assert chosen is not None
            x = chosen
            if index + 1 == self.subsample_after:
                x = self.subsample(x, mask, dropout)
                mask = None if mask is None else mask[:, ::SUBSAMPLING]
        hidden: Tensor = self.head(x)  # (B, T', D)
        hidden = hidden if mask is None else hidden * mask.to(hidden.dtype)
        logits: Tensor = self.classifier(hidden)  # (B, T', V)
        return log_probabilities(logits), reduced_lengths(lengths, self.subsampling_factor)


def _layer(
    block: nn.ModuleList, x: Tensor, mask: Tensor | None, dropout: float, place: int
) -> Tensor:
    y: Tensor = block[place](x, mask, dropout)
    return y
