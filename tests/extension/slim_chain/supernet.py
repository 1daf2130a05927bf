"""All networks at once: each block holds its candidates at full width, and widths are masks.

A network's block of a smaller width computes the first of these channels (Wan et al. 2020,
FBNetV2, arXiv 2004.05565), so that with certain choices the supernet is that network.
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from nas_encoder.common.choices import Candidates
from nas_encoder.network.choices.mixing import choose
from nas_encoder.network.choices.straight_through import Paths
from nas_encoder.network.tapped import Taps
from slim_chain.network import Block, Row, fit
from slim_chain.space import BLOCKS, CHANNELS, WIDTHS, SlimChainSpace, SlimOptions


class SlimSupernet(Row):
    """The encoder that a gradient search trains."""

    takes_choices = True

    def __init__(self, candidates: Candidates, options: SlimOptions) -> None:
        super().__init__(options)
        full = WIDTHS[-1]
        self.blocks = nn.ModuleList(
            nn.ModuleList(Block(op, full, full) for op in own) for own in candidates[BLOCKS]
        )
        self.widths = [[int(width) for width in own] for own in candidates[CHANNELS]]

    def encode(
        self,
        x: Tensor,
        lengths: Tensor | None,
        taps: Taps,
        weights: Mapping[str, Tensor | Paths],
        dropout: float = 0.0,
    ) -> Tensor:
        """Return (B, ceil(T / S), D)."""
        x, mask = self.stacked(x, lengths)
        zeros = partial(torch.zeros_like, x)
        for place, (block, widths) in enumerate(zip(self.blocks, self.widths, strict=True)):
            assert isinstance(block, nn.ModuleList)
            y = choose(weights[BLOCKS], place, partial(_run, block, x, mask), zeros)
            assert y is not None
            slim = choose(weights[CHANNELS], place, partial(_slim, y, widths), zeros)
            assert slim is not None
            x = F.dropout(slim, dropout, self.training)
        return self.output(x, mask)


def _run(block: nn.ModuleList, x: Tensor, mask: Tensor | None, candidate: int) -> Tensor:
    y: Tensor = block[candidate](x, mask)
    return y


def _slim(x: Tensor, widths: list[int], candidate: int) -> Tensor:
    return fit(x[..., : widths[candidate]], x.size(-1))


def build(
    space: SlimChainSpace,
    candidates: Candidates,
    options: SlimOptions,
    regularized: Container[str],
    sampled: bool,
) -> SlimSupernet:
    """Build the supernet, which mixtures and paths share."""
    return SlimSupernet(candidates, options)
