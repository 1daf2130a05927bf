"""The network that a search derives, trained from scratch as the search's last stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from nas_encoder.genotype import Genotype
from nas_encoder.network import build_encoder
from nas_encoder.network.chain_config import ChainConfig
from nas_encoder.network.config import EncoderConfig


class DerivedNetwork(nn.Module):
    """An evaluation network with a CTC output; it has no choices left.

    Args:
        genotype: Of its encoder.
        config: Of its encoder.
        vocabulary: V, tokens with the blank.
    """

    def __init__(
        self, genotype: Genotype, config: EncoderConfig | ChainConfig, vocabulary: int
    ) -> None:
        super().__init__()
        self.encoder = build_encoder(genotype, **asdict(config))
        self.classifier = nn.Linear(config.output_size, vocabulary)

    def forward(
        self,
        x: Tensor,
        lengths: Tensor,
        weights: Mapping[str, Any] | None = None,
        dropout: float = 0.0,
    ) -> tuple[Tensor, Tensor]:
        """Return log-probabilities (B, ceil(T / S), V) and lengths (B,).

        Args:
            x: (B, T, F) features.
            lengths: (B,) valid frames.
            weights: Plays no part, nor does ``dropout``: the encoder has its own.
            dropout: See there.
        """
        hidden, output_lengths = self.encoder(x, lengths)
        logits: Tensor = self.classifier(hidden)
        wide = torch.promote_types(logits.dtype, torch.float32)
        return F.log_softmax(logits, dim=-1, dtype=wide), output_lengths
