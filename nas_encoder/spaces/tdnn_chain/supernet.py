"""The supernet of the chain spaces: every block holds all its candidate layers.

B batch, T frames, F frequency bins, D output features, E blocks, n operations of a block.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial

import torch
from torch import Tensor, nn

from nas_encoder.common.choices import Candidates
from nas_encoder.network.choices.mixing import choose
from nas_encoder.network.choices.straight_through import Paths
from nas_encoder.network.tapped import Taps
from nas_encoder.spaces.tdnn_chain.network import Chain, build_tdnn
from nas_encoder.spaces.tdnn_chain.space import BLOCKS, ChainConfig, ChainSpace


class ChainSupernet(Chain):
    """The encoder that a gradient search trains in a chain space."""

    def __init__(self, candidates: Candidates, config: ChainConfig) -> None:
        super().__init__(
            config,
            candidates[BLOCKS],
            lambda names, width: nn.ModuleList(
                build_tdnn(name, width, config.channels) for name in names
            ),
        )

    takes_choices = True

    def encode(
        self,
        x: Tensor,
        lengths: Tensor | None,
        taps: Taps,
        weights: Mapping[str, Tensor | Paths],
        dropout: float = 0.0,
    ) -> Tensor:
        """Return (B, ceil(T / 3), D).

        ``weights`` are for the kind ``blocks`` the weights (E, n) of a mixture (Liu et al. 2019,
        equation 2), or the sampled paths; ``dropout`` is its probability after every layer, in
        training. ``taps`` is ignored.
        """

        def run(number: int, block: nn.Module, x: Tensor, mask: Tensor | None) -> Tensor:
            assert isinstance(block, nn.ModuleList)
            layer = partial(_layer, block, x, mask, dropout)
            chosen = choose(weights[BLOCKS], number - 1, layer, partial(torch.zeros_like, x))
            assert chosen is not None
            return chosen

        return self.through_blocks(x, lengths, dropout, run)


def build(
    space: ChainSpace,
    candidates: Candidates,
    config: ChainConfig,
    regularized: Container[str],
    sampled: bool,
) -> ChainSupernet:
    """Build the supernet, the same for mixtures and paths; dropout follows every layer."""
    return ChainSupernet(candidates, config)


def _layer(
    block: nn.ModuleList, x: Tensor, mask: Tensor | None, dropout: float, place: int
) -> Tensor:
    y: Tensor = block[place](x, mask, dropout)
    return y
